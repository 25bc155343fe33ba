"""Reconstruct a volume from a scan file with one call: the library interface that `udig recon` uses too.

from udig_recon.core import open_scan, reconstruct_volume

with open_scan("scan.h5") as scan:
volume = reconstruct_volume(scan, {"method": "udig_dip", "preset": "preview"}, seed=0)
print(volume.images.shape, volume.slices[0].rating)
volume.save("reconstruction.nii.gz")
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray

from udig_recon.core.acquisition import ScanHeader, slice_number_range
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError, UnsupportedScan
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.formats.sandbox.local import open_scan
from udig_recon.core.iterates import State
from udig_recon.core.parameters import MAX_SEEDS, Parameters, complete, parse, require, require_random
from udig_recon.core.priors.card import card_of
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import Checkpoint, Event, Finished, reconstruct_slice
from udig_recon.core.results.output_format import ResultInfo, scan_attributes
from udig_recon.core.results.outputs import output_for, write_result
from udig_recon.core.results.store import SliceResult
from udig_recon.core.slice_order import WarmStart, processing_order, reference_slices

__all__ = ["Volume", "open_scan", "reconstruct_volume"]

OnEvent = Callable[[int, Event], None]
"""Takes the number of a slice and an event of its run."""


class SliceStore(Protocol):
    """Keeps the finished slices of a volume by their numbers, and the state of the one that is running."""

    def read(self, number: int) -> SliceResult | None:
        """The slice; None: it is not finished."""
        ...

    def write(self, number: int, result: SliceResult) -> None:
        """Keep a finished slice."""
        ...

    def load_state(self, number: int, device: torch.device) -> State | None:
        """The state that the run of this slice continues from; None: it begins."""
        ...

    def offer_state(self, number: int, checkpoint: Checkpoint) -> None:
        """Take note of a point that the run of this slice can continue from."""
        ...


class SlicesInMemory:
    """Keeps finished slices in memory, and no states."""

    def __init__(self) -> None:
        self._results: dict[int, SliceResult] = {}

    def read(self, number: int) -> SliceResult | None:
        """The slice; None: it is not finished."""
        return self._results.get(number)

    def write(self, number: int, result: SliceResult) -> None:
        """Keep a finished slice."""
        self._results[number] = result

    def load_state(self, number: int, device: torch.device) -> State | None:  # noqa: ARG002
        """None: no run continues here."""
        return None

    def offer_state(self, number: int, checkpoint: Checkpoint) -> None:
        """Leave the state unmade."""


class StoredSlices(Sequence[SliceResult]):
    """The finished slices of these numbers, each read from its store when it is asked for."""

    def __init__(self, store: SliceStore, numbers: Sequence[int]) -> None:
        self._store, self._numbers = store, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> SliceResult: ...

    @overload
    def __getitem__(self, index: slice) -> list[SliceResult]: ...

    def __getitem__(self, index: int | slice) -> SliceResult | list[SliceResult]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        result = self._store.read(self._numbers[index])
        if result is None:
            raise DamagedFile(f"slice {self._numbers[index]} was finished and is no longer kept")
        return result


@dataclass(frozen=True, eq=False)
class Volume:
    """A reconstructed volume: the result of each slice, and what a result file says of all."""

    slices: Sequence[SliceResult]
    info: ResultInfo

    @property
    def images(self) -> NDArray[np.float32]:
        """Magnitudes in the scan's units (MRI) or attenuation in 1/mm (CT), (slices, y, x) float32."""
        return np.stack([each.image for each in self.slices])

    def save(self, path: Path | str) -> None:
        """Write the volume; the suffix gives the format. Raises ReconstructionError for an unknown suffix, OSError."""
        write_result(self.slices, self.info, {Path(path): output_for(Path(path).name)})


def reconstruct_volume(
    scan: PreparedScan,
    method: Parameters | Mapping[str, Any],
    *,
    slices: Sequence[int] | None = None,
    seed: int = 0,
    seeds: int = 1,
    device: str = "auto",
    priors: Path | None = None,
    on_event: OnEvent | None = None,
    store: SliceStore | None = None,
) -> Volume:
    """Reconstruct the slices of a scan, all by default, in the order given.

    `method` holds parameters, or their JSON form such as `{"method": "tv"}`; what is not given comes from the
    defaults for the modality. Several `seeds` give a mean and a standard deviation. `priors` is a folder of priors
    beside the bundled ones. `on_event` takes each event of `reconstruct_slice`. `store` keeps the slices, in memory
    unless it is another one: a slice that it has is not computed again, and one that was interrupted continues.

    Raises pydantic.ValidationError for wrong parameters, UnsupportedScan where the method does not fit the scan,
    MissingPrior, and ReconstructionError for a device that is not there.
    """
    header = scan.header
    parameters = complete(parse(dict(method)) if isinstance(method, Mapping) else method, header.modality)
    require(parameters, header.images)
    if not 1 <= seeds <= MAX_SEEDS:
        raise UnsupportedScan.at("seeds", str(seeds), f"1 to {MAX_SEEDS}")
    require_random(parameters, seeds)
    numbers = slice_numbers(slices, header)
    torch_device = select_device(device)
    references = reference_slices(numbers, parameters, header.frames)
    kept = SlicesInMemory() if store is None else store
    for number in processing_order(numbers, references):
        if kept.read(number) is not None:
            continue
        problem = slice_problem(
            scan.read([number]),
            0,
            torch_device,
            fit_maps=parameters.fits_maps,
            preprocessing=parameters.preprocessing,
        )
        events = reconstruct_slice(
            problem,
            parameters,
            seed=seed,
            seeds=seeds,
            priors=priors,
            state=kept.load_state(number, torch_device),
            warm_start=_warm_start(kept, references.get(number)),
        )
        for event in events:
            match event:
                case Checkpoint():
                    kept.offer_state(number, event)
                case Finished():
                    kept.write(number, event.result)
            if on_event is not None:
                on_event(number, event)
    attributes = {
        "parameters": parameters.model_dump_json(),
        "seed": seed,
        "seeds": seeds,
        "slice_numbers": numbers,
        "scan_sha256": scan.source_sha256,
        **scan_attributes(asdict(header), numbers),
        "torch": str(torch.__version__),
        "device": str(torch_device),
    }
    if (card := card_of(parameters, header.modality, priors)) is not None:
        attributes |= {"prior": card.name, "prior_sha256": card.sha256}
    return Volume(StoredSlices(kept, numbers), ResultInfo(len(numbers), attributes))


def _warm_start(kept: SliceStore, reference: int | None) -> WarmStart | None:
    """What the finished reference slice has found out of the scan."""
    if reference is None or (result := kept.read(reference)) is None or result.prior_check is None:
        return None
    return WarmStart.from_check(reference, result.prior_check.as_json())


def slice_numbers(wanted: Sequence[int] | None, header: ScanHeader) -> list[int]:
    """The wanted slices, or all of a scan. Raises ReconstructionError for a number that the scan does not have."""
    if not wanted:
        return list(range(header.slices))
    for number in wanted:
        if not 0 <= number < header.slices:
            expected = slice_number_range(header.slices, header.frames)
            raise ReconstructionError.at("slices", str(number), expected)
    return list(wanted)

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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from udig_recon.core.acquisition import ScanHeader, slice_number_range
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError, UnsupportedScan
from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.formats.sandbox.local import open_scan
from udig_recon.core.parameters import MAX_SEEDS, Parameters, complete, parse, require, require_random
from udig_recon.core.priors.card import card_of
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import Event, Finished, reconstruct_slice
from udig_recon.core.results.output_format import ResultInfo, scan_attributes
from udig_recon.core.results.outputs import output_for, write_result
from udig_recon.core.results.store import SliceResult
from udig_recon.core.slice_order import WarmStart, processing_order, reference_slices

__all__ = ["Volume", "open_scan", "reconstruct_volume"]

OnEvent = Callable[[int, Event], None]
"""Takes the number of a slice and an event of its run."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A reconstructed volume: the result of each slice, and what a result file says of all."""

    slices: tuple[SliceResult, ...]
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
) -> Volume:
    """Reconstruct the slices of a scan, all by default, in the order given.

    `method` holds parameters, or their JSON form such as `{"method": "tv"}`; what is not given comes from the
    defaults for the modality. Several `seeds` give a mean and a standard deviation. `priors` is a folder of priors
    beside the bundled ones. `on_event` takes each event of `reconstruct_slice`.

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
    results: dict[int, SliceResult] = {}
    for number in processing_order(numbers, references):
        warm_start = None
        if number in references and (check := results[references[number]].prior_check) is not None:
            warm_start = WarmStart.from_check(references[number], check.as_json())
        problem = slice_problem(
            scan.read([number]),
            0,
            torch_device,
            fit_maps=parameters.fits_maps,
            preprocessing=parameters.preprocessing,
        )
        events = reconstruct_slice(problem, parameters, seed=seed, seeds=seeds, priors=priors, warm_start=warm_start)
        for event in events:
            if on_event is not None:
                on_event(number, event)
            if isinstance(event, Finished):
                results[number] = event.result
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
    return Volume(tuple(results[number] for number in numbers), ResultInfo(len(numbers), attributes))


def slice_numbers(wanted: Sequence[int] | None, header: ScanHeader) -> list[int]:
    """The wanted slices, or all of a scan. Raises ReconstructionError for a number that the scan does not have."""
    if not wanted:
        return list(range(header.slices))
    for number in wanted:
        if not 0 <= number < header.slices:
            expected = slice_number_range(header.slices, header.frames)
            raise ReconstructionError.at("slices", str(number), expected)
    return list(wanted)

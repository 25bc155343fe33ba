"""Plan of a comparison: which methods run on which scans; what does not fit is refused at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udig_recon.core import formats
from udig_recon.core.acquisition import Modality, MRIAcquisition, ScanHeader
from udig_recon.core.batch.scan_files import find_scan_files
from udig_recon.core.batch.shards import Shard
from udig_recon.core.coils.espirit import calibration_size
from udig_recon.core.comparison.entries import sampling_of
from udig_recon.core.errors import ReconstructionError, UnknownFormat
from udig_recon.core.parameters import Parameters, complete, require
from udig_recon.core.parameters.setting import Setting
from udig_recon.core.priors.card import Folders, card_of, sha256_of
from udig_recon.core.slice_order import processing_order, reference_slices
from udig_recon.core.volume import slice_numbers


@dataclass(frozen=True)
class Scan:
    """A scan file, and the slices of it that are compared."""

    path: Path
    name: str  # of its results, see `find_scan_files`
    sha256: str
    header: ScanHeader
    slices: tuple[int, ...]

    @property
    def sampling(self) -> str:
        """The acceleration or the number of views: `4x` or `18 views`."""
        return sampling_of(self.header)


@dataclass(frozen=True)
class Run:
    """One reconstruction to make."""

    label: str
    method: Parameters
    scan: Scan
    slice: int
    reference_slice: int | None  # the slice that it takes its warm start from
    seed: int
    prior_sha256: str | None

    @property
    def key(self) -> dict[str, Any]:
        """Everything that the result depends on, apart from the engine and the result of the reference slice."""
        return {
            "parameters": self.method.model_dump(mode="json"),
            "scan_sha256": self.scan.sha256,
            "slice": self.slice,
            "reference_slice": self.reference_slice,
            "seed": self.seed,
            "prior_sha256": self.prior_sha256,
        }


def find_scans(
    paths: Sequence[Path], slices: Sequence[int] | None, leave_out: Path | None = None
) -> tuple[list[Scan], list[str]]:
    """The scans among files and in folders, and the files of folders that were skipped because they are no scans.

    Raises ReconstructionError when a scan is broken or lacks the slices, or when there is no scan, and OSError.
    """
    scans: list[Scan] = []
    skipped = []
    for file in find_scan_files(paths, leave_out):
        try:
            header = formats.probe(file.path)
            wanted = tuple(dict.fromkeys(slice_numbers(slices, header)))
            _check_calibration(file.path, header)
        except ReconstructionError as error:
            if isinstance(error, UnknownFormat) and not file.asked_for:
                skipped.append(f"{file.path}: {error}")
                continue
            raise ReconstructionError(f"{file.path.name}: {error}") from error
        scans.append(Scan(file.path, file.name, sha256_of(file.path), header, wanted))
    if not scans:
        raise ReconstructionError(f"{', '.join(map(str, paths))}: found no scan; expected HDF5, .npz or .npy files")
    return scans, skipped


def _check_calibration(path: Path, header: ScanHeader) -> None:
    """Raise ReconstructionError for a scan without the samples that coil maps need."""
    if header.modality is Modality.MRI and not header.has_maps and (header.coils or 1) > 1:
        scan = formats.read(path, [0])
        if isinstance(scan, MRIAcquisition):
            calibration_size(scan.mask)


def plan_runs(settings: Sequence[Setting], scans: Sequence[Scan], seeds: int, priors: Folders = None) -> list[Run]:
    """All runs in order: the first seed of each method, in the order given, on each scan, then the next seed.

    A method for one modality runs on that modality's scans. Raises ReconstructionError when a method fits no scan or
    needs something that a scan lacks, or its prior is missing or for the other modality.
    """
    for setting in settings:
        if not any(scan.header.modality in setting.modalities for scan in scans):
            complete(setting.method(), scans[0].header.modality)
    return [
        run
        for seed in range(seeds)
        for setting in settings
        for scan in scans
        for run in _runs(setting, scan, seed, priors)
    ]


def _runs(setting: Setting, scan: Scan, seed: int, priors: Folders) -> Iterator[Run]:
    """The slices of a scan, reference slices before those that depend on them."""
    modality = scan.header.modality
    if modality not in setting.modalities:
        return
    try:
        method = complete(setting.method(), modality)
        require(method, scan.header.images)
        card = card_of(method, modality, priors)
    except ReconstructionError as error:
        raise type(error)(
            f"{setting.label} on {scan.path.name}: {error}",
            field=error.field,
            found=error.found,
            expected=error.expected,
        ) from error
    references = reference_slices(scan.slices, method, scan.header.frames)
    for index in processing_order(scan.slices, references):
        yield Run(setting.label, method, scan, index, references.get(index), seed, card.sha256 if card else None)


def runs_of_shard(runs: Sequence[Run], shard: Shard) -> list[Run]:
    """The runs of one shard. A slice that is a reference, or takes one, stays together with its whole volume."""
    volumes: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        volumes.setdefault((run.label, run.scan.name, run.seed), []).append(run)
    pieces: list[list[Run]] = []
    for volume in volumes.values():
        depends = any(run.reference_slice is not None for run in volume)
        pieces += [volume] if depends else [[run] for run in volume]
    return [run for piece in shard.of(pieces) for run in piece]

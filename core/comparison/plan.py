"""Plan of a comparison: which methods run on which scans with references; what does not fit is refused at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from udig_recon.core import formats
from udig_recon.core.acquisition import Modality, MRIAcquisition, ScanHeader
from udig_recon.core.coils.espirit import calibration_size
from udig_recon.core.comparison.entries import sampling_of
from udig_recon.core.errors import ReconstructionError, UnknownFormat
from udig_recon.core.parameters import METHODS, Parameters, complete, parse, require
from udig_recon.core.parameters.text import describe_error, parse_pairs
from udig_recon.core.priors.card import Folders, card_of, sha256_of
from udig_recon.core.slice_order import processing_order, reference_slices
from udig_recon.core.volume import slice_numbers


@dataclass(frozen=True)
class Setting:
    """A method with some of its parameters, under a label of its own."""

    label: str
    parameters: Mapping[str, Any]  # with the name of the method as `method`

    @classmethod
    def parse(cls, text: str) -> "Setting":
        """From `[LABEL=]METHOD[:PARAMETER=VALUE,...]`; the default label is the method's name and the parameters given.

        Raises ReconstructionError when there is no such method or a parameter is unknown or out of bounds.
        """
        head, _, given = text.partition(":")
        label, _, name = head.rpartition("=")
        pairs = given.split(",") if given else []
        if name not in METHODS:
            raise ReconstructionError(f"{text}: no method {name!r}; there are: {', '.join(METHODS)}")
        setting = cls(label or " ".join([name, *pairs]), {"method": name, **parse_pairs(pairs, text)})
        setting.method()
        return setting

    @property
    def modalities(self) -> Sequence[Modality]:
        """The modalities that the method reconstructs."""
        return METHODS[self.parameters["method"]].modalities

    def method(self) -> Parameters:
        """The method's parameters, those that are not given unset. Raises ReconstructionError."""
        try:
            return parse(dict(self.parameters))
        except ValidationError as error:
            raise ReconstructionError(f"{self.label}: {describe_error(error)}") from error


@dataclass(frozen=True)
class Scan:
    """A scan file with references, and the slices of it that are compared."""

    path: Path
    sha256: str
    header: ScanHeader
    slices: tuple[int, ...]

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

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


def find_scans(folder: Path, slices: Sequence[int] | None) -> tuple[list[Scan], list[str]]:
    """The scans in a folder, in the order of their names, and the files that were skipped because they are no scans.

    Raises ReconstructionError when a scan is broken, lacks references or the slices, or when there is no scan.
    """
    scans: list[Scan] = []
    skipped = []
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        try:
            header = formats.probe(path)
            wanted = tuple(dict.fromkeys(slice_numbers(slices, header)))
            _check(path, header)
        except UnknownFormat as error:
            skipped.append(f"{path.name}: {error}")
            continue
        except ReconstructionError as error:
            raise ReconstructionError(f"{path.name}: {error}") from error
        same = [scan.path.name for scan in scans if scan.name == path.stem]
        if same:
            raise ReconstructionError(f"{path.name}: {same[0]} has the same name but for its suffix; rename one")
        scans.append(Scan(path, sha256_of(path), header, wanted))
    if not scans:
        raise ReconstructionError(f"{folder}: found no scan; expected HDF5, .npz or .npy files with references")
    return scans, skipped


def _check(path: Path, header: ScanHeader) -> None:
    """Raise ReconstructionError for a scan without references, or without the samples that coil maps need."""
    if not header.has_reference:
        raise ReconstructionError("found no reference to compare with; expected an array reference (slices, y, x)")
    if header.modality is Modality.MRI and not header.has_maps and (header.coils or 1) > 1:
        scan = formats.read(path, [0])
        if isinstance(scan, MRIAcquisition):
            calibration_size(scan.mask)


def plan_runs(settings: Sequence[Setting], scans: Sequence[Scan], seeds: int, priors: Folders = None) -> list[Run]:
    """All runs in order: the first seed of each method, in the order given, on each scan, then the next seed.

    A method for one modality runs on that modality's scans. Raises ReconstructionError when two labels are equal, a
    method fits no scan or needs something that a scan lacks, or its prior is missing or for the other modality.
    """
    labels = [setting.label for setting in settings]
    for label in labels:
        if labels.count(label) > 1:
            raise ReconstructionError(f"two methods are called {label!r}; call one otherwise: LABEL=METHOD")
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

"""What a comparison is to run: methods on scans with references, refused at once where they do not fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from udig_recon.core import formats
from udig_recon.core.acquisition import Modality, MRIAcquisition, ScanHeader
from udig_recon.core.cli.arguments import invalid_knob, knobs
from udig_recon.core.coils.espirit import calibration_size
from udig_recon.core.comparison.entries import sampling_of
from udig_recon.core.errors import ReconstructionError, UnknownFormat
from udig_recon.core.parameters import METHODS, Parameters, complete, parse, require
from udig_recon.core.priors.card import Folders, card_of, sha256_of
from udig_recon.core.slice_order import processing_order, reference_slices
from udig_recon.core.volume import slice_numbers


@dataclass(frozen=True)
class Setting:
    """A method with the knobs that are given, under a label of its own."""

    label: str
    knobs: Mapping[str, Any]

    @classmethod
    def of(cls, text: str) -> "Setting":
        """From `[LABEL=]METHOD[:KNOB=VALUE,...]`; without a label, the method's name and what is given.

        Raises ReconstructionError when there is no such method or a knob is unknown or out of bounds.
        """
        head, _, given = text.partition(":")
        label, _, name = head.rpartition("=")
        pairs = given.split(",") if given else []
        if name not in METHODS:
            raise ReconstructionError(f"{text}: no method {name!r}; there are: {', '.join(METHODS)}")
        setting = cls(label or " ".join([name, *pairs]), {"method": name, **knobs(pairs, text)})
        setting.method()
        return setting

    @property
    def modalities(self) -> Sequence[Modality]:
        """For which it is."""
        return METHODS[self.knobs["method"]].modalities

    def method(self) -> Parameters:
        """Its parameters, as far as they are given. Raises ReconstructionError."""
        try:
            return parse(dict(self.knobs))
        except ValidationError as error:
            raise ReconstructionError(f"{self.label}: {invalid_knob(error)}") from error


@dataclass(frozen=True)
class Scan:
    """A scan file with its references, and which of its slices are compared."""

    path: Path
    sha256: str
    header: ScanHeader
    slices: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of the file, without its suffix."""
        return self.path.stem

    @property
    def sampling(self) -> str:
        """As `4x` or `18 views`."""
        return sampling_of(self.header)


@dataclass(frozen=True)
class Run:
    """One reconstruction to make."""

    label: str
    method: Parameters
    scan: Scan
    slice: int
    reference_slice: int | None  # the slice whose warm_start it follows
    seed: int
    prior_sha256: str | None

    @property
    def key(self) -> dict[str, Any]:
        """All that its result depends on, beside the engine and what its reference_slice finds."""
        return {
            "parameters": self.method.model_dump(mode="json"),
            "scan_sha256": self.scan.sha256,
            "slice": self.slice,
            "reference_slice": self.reference_slice,
            "seed": self.seed,
            "prior_sha256": self.prior_sha256,
        }


def find_scans(folder: Path, slices: Sequence[int] | None) -> tuple[list[Scan], list[str]]:
    """The scans in a folder, in the order of their names, and what was passed over because it is none.

    Raises ReconstructionError when a scan is broken, has no reference or not the slices, or when there is none.
    """
    scans: list[Scan] = []
    passed_over = []
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        try:
            header = formats.probe(path)
            wanted = tuple(dict.fromkeys(slice_numbers(slices, header)))
            _check(path, header)
        except UnknownFormat as error:
            passed_over.append(f"{path.name}: {error}")
            continue
        except ReconstructionError as error:
            raise ReconstructionError(f"{path.name}: {error}") from error
        if same := [scan.path.name for scan in scans if scan.name == path.stem]:
            raise ReconstructionError(f"{path.name}: {same[0]} has the same name but for its suffix; rename one")
        scans.append(Scan(path, sha256_of(path), header, wanted))
    if not scans:
        raise ReconstructionError(f"{folder}: found no scan; expected HDF5, .npz or .npy files with references")
    return scans, passed_over


def _check(path: Path, header: ScanHeader) -> None:
    """Raise ReconstructionError when there is nothing to compare with, or nothing to make coil maps of."""
    if not header.has_reference:
        raise ReconstructionError("found no reference to compare with; expected an array reference (slices, y, x)")
    if header.modality is Modality.MRI and not header.has_maps and (header.coils or 1) > 1:
        scan = formats.read(path, [0])
        if isinstance(scan, MRIAcquisition):
            calibration_size(scan.mask)


def plan_runs(settings: Sequence[Setting], scans: Sequence[Scan], seeds: int, priors: Folders = None) -> list[Run]:
    """All runs: the first seed of every method on every scan, method by method as they are given, then the next seed.

    A method for one modality alone runs on that modality's scans. Raises ReconstructionError when labels are not
    distinct, a method fits no scan or lacks what it needs of one, or its prior is not there or for the other modality.
    """
    labels = [setting.label for setting in settings]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ReconstructionError(f"two methods are called {twice!r}; call one otherwise: LABEL=METHOD")
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
    led = reference_slices(scan.slices, method)
    for index in processing_order(scan.slices, led):
        yield Run(setting.label, method, scan, index, led.get(index), seed, card.sha256 if card else None)

"""Training data set: image files by person, the train/validation split, normalised slices."""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.training.volumes import Volume, kind_of, volumes

SMALLEST_SIDE = 96
OBJECT_SHARE = 0.08
"""A slice whose object covers a smaller share of the pixels is not used."""
VALIDATION_SHARE = 0.1
"""Share of the people that are held out where none are named; one at least."""


class Source(NamedTuple):
    """One entry of a folder of images: a file, or a sub-folder with all its files."""

    name: str  # the file's name up to its first dot, or the sub-folder's name
    person: str
    files: tuple[Path, ...]

    def is_named(self, names: Collection[str]) -> bool:
        """Whether its name or its person is among the names."""
        return self.name in names or self.person in names


class Split(NamedTuple):
    """Sources to train on, and sources of other people for validation."""

    training: list[Source]
    validation: list[Source]


class TrainingImage(NamedTuple):
    """One slice."""

    pixels: Tensor  # (1, H, W) float16, object in about [0, 1]
    weight: float  # how often it is drawn, relative to the others
    source: str  # name of its source


def find_sources(folder: Path, people: Mapping[str, str]) -> list[Source]:
    """The sources in a folder; the person is the source's own name unless `people` gives another.

    Files of no known format are skipped. Raises ReconstructionError where no image is left.
    """
    if not folder.is_dir():
        raise ReconstructionError.at("--images", f"{folder}, which is no folder", "a folder of images")
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        name = entry.name if entry.is_dir() else entry.name.split(".")[0]
        files = tuple(path for path in _files(entry) if kind_of(path) is not None)
        if files and not entry.is_dir() and kind_of(entry) == "dicom":
            raise ReconstructionError.at(
                "--images", f"the DICOM file {entry.name} outside of a sub-folder", "a sub-folder for each person"
            )
        if files:
            found.append(Source(name, str(people.get(name, name)), files))
    if not found:
        expected = "NIfTI, HDF5, npy or npz files, or sub-folders with these or with DICOM files"
        raise ReconstructionError.at("--images", f"no images in {folder}", expected)
    unknown = [name for name in people if name not in {source.name for source in found}]
    if unknown:
        names = ", ".join(sorted(source.name for source in found))
        raise ReconstructionError.at("--people", ", ".join(unknown), f"names among {names}")
    return found


def _files(entry: Path) -> Iterable[Path]:
    if not entry.is_dir():
        return [entry]
    inside = (path for path in sorted(entry.rglob("*")) if path.is_file())
    return (path for path in inside if not any(part.startswith(".") for part in path.relative_to(entry).parts))


def split_by_person(
    sources: Sequence[Source], held_out: Sequence[str], left_out: Sequence[str] = (), seed: int = 0
) -> Split:
    """Train/validation split by person: people named in `held_out` are for validation, else a tenth drawn by `seed`.

    A name is a person's or a source's. Sources named in `left_out` are not used at all. Raises ReconstructionError for
    an unknown name, and where a person would stand on both sides or one side is empty.
    """
    _check_names("--leave-out", left_out, sources)
    used = [source for source in sources if not source.is_named(left_out)]
    people = sorted({source.person for source in used})
    if len(people) < 2:
        raise ReconstructionError.at(
            "--images",
            ", ".join(people) or "nobody",
            "two people or more, because one must be kept out to judge the prior by",
        )
    if not held_out:
        held_out = random.Random(seed).sample(people, max(1, round(VALIDATION_SHARE * len(people))))
    _check_names("--hold-out", held_out, used)
    validation = [source for source in used if source.is_named(held_out)]
    training = [source for source in used if not source.is_named(held_out)]
    validation_people = {source.person for source in validation}
    for source in sorted(training, key=lambda source: source.person):
        if source.person in validation_people:
            both = ", ".join(each.name for each in training if each.person == source.person)
            found = f"files of {source.person}, while {both} of the same person would be trained on"
            raise ReconstructionError.at("--hold-out", found, f"the person {source.person}")
    if not training:
        raise ReconstructionError.at("--hold-out", f"all people: {', '.join(people)}", "some to train on")
    return Split(training, validation)


def load_images(
    sources: Sequence[Source],
    modality: Modality,
    terms: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    only_native: bool = False,
) -> list[TrainingImage]:
    """Slices of sources; each source weighs as much as the `weight` in its terms says, 1 by default.

    With `only_native` slices are taken as they were scanned, not across. Raises ReconstructionError where none is left.
    """
    images: list[TrainingImage] = []
    for source in sources:
        weight = float((terms or {}).get(source.name, {}).get("weight", 1.0))
        slices = [
            plane
            for volume in volumes(source.files)
            for plane in volume_slices(volume, modality, only_native=only_native)
        ]
        images += [TrainingImage(pixels, weight / len(slices), source.name) for pixels in slices]
    if not images:
        expected = f"{SMALLEST_SIDE} pixels a side or more, the object in {OBJECT_SHARE:.0%} of them"
        raise ReconstructionError.at(
            "--images", f"no slice fit for use in {', '.join(source.name for source in sources)}", expected
        )
    return images


def volume_slices(volume: Volume, modality: Modality, *, only_native: bool = False) -> list[Tensor]:
    """Slices of one volume, each (1, H, W): along its last axis, along all three where voxels are nearly cubes."""
    values = normalise(volume.values, modality)
    spacing = volume.spacing_mm
    isotropic = not only_native and spacing is not None and max(spacing) < 1.5 * min(spacing)
    slices: list[Tensor] = []
    for axis in (0, 1, 2) if isotropic else (2,):
        stack = np.moveaxis(values, axis, 0)
        for plane in stack[:: 1 if len(stack) < 80 else 2]:
            slices += _usable(np.ascontiguousarray(plane))
    return slices


def normalise(volume: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
    """Scale to about [0, 1] inside the object: CT by attenuation relative to water, MRI by its 99.5th percentile.

    Hounsfield units become (HU + 1000) / 2000, so that water is 0.5 and dense bone about 1; air outside is 0.
    """
    volume = np.nan_to_num(volume)
    if modality is Modality.CT and volume.min() < -500:
        return np.clip((volume + 1000) / 2000, 0, 2).astype(np.float32)
    volume = np.clip(volume, 0, None)
    if not volume.any():
        return volume
    scale = np.percentile(volume[volume > 0.05 * volume.max()], 99.5)
    scaled: NDArray[np.float32] = np.clip(volume / scale, 0, 1.5).astype(np.float32)
    return scaled


def _usable(plane: NDArray[np.float32]) -> list[Tensor]:
    pixels = torch.from_numpy(plane)[None]
    if min(plane.shape) < SMALLEST_SIDE or float((pixels > 0.1).float().mean()) < OBJECT_SHARE:
        return []
    pixels = F.pad(pixels, (8, 8, 8, 8))
    halves = F.avg_pool2d(pixels, 2) if min(plane.shape) >= 380 else None
    return [part.half() for part in (pixels, halves) if part is not None]


def _check_names(option: str, names: Iterable[str], sources: Sequence[Source]) -> None:
    """Raise ReconstructionError for a name that is neither a source's nor a person's."""
    known = {source.name for source in sources} | {source.person for source in sources}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ReconstructionError.at(option, ", ".join(unknown), f"names among {', '.join(sorted(known))}")

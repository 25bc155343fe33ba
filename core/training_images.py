"""Slices to train a prior on, from NIfTI volumes: normalised, weighted, split by person."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.acquisition import Modality

SMALLEST_SIDE = 96
OBJECT_SHARE = 0.08
"""A slice with fewer pixels in the object than this share is left out."""


class TrainingImage(NamedTuple):
    """One slice."""

    pixels: Tensor  # (1, H, W) float16, object in about [0, 1]
    weight: float  # how often it is drawn, relative to the others
    source: str  # stem of its file


def load_images(
    folder: Path,
    modality: Modality,
    sources: Mapping[str, Mapping[str, Any]],
    held_out: Sequence[str],
    left_out: Sequence[str] = (),
) -> tuple[list[TrainingImage], list[TrainingImage]]:
    """Slices to train on and slices of the people kept out; each file weighs as much as its `weight` says."""
    training: list[TrainingImage] = []
    kept_out: list[TrainingImage] = []
    for path in sorted([*folder.glob("*.nii.gz"), *folder.glob("*.nii")]):
        stem = path.name.split(".")[0]
        if stem in left_out:
            continue
        weight = float(sources.get(stem, {}).get("weight", 1.0))
        slices = volume_slices(path, modality, only_native=stem in held_out)
        images = [TrainingImage(pixels, weight / len(slices), stem) for pixels in slices]
        (kept_out if stem in held_out else training).extend(images)
    if not training:
        raise SystemExit(f"{folder} holds no NIfTI volume (*.nii, *.nii.gz) to train on")
    return training, kept_out or training


def volume_slices(path: Path, modality: Modality, *, only_native: bool = False) -> list[Tensor]:
    """Slices of one volume, each (1, H, W): along its last axis, along all three where voxels are nearly cubes."""
    image: Any = nibabel.load(path)
    volume = np.asarray(image.dataobj, np.float32)
    volume = volume[..., 0] if volume.ndim == 4 else volume
    volume = normalised(volume, modality)
    spacing = np.asarray(image.header.get_zooms()[:3])
    isotropic = not only_native and spacing.max() / spacing.min() < 1.5
    slices: list[Tensor] = []
    for axis in (0, 1, 2) if isotropic else (2,):
        stack = np.moveaxis(volume, axis, 0)
        for plane in stack[:: 1 if len(stack) < 80 else 2]:
            slices += _usable(np.ascontiguousarray(plane))
    return slices


def normalised(volume: NDArray[np.float32], modality: Modality) -> NDArray[np.float32]:
    """Scale to about [0, 1] inside the object: CT by attenuation relative to water, MRI by its 99.5th percentile.

    Hounsfield units become (HU + 1000) / 2000, so that water is 0.5 and dense bone about 1; air outside is 0.
    """
    volume = np.nan_to_num(volume)
    if modality is Modality.CT and volume.min() < -500:
        return np.clip((volume + 1000) / 2000, 0, 2).astype(np.float32)
    volume = np.clip(volume, 0, None)
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

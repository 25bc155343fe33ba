"""Series of a result: which of its slices go into which DICOM series, in which order and at which place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from udig_recon.core.acquisition import FRAME_COUNTERS, Frame, Modality
from udig_recon.core.results.dicom.geometry import SliceGeometry, assumed_affine
from udig_recon.core.results.output_format import ResultInfo

_IN_TIME = ("repetition", "phase")
"""Counters of frames that are times of one MR series; images of other contrasts and sets are series of their own."""


@dataclass(frozen=True)
class PlacedSlice:
    """A slice of a result in its series."""

    index: int  # in the result
    position: int  # slice position of the scan, to which its affine applies
    time: int  # from 1: temporal position within the series


@dataclass(frozen=True)
class Series:
    """Slices of one series: times one after the other, each from the first to the last along the normal."""

    label: str  # "", or what tells it from the other series of the result: "contrast 1"
    contrast: int
    times: int
    slices: tuple[PlacedSlice, ...]


@dataclass(frozen=True)
class Geometry:
    """Geometry of a result, told by its scan or assumed."""

    of_slices: SliceGeometry
    is_assumed: bool  # the scan does not tell how the patient lay
    slice_spacing_mm: float | None  # from slice position to slice position of the scan; None: not known

    @classmethod
    def of(cls, info: ResultInfo) -> "Geometry":
        """From the affine of a result's scan, or else its spacings."""
        told, spacing = info.attributes.get("affine"), info.attributes.get("slice_spacing_mm")
        if told is None:
            assumed = assumed_affine(info.pixel_spacing_mm, spacing)
            return cls(SliceGeometry.of(assumed), True, None if spacing is None else float(spacing))
        affine = np.asarray(told, float)
        return cls(SliceGeometry.of(affine), False, float(np.linalg.norm(affine[:3, 2])) or None)


def series_of(info: ResultInfo, modality: Modality, geometry: Geometry) -> tuple[Series, ...]:
    """The series of a result. Phases and repetitions of MRI are times within a series."""
    frames = info.frames or tuple(Frame(slice=number) for number in info.slice_numbers)
    timed = _IN_TIME if modality is Modality.MRI else ()
    split = [name for name in FRAME_COUNTERS if name not in timed]
    told = [name for name in split if len({getattr(frame, name) for frame in frames}) > 1]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(_counters(frame, split), []).append(index)
    found = []
    for _, indices in sorted(groups.items()):
        first = frames[indices[0]]
        times = sorted({_counters(frames[index], timed) for index in indices})
        placed = [
            PlacedSlice(index, frames[index].slice, 1 + times.index(_counters(frames[index], timed)))
            for index in indices
        ]
        placed.sort(key=lambda each: (each.time, geometry.of_slices.depth(each.position), each.index))
        label = ", ".join(f"{name} {getattr(first, name)}" for name in told)
        found.append(Series(label, first.contrast, len(times), tuple(placed)))
    return tuple(found)


def _counters(frame: Frame, names: Sequence[str]) -> tuple[int, ...]:
    return tuple(getattr(frame, name) for name in names)

"""What an output format is: its name, its suffix, its media type, and a writer that takes slice after slice."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Affine, Frame, frames_of
from udig_recon.core.quality.rating import Rating
from udig_recon.core.results.stack import Stack

Image = NDArray[np.float32]


class ResultSlice(Protocol):
    """One slice of a result, as a writer takes it. Arrays are (y, x), in the scan's own units or 1/mm."""

    @property
    def image(self) -> Image:
        """The reconstruction's magnitude, or attenuation."""
        ...

    @property
    def image_complex(self) -> NDArray[np.complex64] | None:
        """The complex reconstruction; None for CT."""
        ...

    @property
    def direct(self) -> Image:
        """The zero-filled reconstruction (MRI), or filtered back-projection (CT)."""
        ...

    @property
    def reference(self) -> Image | None:
        """The scan's reference, if it has one."""
        ...

    @property
    def deviation(self) -> Image | None:
        """The standard deviation between several seeds, if there were several."""
        ...

    @property
    def hallucination(self) -> Image | None:
        """The hallucination map of a method with a prior, otherwise None."""
        ...

    @property
    def curves(self) -> Mapping[str, list[float]]:
        """Metrics on the way, one value for each snapshot."""
        ...

    @property
    def rating(self) -> Rating | None:
        """How good the image is; None where nothing rated it."""
        ...

    def summary(self) -> dict[str, Any]:
        """Rating and prior check, as JSON."""
        ...


class ResultWriter(Protocol):
    """Writes one file, slice after slice in the order of the result."""

    def add(self, result: ResultSlice) -> None:
        """Take the next slice. Raises OSError where the file cannot be written."""
        ...


@dataclass(frozen=True)
class ResultInfo:
    """What a writer knows of a result before its first slice."""

    count: int  # slices that will be added
    attributes: Mapping[str, Any]  # parameters, seed, versions, hashes, geometry; see docs/formats.md

    @property
    def slice_numbers(self) -> tuple[int, ...]:
        """Numbers of the slices in their scan; 0, 1, 2 ... where they are not known."""
        return tuple(self.attributes.get("slice_numbers", range(self.count)))

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the method, which some attributes hold as JSON; empty where they are not known."""
        told = self.attributes.get("parameters", {})
        return dict(json.loads(told) if isinstance(told, str) else told)

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Pixel spacing (y, x) in millimetres; 1 mm where it is not known."""
        y, x = self.attributes.get("pixel_spacing_mm", (1, 1))
        return y, x

    @property
    def slice_spacing_mm(self) -> float | None:
        """Millimetres from one slice position of the result to the next; None where unknown or not even."""
        spacing, step = self.attributes.get("slice_spacing_mm"), self.stack.step
        return None if spacing is None or step is None or step < 0 else float(spacing) * step

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Which contrast, phase ... of which slice position each slice is; empty where the scan has only slices."""
        return frames_of(self.attributes)

    @property
    def stack(self) -> Stack:
        """How the slices make volumes."""
        return Stack.of(self.slice_numbers, self.frames)

    @property
    def affine(self) -> Affine | None:
        """From (column, row, slice position of the result, 1) to patient coordinates in mm (L, P, S); None: unknown.

        Slice positions that are not evenly spaced have none.
        """
        affine, step = self.attributes.get("affine"), self.stack.step
        if affine is None or step is None:
            return None
        of_scan = np.asarray(affine, float)
        moved = of_scan @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, step, self.stack.positions[0]], [0, 0, 0, 1]])
        return tuple(tuple(map(float, row)) for row in moved)

    @property
    def corrections(self) -> Sequence[str]:
        """What was corrected of the scan's measurements."""
        return list(self.attributes.get("corrections", ()))

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings of the scan."""
        return list(self.attributes.get("warnings", ()))


_TOLD = (
    "modality",
    "pixel_spacing_mm",
    "slice_spacing_mm",
    "affine",
    "trajectory",
    "averages",
    "prewhitened",
    "geometry",
    "source_origin_mm",
    "source_detector_mm",
    "rotation_center",
    "water_attenuation_per_mm",
    "corrections",
    "warnings",
)
"""Fields of a scan's header that its results carry where they are known."""


def scan_attributes(header: Mapping[str, Any], slice_numbers: Sequence[int]) -> dict[str, Any]:
    """Attributes of a result that its scan's header (as JSON) gives, where known: geometry, corrections, warnings.

    `affine` is the scan's: of the slice positions that its `frames` count, or else of the slices' numbers. `frames`
    are those of the result's slices, in their order.
    """
    known = {name: header[name] for name in _TOLD if header.get(name) not in (None, False, [], ())}
    if "modality" in known:
        known["modality"] = str(known["modality"])
    if frames := header.get("frames"):
        known["frames"] = [dict(frames[number]) for number in slice_numbers]
    return {name: _as_lists(value) for name, value in known.items()}


def _as_lists(value: Any) -> Any:
    return [_as_lists(each) for each in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class OutputFormat:
    """A file format in which a reconstruction can be downloaded."""

    name: str  # in requests and in the command line: "nifti"
    suffix: str  # of its files: ".nii.gz"
    media_type: str  # for the Accept header: "application/gzip"
    description: str  # one phrase for tables and help
    # Creates the file of this name; when the context ends without an error, the file is whole.
    open_writer: Callable[[Path, ResultInfo], AbstractContextManager[ResultWriter]]
    pixel_bytes: int  # at most, of its file for a pixel of a slice; estimates of a job's files use it
    on_demand: bool = False  # never written with the job: written when it is first downloaded

    def __str__(self) -> str:
        return self.name

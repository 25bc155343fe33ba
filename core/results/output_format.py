"""What an output format is: its name, its suffix, its media type, and a writer that takes slice after slice."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.quality.rating import Rating

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
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Pixel spacing (y, x) in millimetres; 1 mm where it is not known."""
        y, x = self.attributes.get("pixel_spacing_mm", (1, 1))
        return y, x

    @property
    def slice_spacing_mm(self) -> float | None:
        """Millimetres from one slice of the result to the next; None where unknown, or where some were left out."""
        spacing = self.attributes.get("slice_spacing_mm")
        if spacing is None:
            return None
        steps = {after - before for before, after in pairwise(self.slice_numbers)} or {1}
        step = steps.pop()
        return float(spacing) * step if not steps and step > 0 else None

    @property
    def warnings(self) -> Sequence[str]:
        """Warnings of the scan."""
        return list(self.attributes.get("warnings", ()))


def scan_attributes(header: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a result that its scan's header (as JSON) gives: spacings, modality and warnings, where known."""
    names = ("modality", "pixel_spacing_mm", "slice_spacing_mm", "warnings")
    known = {name: header[name] for name in names if header.get(name)}
    if "modality" in known:
        known["modality"] = str(known["modality"])
    return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


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

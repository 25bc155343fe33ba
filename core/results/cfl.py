"""Output format `cfl`: the complex images as BART has them, a zip of `reconstruction.cfl`, its .hdr and a JSON.

BART's dimensions are 0 columns, 1 rows, 5 contrasts, 10 repetitions, 11 phases, 12 sets, 13 slices, in Fortran order.
Its header knows no geometry: affine, spacing and frames stand in `reconstruction.json`.
"""

import json
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from udig_recon.core.acquisition import Frame
from udig_recon.core.interruption import check_interruption
from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultSlice
from udig_recon.core.results.spool import SpooledImages
from udig_recon.core.results.zip_members import add_member, new_member, open_archive

_DIMENSIONS = 16
_COUNTERS = {"slice": 13, "set": 12, "phase": 11, "repetition": 10, "contrast": 5}
"""Dimensions of a frame's counters, the slowest first."""


class CflWriter:
    """Keeps the images until all are there, and writes them in the order of BART's dimensions."""

    def __init__(self, archive: zipfile.ZipFile, info: ResultInfo, folder: Path) -> None:
        self._archive, self._info = archive, info
        self._images = SpooledImages(folder)
        self._shape: tuple[int, ...] = (0, 0)

    def add(self, result: ResultSlice) -> None:
        """Keep the complex image, or the real one of CT."""
        image = result.image if result.image_complex is None else result.image_complex
        self._shape = image.shape
        self._images.append(np.ascontiguousarray(image, "<c8").view("<f4"))

    def finish(self) -> None:
        """Write the files."""
        order, sizes = _layout(self._info)
        dimensions = [1] * _DIMENSIONS
        dimensions[0], dimensions[1] = self._shape[::-1]
        for name, count in sizes.items():
            dimensions[_COUNTERS[name]] = count
        header = f"# Dimensions\n{' '.join(map(str, dimensions))}\n"
        add_member(self._archive, "reconstruction.hdr", header.encode())
        add_member(self._archive, "reconstruction.json", json.dumps(_description(self._info), indent=1).encode())
        with self._archive.open(new_member("reconstruction.cfl"), "w", force_zip64=True) as file:
            for index in order:
                check_interruption()
                file.write(self._images[index].tobytes())

    def close(self) -> None:
        """Delete the temporary file."""
        self._images.close()


def _layout(info: ResultInfo) -> tuple[list[int], dict[str, int]]:
    """The result's slices in the order of the file, and the sizes of its dimensions.

    Frames that are not complete are slices in the order of the result.
    """
    frames = info.frames or tuple(Frame(slice=number) for number in info.slice_numbers)
    kinds = {name: dict.fromkeys(getattr(frame, name) for frame in frames) for name in _COUNTERS}
    places = {
        name: {value: place for place, value in enumerate(values if name == "slice" else sorted(values))}
        for name, values in kinds.items()
    }
    sizes = {name: len(values) for name, values in places.items()}
    keys = [tuple(places[name][getattr(frame, name)] for name in _COUNTERS) for frame in frames]
    if len(set(keys)) < len(keys) or len(keys) != np.prod(list(sizes.values())):
        return list(range(info.count)), {"slice": info.count}
    return sorted(range(len(keys)), key=keys.__getitem__), sizes


def _description(info: ResultInfo) -> dict[str, Any]:
    names = (
        "job_id",
        "seed",
        "seeds",
        "scan_sha256",
        "software",
        "pixel_spacing_mm",
        "frames",
        "warnings",
    )
    told: dict[str, Any] = {name: info.attributes[name] for name in names if name in info.attributes}
    told |= {"slice_numbers": list(info.slice_numbers), "slice_spacing_mm": info.slice_spacing_mm}
    if "parameters" in info.attributes:
        told["parameters"] = info.parameters
    return {
        **told,
        "affine": info.affine,
        "affine_description": "(column, row, slice, 1) to mm (L, P, S); null: not known, or slices not evenly spaced",
        "note": "RESEARCH USE ONLY - NOT FOR DIAGNOSIS",
    }


def open_writer(path: Path, info: ResultInfo) -> AbstractContextManager[CflWriter]:
    """A writer of a zip of BART's files; the same images give the same bytes."""
    return open_archive(path, lambda archive: CflWriter(archive, info, path.parent))


FORMAT = OutputFormat(
    "cfl", ".cfl.zip", "application/zip", "the complex images as BART's .cfl and .hdr, in a zip", open_writer, 9, True
)

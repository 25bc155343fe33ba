"""Output format `mrd`: images in an ISMRMRD HDF5 file, each with its place in the patient, counters and attributes.

Below `dataset` lies a group for each kind of image: `image` (float32 magnitude or attenuation), `image_complex` (MRI),
`standard_deviation` and `hallucination_map`, with `header`, `data` (images, 1, 1, y, x) and `attributes`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Frame
from udig_recon.core.files.hdf5_sink import Hdf5Sink
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.readouts.mrd_protocol import IMAGE_HEAD
from udig_recon.core.results.output_format import OutputFormat, ResultInfo, ResultSlice

NOTICE = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
VERSION = 1  # of the headers of images
FLOAT, COMPLEX = 5, 7  # data types
MAGNITUDE, COMPLEX_IMAGE = 1, 5  # image types
_KINDS = {
    "image": "image",
    "image_complex": "image_complex",
    "standard_deviation": "deviation",
    "hallucination_map": "hallucination",
}
"""Groups of a file, and the arrays of a slice that they hold."""
_PAIR = np.dtype([("real", "<f4"), ("imag", "<f4")])
_STORAGE = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


def image_head(
    shape: tuple[int, ...], frame: Frame, place: int, header: Mapping[str, Any], attributes_bytes: int
) -> NDArray[Any]:
    """The ISMRMRD header of one image (y, x) of float32: matrix, field of view, position, directions, counters.

    `place` is its place in the result, and `header` has the scan's affine and spacings. Columns run along `read_dir`,
    rows along `phase_dir`, and `position` is the centre of the pixel n // 2, in mm (L, P, S).
    """
    rows, columns = shape
    head = np.zeros((), IMAGE_HEAD)
    head["version"], head["data_type"], head["channels"] = VERSION, FLOAT, 1
    head["matrix_size"] = columns, rows, 1
    head["image_type"], head["image_index"], head["image_series_index"] = MAGNITUDE, place + 1, 1
    for name, counter in asdict(frame).items():
        head[name] = counter
    spacing_y, spacing_x = header.get("pixel_spacing_mm", (1.0, 1.0))
    spacing_z = header.get("slice_spacing_mm") or 0.0
    if header.get("affine") is not None:
        affine = np.asarray(header["affine"], float)
        steps = affine[:3, :3]
        lengths = [math.hypot(*steps[:, axis]) for axis in range(3)]
        for axis, name in enumerate(("read_dir", "phase_dir", "slice_dir")):
            head[name] = steps[:, axis] / (lengths[axis] or 1)
        spacing_x, spacing_y, spacing_z = lengths
        head["position"] = (affine @ [columns // 2, rows // 2, frame.slice, 1])[:3]
    head["field_of_view"] = columns * spacing_x, rows * spacing_y, spacing_z
    head["attribute_string_len"] = attributes_bytes
    return head


def attributes_xml(attributes: Mapping[str, str]) -> str:
    """Attributes as ISMRMRD has them: an XML of names and values."""
    each = "".join(
        f"<meta><name>{escape(name)}</name><value>{escape(value)}</value></meta>" for name, value in attributes.items()
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ismrmrdMeta>{each}</ismrmrdMeta>'


class MrdWriter:
    """Appends each slice to the groups of the kinds of images that it has."""

    def __init__(self, file: h5py.File, info: ResultInfo) -> None:
        self._file, self._info, self._place = file, info, 0
        self._frames = info.frames or tuple(Frame(slice=number) for number in info.slice_numbers)

    def add(self, result: ResultSlice) -> None:
        """Append one slice."""
        for series, (group, name) in enumerate(_KINDS.items(), start=1):
            values: NDArray[Any] | None = getattr(result, name)
            if values is not None:
                self._append(group, series, values, result)
        self._place += 1

    def _append(self, group: str, series: int, image: NDArray[Any], result: ResultSlice) -> None:
        told = {"Note": NOTICE, "Image": group, **self._provenance(result)}
        text = attributes_xml(told).encode("ascii", "xmlcharrefreplace")
        head = image_head(image.shape, self._frames[self._place], self._place, self._info.attributes, len(text))
        head["image_series_index"] = series
        if np.iscomplexobj(image):
            head["data_type"], head["image_type"] = COMPLEX, COMPLEX_IMAGE
            pixels = np.ascontiguousarray(image, "<c8").view(_PAIR)
        else:
            pixels = np.ascontiguousarray(image, "<f4")
        node = self._file.require_group(f"dataset/{group}")
        if "data" not in node:
            node.create_dataset("header", (0,), IMAGE_HEAD, maxshape=(None,))
            node.create_dataset("attributes", (0,), h5py.string_dtype(), maxshape=(None,))
            shape = (1, 1, *image.shape)
            node.create_dataset(
                "data", (0, *shape), pixels.dtype, maxshape=(None, *shape), chunks=(1, *shape), **_STORAGE
            )
        count = len(node["data"])
        for name, value in {"header": head, "attributes": text, "data": pixels[None, None]}.items():
            node[name].resize(count + 1, axis=0)
            node[name][count] = value

    def _provenance(self, result: ResultSlice) -> dict[str, str]:
        attributes = self._info.attributes
        names = ("job_id", "seed", "seeds", "prior", "prior_sha256", "software", "torch")
        told = {"parameters": json.dumps(self._info.parameters)} if "parameters" in attributes else {}
        told |= {name: str(attributes[name]) for name in names if name in attributes}
        if result.rating is not None:
            told["Rating"] = str(result.rating)
        if water := attributes.get("water_attenuation_per_mm"):
            told["WaterAttenuationPerMm"] = f"{water:g}"
        return told


@contextmanager
def open_writer(path: Path, info: ResultInfo) -> Iterator[MrdWriter]:
    """A writer of an ISMRMRD image file. Raises the OSError that kept its bytes from the disk."""
    with Hdf5Sink(path, "w+") as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield MrdWriter(file, info)
        finally:
            if sink.failure is not None:
                raise sink.failure


# A copy of what the HDF5 result holds: it is written only where it is wanted.
FORMAT = OutputFormat(
    "mrd", ".mrd", "application/x-hdf5", "images with geometry in an ISMRMRD HDF5 file", open_writer, 20, True
)

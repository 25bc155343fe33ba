"""Input format Data Exchange (De Carlo et al. 2014): HDF5 of synchrotrons, with projections in `exchange`."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import ArraySource
from udig_recon.core.formats.containers.hdf5_arrays import (
    Hdf5Array,
    attribute_text,
    find_hdf5,
    has_member,
    open_dataset,
    open_hdf5,
    peek_hdf5,
    small_number,
)
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.sinogram.projections import millimetres, read_rotation, sinogram_contents

_DATA, _THETA = "exchange/data", "exchange/theta"
_BEAM = {"flat": "exchange/data_white", "dark": "exchange/data_dark"}
_PIXELS = (
    "measurement/instrument/detection_system/objective/resolution",
    "measurement/instrument/detector/actual_pixel_size_x",
    "measurement/instrument/detector/pixel_size_x",
    "measurement/instrument/detector/pixel_size",
)


class DataExchange:
    """HDF5 with `exchange/data` (views, rows, columns), `data_white`, `data_dark` and `theta`."""

    name = "Data Exchange"
    expected = "Data Exchange HDF5 with exchange/data and exchange/theta"

    def sniff(self, file: ScanFile) -> bool:
        """Whether it is HDF5 with a dataset `exchange/data`."""
        if not find_hdf5(file):
            return False
        with peek_hdf5(file) as opened:
            return has_member(opened, _DATA) and not any(has_member(opened, name) for name in ("kspace", "sinogram"))

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The projections as sinograms, with flat and dark fields."""
        with open_hdf5(file) as opened:
            yield _contents(opened.file, file.size)

    def samples(self) -> Sequence[bytes]:
        """Counts with flat and dark fields, of which some chunks are packed."""
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            file.create_dataset(_DATA, data=np.full((9, 1, 8), 9, np.uint16), chunks=(1, 1, 8), compression="gzip")
            file[_THETA], file[_BEAM["flat"]] = np.arange(9.0), np.full((2, 1, 8), 99, np.uint16)
            file[_THETA].attrs["units"] = "deg"
        return (stream.getvalue(),)


FORMAT = DataExchange()


def _contents(file: h5py.File, file_bytes: int) -> Contents:
    if not has_member(file, _THETA):
        raise UnreadableScan.at(_THETA, "none", "an angle for each projection of exchange/data, with its unit")
    theta = open_dataset(file, _THETA)
    angles, noted = read_rotation(Hdf5Array(_THETA, theta, file_bytes), attribute_text(theta, "units"))
    beam: dict[str, ArraySource] = {
        name: Hdf5Array(name, open_dataset(file, path), file_bytes)
        for name, path in _BEAM.items()
        if has_member(file, path)
    }
    projections = Hdf5Array("sinogram", open_dataset(file, _DATA), file_bytes)
    warnings = list(noted)
    if "flat" not in beam:
        if projections.dtype.kind != "f":
            found = f"none, beside {projections.dtype} counts"
            raise UnreadableScan.at(
                _BEAM["flat"], found, "frames without an object, or line integrals in exchange/data"
            )
        beam = {}
        warnings.append("the file has no exchange/data_white: exchange/data is taken for line integrals")
    pixel = None
    for path in _PIXELS:
        if pixel is None and has_member(file, path):
            dataset = open_dataset(file, path)
            value = small_number(dataset)
            pixel = None if value is None else millimetres(value, attribute_text(dataset, "units"))
            if pixel is not None:
                warnings.append(f"the pixel of {pixel:g} mm is that of {path}")
    return sinogram_contents("data_exchange", projections, angles, pixel, beam, warnings)

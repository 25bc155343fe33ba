"""Readers of training images, recognised by their content: NIfTI, HDF5, npy, npz and DICOM series."""

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.training import dicom as dicom_series

IMAGES = ("reconstruction_rss", "reconstruction_esc", "reference")
"""Names of image arrays in HDF5 and npz files; the first that is present is used."""
NO_IMAGES = ("kspace", "mask", "sinogram", "angles", "sensitivity_maps")
_NIFTI_HEADERS = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zlib.error, zipfile.BadZipFile, ImageFileError)


class Volume(NamedTuple):
    """A stack of slices."""

    values: NDArray[np.float32]  # (rows, columns, slices)
    spacing_mm: tuple[float, float, float] | None  # along the three axes; None: unknown, or not a regular grid


def kind_of(path: Path) -> str | None:
    """Which format a file is of: nifti, dicom, hdf5, npy or npz; None: no image."""
    start = _start(path)
    if _nifti_class(start) is not None:
        return "nifti"
    if start[128:132] == b"DICM":
        return "dicom"
    signatures = {b"\x89HDF\r\n\x1a\n": "hdf5", b"\x93NUMPY": "npy", b"PK\x03\x04": "npz"}
    return next((kind for signature, kind in signatures.items() if start.startswith(signature)), None)


def volumes(files: Sequence[Path]) -> Iterator[Volume]:
    """The volumes in image files: each file one, of DICOM files each series one.

    Raises UnreadableScan for a file that is broken or does not say which of its arrays are images.
    """
    slices = []
    for path in files:
        kind = kind_of(path)
        if kind == "dicom":
            slices.append(path)
        elif kind is not None:
            yield _volume(path, _READERS[kind])
    if slices:
        for values, spacing_mm in dicom_series.series(slices):
            yield Volume(values, spacing_mm)


def _start(path: Path) -> bytes:
    """The first bytes of a file, unpacked."""
    with path.open("rb") as file:
        start = file.read(132)
        if not start.startswith(b"\x1f\x8b"):
            return start
        file.seek(0)
        try:
            return gzip.GzipFile(fileobj=file).read(132)
        except (OSError, EOFError, zlib.error):
            return b""


def _volume(path: Path, reader: Callable[[Path], Volume]) -> Volume:
    try:
        return reader(path)
    except _DAMAGE as error:
        raise UnreadableScan(f"{path.name} is broken: {error}", field="images", found=path.name) from error


def _nifti(path: Path) -> Volume:
    content = path.read_bytes()
    content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    image = _nifti_class(content).from_bytes(content)
    kind = image.get_data_dtype().kind
    if kind not in "biufc":
        raise UnreadableScan.at("images", f"voxels of {image.get_data_dtype()}", "grey values", subject=path.name)
    values = np.abs(np.asarray(image.dataobj)) if kind == "c" else np.asarray(image.dataobj, np.float32)
    while values.ndim > 3:
        values = values[..., 0]
    spacing = [float(size) for size in image.header.get_zooms()[:3]]
    if values.ndim < 3:
        return Volume(values.reshape(*values.shape, 1).astype(np.float32), None)
    return Volume(values.astype(np.float32, copy=False), (spacing[0], spacing[1], spacing[2]))


def _nifti_class(start: bytes) -> Any:
    """NIfTI-1 or NIfTI-2, by the length of the header that the first four bytes give; None: neither."""
    sizes = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    return next((_NIFTI_HEADERS[size] for size in sizes if size in _NIFTI_HEADERS), None)


def _hdf5(path: Path) -> Volume:
    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        return _stack(np.asarray(_images(path, found)))


def _npy(path: Path) -> Volume:
    array = np.load(path, allow_pickle=False)
    return _stack(_images(path, {path.name: array}))


def _npz(path: Path) -> Volume:
    with np.load(path, allow_pickle=False) as archive:
        # A zip file may hold anything; what is no array comes as bytes.
        arrays = {name: array for name, array in archive.items() if isinstance(array, np.ndarray)}
    return _stack(_images(path, arrays))


_READERS: dict[str, Callable[[Path], Volume]] = {"nifti": _nifti, "hdf5": _hdf5, "npy": _npy, "npz": _npz}


def _images(path: Path, arrays: Mapping[str, Any]) -> Any:
    """The array that holds the images, 2-D or 3-D."""
    fitting = {
        name: array
        for name, array in arrays.items()
        if name.rsplit("/", 1)[-1] not in NO_IMAGES and array.ndim in (2, 3) and array.dtype.kind in "biufc"
    }
    named = [name for name in IMAGES if name in fitting]
    if not named and len(fitting) != 1:
        listed = [f"{name} {tuple(array.shape)} of {array.dtype}" for name, array in arrays.items()]
        expected = f"one array (y, x) or (slices, y, x) of numbers, or one named {', '.join(IMAGES)}"
        raise UnreadableScan.at("images", ", ".join(listed) or "nothing", expected, subject=path.name)
    return fitting[named[0] if named else next(iter(fitting))]


def _stack(images: NDArray[Any]) -> Volume:
    """Magnitudes of images ([slices,] y, x)."""
    values = np.abs(images) if images.dtype.kind == "c" else images
    values = values.astype(np.float32).reshape(-1, *values.shape[-2:])
    return Volume(np.moveaxis(values, 0, -1), None)

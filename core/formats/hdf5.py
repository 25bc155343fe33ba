"""HDF5 opened so that it can show nothing but its own bytes: no links out, no external storage, no foreign filters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from core.formats.arrays import ARRAYS, ATTRIBUTES, Array, ArraySource, Contents, Region, attribute, regions
from core.formats.chunks import check_layout, check_stored
from core.formats.limits import of_kind, unreadable
from core.formats.source import ScanFile

SIGNATURE = b"\x89HDF\r\n\x1a\n"
RESULT_MARK = "udig_recon_result"

_MOST_LINKS = 10_000
_DEEPEST = 32
_MOST_HEADER_BYTES = 1 << 20


class Hdf5Array(ArraySource):
    """A dataset whose bytes lie in the file itself."""

    def __init__(self, name: str, dataset: h5py.Dataset, file_bytes: int) -> None:
        if dataset.shape is None or dataset.dtype.hasobject or dataset.dtype.kind not in "biufc":
            raise unreadable(name, f"shape {dataset.shape} of {of_kind(dataset.dtype)}", "an array of numbers")
        self._dataset = dataset
        stored = min(file_bytes, dataset.id.get_storage_size())
        super().__init__(name, dataset.shape, dataset.dtype, stored)

    def check_stored(self) -> None:
        """Refuse a bomb, and a dataset of which a part is missing."""
        super().check_stored()
        check_stored(self.name, self._dataset)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The dataset in order, in blocks of whole chunks."""
        for region in regions(self.shape, self.dtype.itemsize, self._dataset.chunks):
            yield region, self._dataset[region]

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        result = np.empty((len(indices), *self.shape[1:]), self.dtype)
        for place, index in enumerate(indices):
            self._dataset.read_direct(result, index, place)
        return result


@contextmanager
def opened(scan: ScanFile) -> Iterator[Contents]:
    """The arrays and attributes of an HDF5 scan. Raises UnreadableScan where it points outside itself."""
    with scan.stream() as stream, h5py.File(stream, "r") as file:
        _refuse_links(file)
        if RESULT_MARK in file.attrs:
            raise unreadable("file", "a reconstruction made by this software", "a scan: k-space or a sinogram")
        arrays = {name: Hdf5Array(name, _dataset(file, name), scan.size) for name in ARRAYS if name in file}
        holders = [file, *(file[name] for name in ("kspace", "sinogram") if name in arrays)]
        attributes = {
            name: _attribute(holder, name) for holder in holders for name in ATTRIBUTES if name in holder.attrs
        }
        yield Contents("hdf5", arrays, attributes, _header(file))


def _refuse_links(file: h5py.File) -> None:
    """Look at every link without following any."""
    seen = 0

    def look(path: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        nonlocal seen
        seen += 1
        # HDF5 goes down by recursion, and a worker's stack may be smaller than that of the process that probed.
        if path.count(b"/") >= _DEEPEST:
            return f"groups nested more than {_DEEPEST} deep"
        if seen > _MOST_LINKS:
            return f"more than {_MOST_LINKS} links"
        if link.type == h5py.h5l.TYPE_HARD:
            return None
        kind = "an external" if link.type == h5py.h5l.TYPE_EXTERNAL else "a soft"
        return f"{kind} link"

    found = file.id.links.visit(look, info=True)
    if found:
        raise unreadable("file", found, "data that lies in the file itself, without links")


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of the root that keeps its bytes in the file and needs no filter but the built-in ones."""
    identifier = h5py.h5o.open(file.id, name.encode())
    if not isinstance(identifier, h5py.h5d.DatasetID):
        raise unreadable(name, "a group", "a dataset")
    # Asked of the creation list first: the shape of a virtual dataset opens the files it points to.
    creation = identifier.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL:
        raise unreadable(name, "a virtual dataset", "data that lies in the file itself")
    if creation.get_external_count() > 0:
        raise unreadable(name, "external storage", "data that lies in the file itself")
    dataset = h5py.Dataset(identifier)
    check_layout(name, dataset)
    return dataset


def _attribute(holder: Any, name: str) -> float | str:
    identifier = holder.attrs.get_id(name)
    text = h5py.check_string_dtype(identifier.dtype) is not None
    # The size first: what an attribute declares is allocated when it is read.
    if identifier.shape not in ((), (1,)) or not (text or identifier.dtype.kind in "biuf"):
        raise unreadable(name, f"shape {identifier.shape} of {of_kind(identifier.dtype)}", "one number or one text")
    value = holder.attrs[name]
    return attribute(name, np.asarray(value, dtype=object) if text else np.asarray(value))


def _header(file: h5py.File) -> bytes | None:
    """The ISMRMRD header of a fastMRI file."""
    if "ismrmrd_header" not in file:
        return None
    dataset = _dataset(file, "ismrmrd_header")
    expected = f"one XML text of at most {_MOST_HEADER_BYTES} bytes"
    if dataset.shape not in ((), (1,)) or h5py.check_string_dtype(dataset.dtype) is None:
        raise unreadable("ismrmrd_header", f"shape {dataset.shape} of {of_kind(dataset.dtype)}", expected)
    if dataset.dtype.itemsize > _MOST_HEADER_BYTES:
        raise unreadable("ismrmrd_header", f"{dataset.dtype.itemsize} bytes", expected)
    check_stored("ismrmrd_header", dataset)
    value = np.asarray(dataset[()], dtype=object).reshape(-1)[0]
    header = value if isinstance(value, bytes) else str(value).encode()
    if len(header) > _MOST_HEADER_BYTES:
        raise unreadable("ismrmrd_header", f"{len(header)} bytes", expected)
    return header

"""HDF5 arrays of a file that may be hostile: it is opened so that it shows nothing but its own bytes.

Links out of the file, external storage, virtual datasets and filters that are not built in are refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region, regions
from udig_recon.core.formats.containers.hdf5_chunks import check_layout, check_stored
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.views import JoinedComplex
from udig_recon.core.formats.limits import dtype_name

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_LARGEST_USER_BLOCK = 1 << 20
_MOST_KEPT_BYTES = 256 << 20
_MOST_LINKS = 10_000
_DEEPEST = 32
_MOST_LISTED = 256
_PAIRS = (("real", "imag"), ("re", "im"))  # names of the parts of complex numbers beside h5py's own


@dataclass(frozen=True)
class OpenedHdf5:
    """An HDF5 file without links out of itself."""

    file: h5py.File
    datasets: tuple[str, ...]  # paths of the first datasets


def find_hdf5(file: ScanFile) -> bool:
    """Whether HDF5 begins at byte 0, or behind a user block of 512, 1024, 2048 ... bytes."""
    with file.stream() as stream:
        offset = 0
        while offset < min(file.size, _LARGEST_USER_BLOCK + 1):
            stream.seek(offset)
            if stream.read(len(SIGNATURE)) == SIGNATURE:
                return True
            offset = 2 * offset or 512
    return False


@contextmanager
def open_hdf5(file: ScanFile) -> Iterator[OpenedHdf5]:
    """The HDF5 file. Raises UnreadableScan where it has links that lead out of it."""
    with file.stream() as stream, h5py.File(stream, "r") as opened:
        yield OpenedHdf5(opened, tuple(_refuse_links(opened)))


def complex_or_real(name: str, dataset: h5py.Dataset, file_bytes: int) -> ArraySource:
    """A dataset as an array; pairs of floats, as MATLAB and others keep complex numbers, are joined."""
    fields = dataset.dtype.fields or {}
    is_pair = tuple(fields) in _PAIRS and dataset.dtype[0] == dataset.dtype[1]
    if is_pair and dataset.dtype[0].kind == "f" and dataset.dtype.itemsize == 2 * dataset.dtype[0].itemsize:
        return JoinedComplex(Hdf5Parts(name, dataset, file_bytes))
    return Hdf5Array(name, dataset, file_bytes)


class Hdf5Array(ArraySource):
    """A dataset whose bytes lie in the file itself."""

    def __init__(self, name: str, dataset: h5py.Dataset, file_bytes: int) -> None:
        if dataset.shape is None or dataset.dtype.hasobject or dataset.dtype.kind not in "biufc":
            raise UnreadableScan.at(
                name, f"shape {dataset.shape} of {dtype_name(dataset.dtype)}", "an array of numbers"
            )
        self._dataset = dataset
        self._kept: tuple[int, Array] | None = None  # the latest group of entries, with its number
        stored = min(file_bytes, dataset.id.get_storage_size())
        super().__init__(name, dataset.shape, dataset.dtype, stored)

    def check_stored(self) -> None:
        """Refuse a decompression bomb, and a dataset of which a part is missing."""
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
            depth = self._entries_per_chunk
            if depth == 1:
                self._dataset.read_direct(result, index, place)
                continue
            # Chunks that hold several entries would be unpacked once for each.
            if self._kept is None or self._kept[0] != index // depth:
                self._kept = index // depth, self._dataset[index // depth * depth : (index // depth + 1) * depth]
            result[place] = self._kept[1][index % depth]
        return result

    @property
    def _entries_per_chunk(self) -> int:
        """How many entries of the first axis share their chunks; 1 where so many would take too much memory."""
        depth = min(self._dataset.chunks[0], self.shape[0]) if self._dataset.chunks and self.shape[0] else 1
        return depth if depth * self.nbytes <= _MOST_KEPT_BYTES * self.shape[0] else 1


class Hdf5Parts(Hdf5Array):
    """A dataset of pairs of real numbers, as a last axis of 2."""

    def __init__(self, name: str, dataset: h5py.Dataset, file_bytes: int) -> None:
        self._dataset, self._part = dataset, dataset.dtype[0]
        stored = min(file_bytes, dataset.id.get_storage_size())
        ArraySource.__init__(self, name, (*dataset.shape, 2), self._part, stored)

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The dataset in order, in blocks of whole chunks."""
        for region in regions(self.shape[:-1], 2 * self.dtype.itemsize, self._dataset.chunks):
            yield (*region, slice(0, 2)), self._parts(self._dataset[region])

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        # Not stacked as records: numpy would turn their bytes round on the way.
        return np.stack([self._parts(self._dataset[index]) for index in indices])

    def _parts(self, pairs: Array) -> Array:
        parts: Array = np.ascontiguousarray(pairs).view(self._part).reshape(*pairs.shape, 2)
        return parts


def _refuse_links(file: h5py.File) -> list[str]:
    """Check every link without following any. Returns the paths of the first datasets."""
    count = 0
    paths: list[bytes] = []

    def check(path: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        nonlocal count
        count += 1
        # HDF5 goes down by recursion, and a worker's stack may be smaller than that of the process that probed.
        if path.count(b"/") >= _DEEPEST:
            return f"groups nested more than {_DEEPEST} deep"
        if count > _MOST_LINKS:
            return f"more than {_MOST_LINKS} links"
        if link.type == h5py.h5l.TYPE_HARD:
            if len(paths) < _MOST_LISTED:
                paths.append(path)
            return None
        kind = "an external" if link.type == h5py.h5l.TYPE_EXTERNAL else "a soft"
        return f"{kind} link"

    found = file.id.links.visit(check, info=True)
    if found:
        raise UnreadableScan.at(
            "file", found, "data that lies in the file itself, without links (copy what they point to)"
        )
    return [path.decode("utf-8", "replace") for path in paths if _is_dataset(file, path)]


def _is_dataset(file: h5py.File, path: bytes) -> bool:
    return bool(h5py.h5o.get_info(file.id, path).type == h5py.h5o.TYPE_DATASET)


def open_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset by its path. Raises UnreadableScan unless its bytes lie in the file, packed by built-in filters."""
    dataset = open_inside(file, name)
    check_layout(name, dataset)
    return dataset


def open_inside(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset by its path, its chunks and filters unchecked. Raises UnreadableScan unless it lies in the file."""
    identifier = h5py.h5o.open(file.id, name.encode())
    if not isinstance(identifier, h5py.h5d.DatasetID):
        raise UnreadableScan.at(name, "a group", "a dataset")
    # Asked of the creation list first: the shape of a virtual dataset opens the files it points to.
    creation = identifier.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL:
        raise UnreadableScan.at(name, "a virtual dataset", "data that lies in the file itself")
    if creation.get_external_count() > 0:
        raise UnreadableScan.at(name, "external storage", "data that lies in the file itself")
    return h5py.Dataset(identifier)

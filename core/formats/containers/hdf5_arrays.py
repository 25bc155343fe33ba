"""HDF5 arrays of a file that may be hostile: it is opened so that it shows nothing but its own bytes.

Links out of the file, external storage, virtual datasets and filters that are not built in are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region, regions
from udig_recon.core.formats.containers.hdf5_chunks import check_layout, check_stored
from udig_recon.core.formats.containers.hdf5_heap import check_global_heap
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
_PAIRS = (("real", "imag"), ("re", "im"), ("r", "i"), ("real", "imaginary"))
"""Names of the parts of complex numbers, in small letters, beside h5py's own."""


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
def open_hdf5(file: ScanFile, *, soft_links: bool = False, remedy: str = "") -> Iterator[OpenedHdf5]:
    """The HDF5 file. Raises UnreadableScan where it has links that lead out of it, with the remedy.

    Soft links are refused too unless the format has them: without an external link they stay in the file.
    """
    check_global_heap(file)
    with file.stream() as stream, h5py.File(stream, "r") as opened:
        yield OpenedHdf5(opened, tuple(_refuse_links(opened, soft_links=soft_links, remedy=remedy)))


@contextmanager
def peek_hdf5(file: ScanFile) -> Iterator[h5py.File]:
    """The HDF5 file before its links are checked: use nothing of it but `has_member` and `is_group`."""
    check_global_heap(file)
    with file.stream() as stream, h5py.File(stream, "r") as opened:
        yield opened


def has_member(file: h5py.File, path: str) -> bool:
    """Whether something, or a link, lies at a path of groups. No link is followed, so no other file is opened."""
    *groups, last = path.split("/")
    group = file
    for name in groups:
        if not is_group(group, name):
            return False
        group = group[name]
    return bool(group.id.links.exists(last.encode()))


def is_group(file: h5py.Group, path: str) -> bool:
    """Whether a group lies at a path of hard links. No link is followed."""
    group = file
    for name in path.split("/"):
        there = group.id.links.exists(name.encode())
        if not there or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return False
        group = group.get(name)
        if not isinstance(group, h5py.Group):
            return False
    return True


def attribute_text(dataset: h5py.Dataset, name: str) -> str | None:
    """A short text attribute, such as units; None where there is none."""
    if name not in dataset.attrs:
        return None
    identifier = dataset.attrs.get_id(name)
    if identifier.shape not in ((), (1,)) or h5py.check_string_dtype(identifier.dtype) is None:
        return None
    value = np.asarray(dataset.attrs[name], dtype=object).reshape(-1)[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def small_number(dataset: h5py.Dataset) -> float | None:
    """The one number of a dataset; None where it holds something else."""
    if dataset.shape not in ((), (1,), (1, 1)) or dataset.dtype.kind not in "iuf":
        return None
    check_stored(dataset.name, dataset)
    return float(np.ravel(dataset[()])[0])


def complex_or_real(name: str, dataset: h5py.Dataset, file_bytes: int) -> ArraySource:
    """A dataset as an array; pairs of floats, as MATLAB and others keep complex numbers, are joined."""
    fields = dataset.dtype.fields or {}
    is_pair = tuple(map(str.lower, fields)) in _PAIRS and dataset.dtype[0] == dataset.dtype[1]
    if is_pair and dataset.dtype[0].kind == "f" and dataset.dtype.itemsize == 2 * dataset.dtype[0].itemsize:
        return JoinedComplex(Hdf5Parts(name, dataset, file_bytes))
    return Hdf5Array(name, dataset, file_bytes)


class Hdf5Array(ArraySource):
    """A dataset whose bytes lie in the file itself."""

    _is_checked = False
    """whether its stored bytes have been looked at, which several views of it may ask for"""

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
        if not self._is_checked:
            check_stored(self.name, self._dataset)
            self._is_checked = True

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The dataset in order, in blocks of whole chunks."""
        for region in regions(self.shape, self.dtype.itemsize, self._dataset.chunks):
            yield region, self._dataset[region]

    @property
    def chunk(self) -> tuple[int, ...]:
        """Sides of the pieces in which the dataset is packed."""
        return self._dataset.chunks or super().chunk

    def part(self, cuts: Region) -> Iterator[tuple[Region, Array]]:
        """The part of the dataset within `cuts`, in blocks; nothing else is read where it is not packed."""
        shape = tuple(cut.stop - cut.start for cut in cuts)
        sides = tuple(min(side, max(length, 1)) for side, length in zip(self.chunk, shape, strict=True))
        for region in regions(shape, self.dtype.itemsize, sides):
            place = tuple(slice(c.start + r.start, c.start + r.stop) for c, r in zip(cuts, region, strict=True))
            yield place, self._dataset[place]

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

    def select(self, places: Mapping[int, int]) -> Array:
        """The values at these places of some axes, without them."""
        found: Array = self._dataset[tuple(places.get(axis, slice(None)) for axis in range(len(self.shape)))]
        return found

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

    def select(self, places: Mapping[int, int]) -> Array:
        """The values at these places of some axes but the last, without them."""
        chosen = tuple(places.get(axis, slice(None)) for axis in range(len(self.shape) - 1))
        return self._parts(np.asarray(self._dataset[chosen]))

    def _parts(self, pairs: Array) -> Array:
        parts: Array = np.ascontiguousarray(pairs).view(self._part).reshape(*pairs.shape, 2)
        return parts


def _refuse_links(file: h5py.File, *, soft_links: bool, remedy: str) -> list[str]:
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
        if soft_links and link.type == h5py.h5l.TYPE_SOFT:
            return None
        kind = "an external" if link.type == h5py.h5l.TYPE_EXTERNAL else "a soft"
        return f"{kind} link"

    found = file.id.links.visit(check, info=True)
    if found:
        cure = remedy or "copy what they point to"
        raise UnreadableScan.at("file", found, f"data that lies in the file itself, without links ({cure})")
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

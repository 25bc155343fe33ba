"""HDF5 opened so that it can show nothing but its own bytes: no links out, no external storage, no foreign filters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import (
    ARRAYS,
    ATTRIBUTES,
    EITHER,
    NAMES,
    Array,
    ArraySource,
    Contents,
    InMemory,
    Region,
    attribute,
    regions,
)
from udig_recon.core.formats.containers.hdf5_chunks import check_layout, check_stored
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.source import ScanFile
from udig_recon.core.formats.containers.unsupported_layouts import known_layout
from udig_recon.core.formats.containers.views import Joined, Swapped
from udig_recon.core.formats.kspace.synonyms import spelt
from udig_recon.core.formats.limits import of_kind, quoted

SIGNATURE = b"\x89HDF\r\n\x1a\n"
RESULT_MARK = "udig_recon_result"

_MOST_KEPT_BYTES = 256 << 20
_MOST_LINKS = 10_000
_DEEPEST = 32
_MOST_HEADER_BYTES = 1 << 20
_MOST_TEXT_BYTES = 4096
_MOST_DETECTORS = 65536
_MOST_OTHERS = 256
# What fastMRI's files, MATLAB's, netCDF and h5py's dimension scales have beside what is read.
_SILENT = frozenset(
    (
        *("ismrmrd_header", "acquisition", "max", "norm", "patient_id", "padding_left", "padding_right"),
        *("acceleration", "num_low_frequency", "MATLAB_class", "MATLAB_int_decode"),
        *("CLASS", "NAME", "DIMENSION_LABELS"),
    )
)
_MATLAB = b"MATLAB 7.3"
_PAIRS = (("real", "imag"), ("re", "im"))  # names of the parts of complex numbers beside h5py's own
_SWAPPED = ("kspace", "mask", "sensitivity_maps", "reference", "guide", "reconstruction_rss", "reconstruction_esc")


class Hdf5Array(ArraySource):
    """A dataset whose bytes lie in the file itself."""

    def __init__(self, name: str, dataset: h5py.Dataset, file_bytes: int) -> None:
        if dataset.shape is None or dataset.dtype.hasobject or dataset.dtype.kind not in "biufc":
            raise UnreadableScan.at(name, f"shape {dataset.shape} of {of_kind(dataset.dtype)}", "an array of numbers")
        self._dataset = dataset
        self._kept: tuple[int, Array] | None = None  # the number of a group of entries, and they
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
            depth = self._together
            if depth == 1:
                self._dataset.read_direct(result, index, place)
                continue
            # Chunks that hold several entries would be unpacked once for each.
            if self._kept is None or self._kept[0] != index // depth:
                self._kept = index // depth, self._dataset[index // depth * depth : (index // depth + 1) * depth]
            result[place] = self._kept[1][index % depth]
        return result

    @property
    def _together(self) -> int:
        """Entries of the first axis that lie in the same chunks, if memory for all of them may be taken."""
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


def _array(name: str, dataset: h5py.Dataset, file_bytes: int, matlab: bool) -> ArraySource:
    """A dataset as the array that is meant: MATLAB keeps complex numbers as pairs, and the axes the other way round."""
    fields = dataset.dtype.fields or {}
    pair = tuple(fields) in _PAIRS and dataset.dtype[0] == dataset.dtype[1]
    if pair and dataset.dtype[0].kind == "f" and dataset.dtype.itemsize == 2 * dataset.dtype[0].itemsize:
        source: ArraySource = Joined(Hdf5Parts(name, dataset, file_bytes))
    else:
        source = Hdf5Array(name, dataset, file_bytes)
    return Swapped(source) if matlab and name in _SWAPPED and len(source.shape) > 1 else source


@contextmanager
def opened(scan: ScanFile) -> Iterator[Contents]:
    """The arrays and attributes of an HDF5 scan. Raises UnreadableScan where it points outside itself."""
    matlab = scan.start(len(_MATLAB)) == _MATLAB
    with scan.stream() as stream, h5py.File(stream, "r") as file:
        paths = _refuse_links(file)
        if RESULT_MARK in file.attrs:
            raise UnreadableScan.at("file", "a reconstruction made by this software", "a scan: k-space or a sinogram")
        names = spelt(file, ARRAYS)
        arrays = {name: _array(name, _dataset(file, names[name]), scan.size, matlab) for name in names}
        holders = [file, *(file[names[name]] for name in ("kspace", "sinogram") if name in names)]
        values: dict[str, list[float | str | ArraySource]] = {}
        for name in (*ATTRIBUTES, *EITHER):
            given = [_attribute(holder, name) for holder in holders if name in holder.attrs]
            given += [_scalar(file, name, scan.size)] if name in file else []
            if given:
                values[name] = given
        attributes = {name: _only(name, given) for name, given in values.items()}
        others = dict.fromkeys((*paths, *(key for holder in holders for key in holder.attrs)))
        yield Contents(
            "matlab" if matlab else "hdf5",
            arrays | {name: value for name, value in attributes.items() if isinstance(value, ArraySource)},
            {name: value for name, value in attributes.items() if not isinstance(value, ArraySource)},
            _header(file),
            tuple(name for name in others if name not in {*NAMES, *_SILENT, *names.values()}),
            None if arrays.keys() & {"kspace", "sinogram"} else known_layout(file),
            tuple((theirs, ours) for ours, theirs in names.items() if ours != theirs),
        )


def _only(name: str, given: list[float | str | ArraySource]) -> float | str | ArraySource:
    """The value of what may stand at the file, at its main array and as a dataset: all must say the same."""
    numbers = [value for value in given if not isinstance(value, ArraySource)]
    if len(given) > 1 and (len(numbers) < len(given) or any(value != numbers[0] for value in numbers)):
        raise UnreadableScan.at(name, f"different values: {', '.join(quoted(value) for value in numbers)}", "one value")
    return given[0]


def _refuse_links(file: h5py.File) -> list[str]:
    """Look at every link without following any; gives the paths of the first datasets."""
    seen = 0
    paths: list[bytes] = []

    def look(path: bytes, link: h5py.h5l.LinkInfo) -> str | None:
        nonlocal seen
        seen += 1
        # HDF5 goes down by recursion, and a worker's stack may be smaller than that of the process that probed.
        if path.count(b"/") >= _DEEPEST:
            return f"groups nested more than {_DEEPEST} deep"
        if seen > _MOST_LINKS:
            return f"more than {_MOST_LINKS} links"
        if link.type == h5py.h5l.TYPE_HARD:
            if len(paths) < _MOST_OTHERS:
                paths.append(path)
            return None
        kind = "an external" if link.type == h5py.h5l.TYPE_EXTERNAL else "a soft"
        return f"{kind} link"

    found = file.id.links.visit(look, info=True)
    if found:
        raise UnreadableScan.at(
            "file", found, "data that lies in the file itself, without links (copy what they point to)"
        )
    return [path.decode("utf-8", "replace") for path in paths if _is_dataset(file, path)]


def _is_dataset(file: h5py.File, path: bytes) -> bool:
    return bool(h5py.h5o.get_info(file.id, path).type == h5py.h5o.TYPE_DATASET)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of the root that keeps its bytes in the file and needs no filter but the built-in ones."""
    identifier = h5py.h5o.open(file.id, name.encode())
    if not isinstance(identifier, h5py.h5d.DatasetID):
        raise UnreadableScan.at(name, "a group", "a dataset")
    # Asked of the creation list first: the shape of a virtual dataset opens the files it points to.
    creation = identifier.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL:
        raise UnreadableScan.at(name, "a virtual dataset", "data that lies in the file itself")
    if creation.get_external_count() > 0:
        raise UnreadableScan.at(name, "external storage", "data that lies in the file itself")
    dataset = h5py.Dataset(identifier)
    check_layout(name, dataset)
    return dataset


def _attribute(holder: Any, name: str) -> float | str | ArraySource:
    identifier = holder.attrs.get_id(name)
    # The size first: what an attribute declares is allocated when it is read.
    _check_small(name, identifier.shape, identifier.dtype)
    return _value(name, holder.attrs[name], identifier.dtype)


def _scalar(file: h5py.File, name: str, file_bytes: int) -> float | str | ArraySource:
    """A dataset where an attribute would do as well, as in .npz."""
    dataset = _dataset(file, name)
    if name in EITHER and dataset.shape not in ((), (1,)):
        return Hdf5Array(name, dataset, file_bytes)
    _check_small(name, dataset.shape, dataset.dtype)
    check_stored(name, dataset)
    return _value(name, dataset[()], dataset.dtype)


def _check_small(name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> None:
    text = h5py.check_string_dtype(dtype) is not None
    if shape in ((), (1,)) and (text or dtype.kind in "biuf") and dtype.itemsize <= _MOST_TEXT_BYTES:
        return
    if name in EITHER:
        if shape is not None and len(shape) == 1 and 0 < shape[0] <= _MOST_DETECTORS and dtype.kind in "iuf":
            return
        raise UnreadableScan.at(name, f"shape {shape} of {of_kind(dtype)}", "one number, or one for each detector")
    cure = "; ismrmrd_header tells of pixels of unlike sides" if name == "pixel_spacing_mm" else ""
    raise UnreadableScan.at(name, f"shape {shape} of {of_kind(dtype)}", f"one number or one text{cure}")


def _value(name: str, value: Any, dtype: np.dtype[Any]) -> float | str | ArraySource:
    text = h5py.check_string_dtype(dtype) is not None
    values = np.asarray(value, dtype=object) if text else np.asarray(value)
    return InMemory(name, values) if values.size > 1 else attribute(name, values)


def _header(file: h5py.File) -> bytes | None:
    """The ISMRMRD header of a fastMRI file."""
    if "ismrmrd_header" not in file:
        return None
    dataset = _dataset(file, "ismrmrd_header")
    expected = f"one XML text of at most {_MOST_HEADER_BYTES} bytes"
    if dataset.shape not in ((), (1,)) or h5py.check_string_dtype(dataset.dtype) is None:
        raise UnreadableScan.at("ismrmrd_header", f"shape {dataset.shape} of {of_kind(dataset.dtype)}", expected)
    if dataset.dtype.itemsize > _MOST_HEADER_BYTES:
        raise UnreadableScan.at("ismrmrd_header", f"{dataset.dtype.itemsize} bytes", expected)
    check_stored("ismrmrd_header", dataset)
    value = np.asarray(dataset[()], dtype=object).reshape(-1)[0]
    header = value if isinstance(value, bytes) else str(value).encode()
    if len(header) > _MOST_HEADER_BYTES:
        raise UnreadableScan.at("ismrmrd_header", f"{len(header)} bytes", expected)
    return header

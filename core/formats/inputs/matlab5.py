"""Input format MATLAB 5: what MATLAB saves with -v6 or -v7 (its default), and scipy.io.savemat."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from struct import pack

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import ArraySource, parse_attribute
from udig_recon.core.formats.containers.matlab_arrays import (
    SIGNATURE,
    MatlabStruct,
    MatlabValue,
    NoArray,
    read_variables,
)
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.views import RenamedArray
from udig_recon.core.formats.input_format import ARRAYS, ARRAYS_OR_ATTRIBUTES, ATTRIBUTES, NAMES, Contents
from udig_recon.core.formats.inputs.heltomo import heltomo_contents
from udig_recon.core.formats.inputs.matlab import reorder_axes
from udig_recon.core.formats.synonyms import match_names

Layout = Callable[[MatlabStruct], Contents | None]

LAYOUTS: tuple[Layout, ...] = (heltomo_contents,)
"""Layouts of known data sets: each gives the contents of a file that has its structs, None of any other."""

_REMEDIES = {"a sparse matrix": ": full(...)", "a cell array": ": cat(4, ...{:})"}


class Matlab5:
    """A MATLAB file that is not HDF5."""

    name = "MATLAB 5"
    expected = "MATLAB 5 with kspace or a sinogram"

    def sniff(self, file: ScanFile) -> bool:
        """Whether the file begins with MATLAB's words of version 5."""
        return file.start(len(SIGNATURE)) == SIGNATURE

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The variables of known names, or the fields of the one struct that has them, in our order of axes."""
        variables = read_variables(file)
        known = (layout(variables) for layout in LAYOUTS)
        yield next((each for each in known if each is not None), None) or _contents(variables)

    def samples(self) -> Sequence[bytes]:
        """k-space, packed, and texts of every kind."""
        kspace = _variable(7, 8, (8, 8, 2), "kspace", *(_element(7, pack("<128f", *[1.0] * 128)) for _ in range(2)))
        texts = [_variable(4, 0, (1, 1), f"text{kind}", _element(kind, bytes(4))) for kind in (1, 2, 4, 16, 17, 18)]
        fields = b"".join(_variable(4, 0, (1, 1), "", _element(16, b"text")) for _ in range(2))
        struct_ = _variable(2, 0, (1, 1), "struct", _element(5, pack("<I", 8)), _element(1, bytes(16)), fields)
        packed = zlib.compress(kspace)
        header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
        return (header + pack("<II", 15, len(packed)) + packed + b"".join(texts) + struct_,)


FORMAT = Matlab5()


def _contents(variables: MatlabStruct) -> Contents:
    """The variables of known names. Raises UnreadableScan where one of them is no array."""
    fields, struct_ = _find_struct(variables)
    names = match_names(fields, NAMES)
    arrays = {ours: _numbers(ours, fields[theirs]) for ours, theirs in names.items() if ours in ARRAYS}
    attributes: dict[str, float | str] = {}
    for name in (*ATTRIBUTES, *ARRAYS_OR_ATTRIBUTES):
        value = fields[names[name]] if name in names else None
        if isinstance(value, str):
            attributes[name] = value
        elif value is not None:
            numbers = _numbers(name, value)
            if name in ARRAYS_OR_ATTRIBUTES and math.prod(numbers.shape) != 1:
                arrays[name] = numbers
            else:
                attributes[name] = _attribute(numbers)
    renamed = {f"{struct_}{theirs}": ours for ours, theirs in names.items()}
    contents = Contents(
        format="matlab",
        arrays=arrays,
        attributes=attributes,
        renamed=tuple((theirs, ours) for theirs, ours in renamed.items() if theirs != ours),
        unused=tuple(name for name in fields if name not in {*NAMES, *names.values()}),
    )
    return reorder_axes(contents, "MATLAB 5")


def _find_struct(variables: MatlabStruct) -> tuple[MatlabStruct, str]:
    """The variables, or the fields of the one struct that holds k-space or a sinogram, and its name with a dot."""
    wanted = ("kspace", "sinogram")
    if match_names(variables, wanted):
        return variables, ""
    structs = {name: value for name, value in variables.items() if isinstance(value, Mapping)}
    found = [name for name, fields in structs.items() if match_names(fields, wanted)]
    if not found:
        return variables, ""
    if len(found) > 1:
        raise UnreadableScan.at("file", f"{len(found)} structs with k-space or a sinogram", "one of them")
    beside = {name: value for name, value in variables.items() if name != found[0]}
    return {**beside, **structs[found[0]]}, f"{found[0]}."


def _numbers(name: str, value: MatlabValue) -> ArraySource:
    if isinstance(value, ArraySource):
        return RenamedArray(value, name)
    if isinstance(value, NoArray):
        raise UnreadableScan.at(name, value.kind, f"an array of numbers{_REMEDIES.get(value.kind, '')}")
    raise UnreadableScan.at(name, "a text" if isinstance(value, str) else "a struct", "an array of numbers")


def _attribute(numbers: ArraySource) -> float | str:
    if math.prod(numbers.shape) != 1:
        raise UnreadableScan.at(numbers.name, f"shape {numbers.shape[::-1]}", "one number or one text")
    return parse_attribute(numbers.name, numbers.whole())


def _element(kind: int, content: bytes) -> bytes:
    return pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def _variable(class_: int, flags: int, sides: tuple[int, ...], name: str, *content: bytes) -> bytes:
    head = _element(6, bytes((class_, flags, 0, 0, 0, 0, 0, 0)))
    head += _element(5, pack(f"<{len(sides)}i", *sides)) + _element(1, name.encode())
    return _element(14, head + b"".join(content))

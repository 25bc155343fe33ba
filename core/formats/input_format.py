"""What an input format is: it recognises its files, and opens them to the arrays that every scan has.

`core/formats/kspace` and `core/formats/sinogram` check and read those arrays, whatever file they come from.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from udig_recon.core.acquisition import Acquisition, Frame, ScanHeader
from udig_recon.core.formats.containers.arrays import ArraySource
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.limits import Limits
from udig_recon.core.formats.prepared import ReservedArrays
from udig_recon.core.identity import Identity

MRI_ARRAYS = (
    "kspace",
    "trajectory",
    "density",
    "mask",
    "sensitivity_maps",
    "noise",
    "reference",
    "guide",
    "reconstruction_rss",
    "reconstruction_esc",
)
"""Names of the arrays that a k-space scan may hold; docs/formats.md says their axes."""

ARRAYS = (
    *MRI_ARRAYS,
    "sinogram",
    "angles",
)
ATTRIBUTES = (
    "axes",
    "geometry",
    "quantity",
    "image_size",
    "pixel_size_mm",
    "detector_spacing_mm",
    "pixel_spacing_mm",
    "rotation_center",
    "source_origin_mm",
    "source_detector_mm",
    "origin_detector_mm",
    "detector_shape",
    "slice_spacing_mm",
    "slice_thickness_mm",
    "water_attenuation_per_mm",
)
ARRAYS_OR_ATTRIBUTES = ("i0", "flat", "dark")
"""One number for all detectors, or an array with one for each."""
NAMES = frozenset((*ARRAYS, *ATTRIBUTES, *ARRAYS_OR_ATTRIBUTES))

_MOST_LISTED = 8
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}(/[A-Za-z][A-Za-z0-9_]{0,39}){0,3}")
_LONG_NUMBER = re.compile(r"[0-9]{5}")


@dataclass(frozen=True)
class UnsupportedFormat:
    """A known kind of file that is not read."""

    name: str
    remedy: str  # how to convert it to a format that is read


@dataclass(frozen=True)
class Contents:
    """What an opened scan file holds, under the names of `ARRAYS` and `ATTRIBUTES`."""

    format: str  # name for the scan's header: "fastmri_hdf5", "npz"
    arrays: Mapping[str, ArraySource]
    attributes: Mapping[str, float | str] = field(default_factory=dict)
    header_xml: bytes | None = None  # ISMRMRD header
    missing_axis: Literal["slices", "coils"] = "slices"  # of k-space with three axes
    warnings: tuple[str, ...] = ()  # what a user has to know of how the file was understood
    renamed: tuple[tuple[str, str], ...] = ()  # arrays of another name in the file: that name, and ours
    unused: tuple[str, ...] = ()  # names of everything else in the file, as it spells them
    unsupported: UnsupportedFormat | None = None  # what the file is, where it holds neither kspace nor sinogram
    reader: "ArrayReader | None" = None  # of a scan with a forward model of its own; None: k-space or sinogram
    frames: tuple[Frame, ...] = ()  # as in the scan's header, where the format tells of more than slices
    averages: int | None = None  # MRI: how often each line was measured
    corrections: tuple[str, ...] = ()  # what was done to the measurements when they were read
    identity: Identity = field(default_factory=Identity)  # kept beside the scan, never in its header
    remedy: str = ""  # advice where the array is not complex, as k-space is


class ArrayReader(Protocol):
    """Checks and reads the arrays of one kind of scan, as `kspace.reader` and `sinogram.reader` do."""

    @property
    def USED(self) -> frozenset[str]:  # noqa: N802
        """Names of the arrays and attributes that have a meaning; others are warned of."""
        ...

    def slice_count(self, contents: Contents) -> int:
        """Number of slices."""
        ...

    def check_limits(self, contents: Contents, limits: Limits) -> None:
        """Refuse a scan that is too large, by the sizes that its arrays declare. Raises UnsupportedScan."""
        ...

    def probe(self, contents: Contents) -> ScanHeader:
        """Header of a scan whose every value has been looked at. Raises UnreadableScan."""
        ...

    def read(self, contents: Contents, slices: Sequence[int]) -> Acquisition:
        """The wanted slices: an acquisition, a frozen dataclass of arrays and plain values."""
        ...


@runtime_checkable
class AssemblingReader(Protocol):
    """A reader whose slices come of all data together, and which writes an array of each to the prepared scan itself.

    Where there is room for that, it is asked before it probes and reads; else it makes do with its memory.
    """

    def assemble(self, contents: Contents, reserved: ReservedArrays) -> None:
        """Write the array in pieces, in any order. Sizes were checked. Raises UnreadableScan."""
        ...


@runtime_checkable
class InputFormat(Protocol):
    """A file format in which scans are read.

    All of it runs in a sandboxed process that cannot open further files. `samples` are read once before the sandbox
    closes, so that modules which are imported on first use are there.
    """

    @property
    def name(self) -> str:
        """Name of the format for messages: "HDF5"."""
        ...

    @property
    def expected(self) -> str:
        """What a file of this format must hold, for the message about a file of no known format."""
        ...

    def sniff(self, file: ScanFile) -> bool:
        """Whether the file is of this format. Formats may share a signature: the first that says so reads the file."""
        ...

    def open(self, file: ScanFile) -> AbstractContextManager[Contents]:
        """The file's contents, which are read while the context lasts. Raises UnreadableScan."""
        ...

    def samples(self) -> Sequence[bytes]:
        """Small whole files of this format that together use all of its code."""
        ...


def printable_names(names: Iterable[str]) -> str:
    """Names in a file for a message: a few of them, and the number of all others.

    Only names that look like a programmer's are printed: what a scanner writes may be a patient's name or number.
    """
    distinct = list(dict.fromkeys(names))
    plain = [name for name in distinct if _IDENTIFIER.fullmatch(name) and not _LONG_NUMBER.search(name)]
    listed = plain[:_MOST_LISTED]
    left = len(distinct) - len(listed)
    if not listed:
        return f"{left} of other names"
    return ", ".join(listed) + (f" and {left} more" if left else "")

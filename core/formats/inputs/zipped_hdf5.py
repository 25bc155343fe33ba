"""Input format zip of HDF5 files: repetitions of a scan, as M4Raw has them, or k-space and its mask in two files."""

import base64
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from udig_recon.core.acquisition import Frame
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arranged import Stacked
from udig_recon.core.formats.containers.arrays import ArraySource
from udig_recon.core.formats.containers.hdf5_arrays import find_hdf5, open_hdf5
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.zip_archive import SIGNATURE, ZipMember, member_names, read_archive
from udig_recon.core.formats.input_format import Contents, printable_names
from udig_recon.core.formats.inputs.hdf5 import read_contents
from udig_recon.core.formats.inputs.matlab import SIGNATURE as MATLAB
from udig_recon.core.formats.inputs.matlab import reorder_axes

_ENDINGS = (".h5", ".hdf5", ".hdf", ".mat")
_MOST_FILES = 64
_SHARED = ("kspace", "reference", "guide", "reconstruction_rss", "reconstruction_esc")
"""Arrays of which every repetition has its own; of all others the first file's are taken."""

# Two files of k-space of 1 x 1 x 8 x 8, as h5py and zipfile write them.
_SAMPLE = (
    "c-jl_W@Zs#U|`??V#S!QqY27qfvg601_o9jU1F%0Vfy+@LE+=4lO828F!J%SiLo)VrF@X*lDZN2)8HqI##xS~)(gIHsm-uZj__mB(&I3dk"
    "B#-1uv**WYrP4>=HpGgPQ?a2O%pk6Vq}>eN?4}wdoNX=5pXqCTwFzMxzeS@?5*F7n2K3W=<vBo$R{Z&b1Qr8YQHFxVWL=>*2cDBj)btwnh"
    "uY0POTHnv209SJdb2}9({EPQw!;9<=MN&;kM(ugruaTmL2?)l4nZlCLCMXTGISiqqkqIK<3;(?r)#V8K=J4P_pKLO_bY2W`+P1|FW+B8in"
    "FtqoL?uljg&C{L9EB!i+nHVW5GL0T$orTF?Utq2&WC$O61s*+4=}K$r%kAAn5*0K>VrGy"
)


class ZippedHdf5:
    """A zip archive of HDF5 files of one scan."""

    name = "zip of HDF5"
    expected = "a zip of the HDF5 files of one scan"

    def sniff(self, file: ScanFile) -> bool:
        """Whether it is a zip archive of HDF5 files alone, whatever else lies beside them."""
        if file.start(len(SIGNATURE)) != SIGNATURE:
            return False
        try:
            names = member_names(file)
        except UnreadableScan:
            return False
        others = any(name.endswith((".npy", ".cfl", ".hdr")) for name in names)
        return not others and any(name.endswith(_ENDINGS) for name in names)

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The arrays of all files together."""
        members = [member for member in read_archive(file).values() if member.name.endswith(_ENDINGS)]
        if len(members) > _MOST_FILES:
            raise UnreadableScan.at("file", f"{len(members)} HDF5 files", f"at most {_MOST_FILES}, of one scan")
        with ExitStack() as stack:
            parts = [_open(stack, member) for member in sorted(members, key=lambda member: member.path)]
            yield _joined([part for part in parts if part is not None])

    def samples(self) -> Sequence[bytes]:
        """Two repetitions, packed."""
        return (zlib.decompress(base64.b85decode(_SAMPLE)),)


def _open(stack: ExitStack, member: ZipMember) -> Contents | None:
    """The arrays of one file; None where it is no HDF5."""
    member.check_crc()
    file = member.open()
    if not find_hdf5(file):
        return None
    opened = stack.enter_context(open_hdf5(file))
    contents = read_contents(opened, member.packed_bytes)
    is_matlab = file.start(len(MATLAB)) == MATLAB
    return reorder_axes(contents, "MATLAB 7.3") if is_matlab else contents


def _joined(parts: Sequence[Contents]) -> Contents:
    """The contents of all files together."""
    scans = [part for part in parts if "kspace" in part.arrays]
    if not scans:
        held = printable_names(name for part in parts for name in (*part.arrays, *part.unused))
        raise UnreadableScan.at("file", f"a zip of {len(parts)} HDF5 files without kspace (they hold {held})", "kspace")
    first = scans[0]
    arrays: dict[str, ArraySource] = dict(first.arrays)
    frames: tuple[Frame, ...] = ()
    notes: list[str] = []
    if len(scans) > 1:
        shape = first.arrays["kspace"].shape
        for part in scans:
            if part.arrays["kspace"].shape != shape or part.format != first.format:
                found = f"shapes {shape} and {part.arrays['kspace'].shape} in the files of one zip"
                raise UnreadableScan.at("kspace", found, "repetitions of one scan, of one shape; scans one by one")
        if len(shape) not in (4, 5):
            raise UnreadableScan.at("kspace", f"{len(shape)} axes", "files of (slices, coils, ky, kx) each")
        for name in _SHARED:
            sources = [part.arrays[name] for part in scans if name in part.arrays]
            if sources and (len(sources) < len(scans) or any(one.shape != sources[0].shape for one in sources)):
                raise UnreadableScan.at(name, "not the same in every file of the zip", "one for each, of one shape")
            if sources:
                arrays[name] = Stacked(sources)
        slices = shape[0]
        frames = tuple(Frame(slice=at, repetition=number) for number in range(len(scans)) for at in range(slices))
        notes.append(
            f"a zip of {len(scans)} files of k-space: they are read as repetitions, in the order of their names"
        )
    for part in parts:
        if part not in scans:
            arrays |= {name: source for name, source in part.arrays.items() if name not in arrays}
    attributes = {name: value for part in reversed(parts) for name, value in part.attributes.items()}
    return replace(
        first,
        arrays=arrays,
        attributes=attributes,
        header_xml=next((part.header_xml for part in scans if part.header_xml is not None), None),
        frames=frames or first.frames,
        renamed=tuple(dict.fromkeys(each for part in parts for each in part.renamed)),
        unused=tuple(dict.fromkeys(each for part in parts for each in part.unused)),
        warnings=(*first.warnings, *notes),
    )


FORMAT = ZippedHdf5()

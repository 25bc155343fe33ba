"""Input format BART: .cfl with its .hdr, several arrays in a zip, or one array as the bytes of both."""

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from udig_recon.core.acquisition import Frame
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers import cfl_arrays as cfl
from udig_recon.core.formats.containers.arrays import Array, ArraySource, InMemory, Region
from udig_recon.core.formats.containers.cfl_arrays import (
    AVERAGE,
    COIL,
    FRAME_DIMENSIONS,
    HEADER_MARK,
    MAPS,
    PHASE_1,
    PHASE_2,
    READ,
    Cfl,
    CflArray,
    CflVolume,
    cfl_bytes,
    parse_header,
    plane,
    read_values,
)
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.zip_archive import ZipMember, member_names, read_archive
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.synonyms import match_names

_MOST_HEADER_BYTES = 64 << 10
_MOST_PATTERN_BYTES = 256 << 20
_USED = {READ, PHASE_1, PHASE_2, COIL, MAPS, AVERAGE, *FRAME_DIMENSIONS}
_ARRAYS = ("kspace", "sensitivity_maps", "mask")
_WORDS = {"sensitivity_maps": ("sens", "maps", "csm", "coil"), "mask": ("pat", "mask"), "trajectory": ("traj", "trj")}


@dataclass(frozen=True)
class _Named:
    """An array with what its file is called."""

    name: str
    array: Cfl
    stored_bytes: int
    member: ZipMember | None  # None: no archive


class Bart:
    """Arrays of the Berkeley Advanced Reconstruction Toolbox."""

    name = "BART"
    expected = "a zip of BART's .cfl and .hdr"

    def sniff(self, file: ScanFile) -> bool:
        """Whether it is an archive of .cfl files, or begins or ends with a .hdr that fits the rest."""
        if any(name.endswith(".cfl") for name in member_names(file)):
            return True
        return _joined(file) is not None

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """k-space, sensitivity maps and the pattern by the names of their files."""
        joined = _joined(file)
        arrays = _archived(file) if joined is None else [_Named("kspace", joined, file.size, None)]
        yield _contents(arrays)

    def samples(self) -> Sequence[bytes]:
        """A scan of one slice with maps, packed; and plain, behind its header."""
        header = b"# Dimensions\n8 8 1 2\n"
        values = np.ones(128, "<c8").tobytes()
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ("ksp", "sens"):
                archive.writestr(f"{name}.hdr", header)
                archive.writestr(f"{name}.cfl", values)
        return (stream.getvalue(), header + values)


FORMAT = Bart()


def _joined(file: ScanFile) -> Cfl | None:
    """The array of a file that holds a .hdr and then a .cfl, or the other way round; None for any other file."""
    most = min(_MOST_HEADER_BYTES, file.size)
    if file.start(len(HEADER_MARK)) == HEADER_MARK.encode():
        dimensions = _dimensions(file.start(most))
        rest = None if dimensions is None else file.size - cfl_bytes(dimensions)
        if dimensions is None or rest is None or not 0 < rest <= most:
            return None
        return Cfl(file.part(rest, file.size - rest), dimensions)
    with file.stream() as stream:
        stream.seek(file.size - most)
        end = stream.read(most)
    place = end.rfind(HEADER_MARK.encode())
    while place >= 0:
        dimensions = _dimensions(end[place:])
        size = file.size - most + place
        if dimensions is not None and cfl_bytes(dimensions) == size:
            return Cfl(file.part(0, size), dimensions)
        place = end.rfind(HEADER_MARK.encode(), 0, place)
    return None


def _dimensions(header: bytes) -> tuple[int, ...] | None:
    try:
        return parse_header("hdr", header.decode("latin-1"))
    except UnreadableScan:
        return None


def _archived(file: ScanFile) -> list[_Named]:
    """The arrays of an archive. Raises UnreadableScan where one has no header, or not the size that it tells."""
    members = read_archive(file)
    found = []
    for path, member in members.items():
        if not member.name.endswith(".cfl"):
            continue
        name = member.name.removesuffix(".cfl")
        header = next((each for end in (".hdr", ".HDR") if (each := members.get(path[:-4] + end))), None)
        if header is None:
            raise UnreadableScan.at(name, "a .cfl without its .hdr", "both, of one name, in one folder")
        dimensions = parse_header(name, header.text(_MOST_HEADER_BYTES))
        if member.size != cfl_bytes(dimensions):
            raise UnreadableScan.at(
                name, f"{member.size} bytes of data", f"{cfl_bytes(dimensions)}, 8 for each value of {dimensions}"
            )
        found.append(_Named(name, Cfl(member.open(), dimensions), member.packed_bytes, member))
    return found


def _contents(arrays: Sequence[_Named]) -> Contents:
    parts = _by_meaning(arrays)
    kspace = parts["kspace"]
    sides = kspace.array.dimensions
    odd = [str(number) for number, side in enumerate(sides) if side > 1 and number not in _USED]
    if odd or sides[MAPS] > 1:
        found = f"k-space with more than one entry along dimension {odd[0] if odd else MAPS}"
        number = odd[0] if odd else str(MAPS)
        raise UnsupportedScan.at("kspace", found, f"one entry there: bart slice {number} 0 in out")
    frames = kspace.array.frames
    is_volume = min(sides[READ], sides[PHASE_1], sides[PHASE_2]) > 1
    if is_volume and sides[cfl.SLICE] > 1:
        raise UnsupportedScan.at(
            "kspace", f"{sides[cfl.SLICE]} slabs of a 3-D scan", f"one: bart slice {cfl.SLICE} 0 in out"
        )
    made: dict[str, ArraySource] = {"kspace": _images("kspace", kspace, frames, is_volume=is_volume, transform=True)}
    warnings, corrections = [], []
    for name, part in parts.items():
        if name == "sensitivity_maps":
            made[name] = _images(name, part, frames, is_volume=is_volume, transform=False)
            if part.array.dimensions[MAPS] > 1:
                warnings.append(
                    f"there are {part.array.dimensions[MAPS]} sets of sensitivity maps (ESPIRiT): the first is used"
                )
        elif name == "trajectory":
            made[name] = _trajectory(part, kspace.array)
        elif name == "mask":
            made[name] = _pattern(part, kspace.array, frames, is_volume=is_volume)
    if is_volume:
        corrections.append(
            f"the 3-D scan is transformed along its readout: its slices are the {sides[READ]} places there"
        )
    if sides[AVERAGE] > 1:
        corrections.append(f"{sides[AVERAGE]} averages are averaged")
    return Contents(
        format="bart",
        arrays=made,
        warnings=tuple(warnings),
        renamed=tuple((each.name, ours) for ours, each in parts.items() if each.name != ours),
        unused=tuple(each.name for each in arrays if each not in parts.values()),
        frames=_frames(frames, sides[READ] if is_volume else 1),
        averages=sides[AVERAGE] if sides[AVERAGE] > 1 else None,
        corrections=tuple(corrections),
    )


def _by_meaning(arrays: Sequence[_Named]) -> dict[str, _Named]:
    """The arrays by our names: one that is called as such, else by the words that names begin with."""
    names = {each.name: each for each in arrays}
    if len(names) < len(arrays):
        raise UnreadableScan.at("file", "two .cfl of one name", "one scan in an archive")
    found = {ours: names[theirs] for ours, theirs in match_names(names, _ARRAYS).items()}
    left = [each for each in arrays if each not in found.values()]
    for ours, words in _WORDS.items():
        alike = [each for each in left if each.name.startswith(words)]
        if alike and ours not in found:
            found[ours] = alike[0]
        left = [each for each in left if each not in alike]
    if "kspace" not in found:
        if len(left) != 1:
            listed = f"{len(left)} arrays that may be it" if left else "no array that may be it"
            raise UnreadableScan.at("kspace", listed, "one .cfl whose name begins with ksp or kspace")
        found["kspace"] = left[0]
    return found


def _images(name: str, part: _Named, frames: tuple[int, ...], *, is_volume: bool, transform: bool) -> ArraySource:
    for dimension, count, wanted in zip(FRAME_DIMENSIONS, part.array.frames, frames, strict=True):
        if count not in (1, wanted):
            raise UnreadableScan.at(name, f"{count} entries along dimension {dimension}", f"1, or {wanted} as k-space")
    images = (
        CflVolume(name, part.array, frames, part.stored_bytes, transform=transform)
        if is_volume
        else CflArray(name, part.array, frames, part.stored_bytes)
    )
    return images if part.member is None else _Checked(images, part.member)


def _pattern(part: _Named, kspace: Cfl, frames: tuple[int, ...], *, is_volume: bool) -> ArraySource:
    """The sampling pattern as a mask (ky, kx) or (frames, ky, kx), 0 and 1."""
    sides = part.array.dimensions
    if cfl_bytes(sides) > _MOST_PATTERN_BYTES:
        raise UnreadableScan.at("mask", f"{cfl_bytes(sides)} bytes", f"at most {_MOST_PATTERN_BYTES}")
    for number, (have, want) in enumerate(zip(sides, kspace.dimensions, strict=True)):
        if have not in (1, want):
            raise UnreadableScan.at("mask", f"{have} entries along dimension {number}", f"1, or {want} as k-space")
    if part.member is not None:
        part.member.check_crc()
    with part.array.file.stream() as stream:
        values = read_values(stream, 0, math.prod(sides)).reshape(sides, order="F")
    if not np.isin(values, (0, 1)).all():
        raise UnreadableScan.at("mask", "values beside 0 and 1", "0 where not measured, 1 where measured")
    kept = (READ, PHASE_1, PHASE_2, *FRAME_DIMENSIONS)
    alike = tuple(axis for axis in range(cfl.DIMENSIONS) if axis not in kept or (is_volume and axis == READ))
    measured = values.real > 0
    if (measured.any(axis=alike) != measured.all(axis=alike)).any():
        what = "one for the whole of a readout" if is_volume else "one for all coils"
        raise UnreadableScan.at("mask", "a pattern of its own for each", f"{what}; without a pattern, zeros tell")
    order = (*FRAME_DIMENSIONS, *((PHASE_2, PHASE_1) if is_volume else plane(kspace.dimensions)))
    left = [axis for axis in range(cfl.DIMENSIONS) if axis not in order]
    planes = measured.transpose(*left, *order)[(0,) * len(left)]
    if math.prod(part.array.frames) == 1:
        planes = planes[(0,) * len(frames)]
    else:
        planes = np.broadcast_to(planes, (*frames, *planes.shape[-2:])).reshape(-1, *planes.shape[-2:])
    sides_of_plane = [kspace.dimensions[axis] for axis in order[-2:]]
    return InMemory("mask", np.broadcast_to(planes, (*planes.shape[:-2], *sides_of_plane)).copy())


def _trajectory(part: _Named, kspace: Cfl) -> ArraySource:
    """The trajectory (readouts, samples, 3) of (kx, ky, kz), with frames in front where it counts them."""
    sides = part.array.dimensions
    if sides[READ] != 3 or kspace.dimensions[READ] != 1:
        found = f"{sides[READ]} components beside k-space of {kspace.dimensions[READ]} along dimension 0"
        raise UnreadableScan.at("trajectory", found, "3 components, beside k-space of 1")
    if cfl_bytes(sides) > _MOST_PATTERN_BYTES:
        raise UnreadableScan.at("trajectory", f"{cfl_bytes(sides)} bytes", f"at most {_MOST_PATTERN_BYTES}")
    counted = (PHASE_1, PHASE_2, *FRAME_DIMENSIONS)
    for number, have in enumerate(sides[1:], start=1):
        want = kspace.dimensions[number] if number in counted else 1
        if have != want and (have != 1 or number in (PHASE_1, PHASE_2)):
            raise UnreadableScan.at("trajectory", f"{have} entries along dimension {number}", f"{want} as k-space")
    if part.member is not None:
        part.member.check_crc()
    with part.array.file.stream() as stream:
        values = read_values(stream, 0, math.prod(sides)).reshape(sides, order="F").real
    left = [axis for axis in range(cfl.DIMENSIONS) if axis not in (READ, *counted)]
    points = values.transpose(*left, *FRAME_DIMENSIONS, PHASE_2, PHASE_1, READ)[(0,) * len(left)]
    if math.prod(part.array.frames) == 1:
        return InMemory("trajectory", points[(0,) * len(FRAME_DIMENSIONS)].copy())
    whole = np.broadcast_to(points, (*kspace.frames, *points.shape[-3:]))
    return InMemory("trajectory", whole.reshape(-1, *points.shape[-3:]).copy())


def _frames(counts: tuple[int, ...], depth: int) -> tuple[Frame, ...]:
    """Which image each slice is; none where there is one image of each slice."""
    if math.prod(counts[1:]) == 1:
        return ()
    made = []
    for index in range(math.prod(counts)):
        place, phase, repetition, contrast = (int(number) for number in np.unravel_index(index, counts))
        for along in range(depth):
            made.append(Frame(slice=place * depth + along, contrast=contrast, phase=phase, repetition=repetition))
    return tuple(made)


class _Checked(ArraySource):
    """An array in an archive, whose checksum is compared once."""

    def __init__(self, source: ArraySource, member: ZipMember) -> None:
        super().__init__(source.name, source.shape, source.dtype, source.stored_bytes)
        self._source, self._member = source, member

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """The source's blocks."""
        return self._source.blocks()

    def read(self, indices: Sequence[int]) -> Array:
        """Entries of the first axis, stacked (len(indices), ...)."""
        return self._source.read(indices)

    def check_stored(self) -> None:
        """Refuse a decompression bomb, and bytes that were changed."""
        super().check_stored()
        self._member.check_crc()

"""Mutators of gzip, MATLAB 5, BART, Bruker, twix and CT-PD files: sizes, counters, parameters, headers that lie."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pydicom

from benchmarks.fuzz.mutators import Draft, registered

Members = dict[str, bytes]
EXTREMES = (0, 1, 2, 7, 8, 14, 15, 16, 255, 4096, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
NUMBERS = ("0", "-1", "1", "2", "3", "16", "255", "65536", "2147483648", "1e99", "nan", "x", "@99999999*(1)", "( 2 )")
_MATLAB_HEADER, _PACKED = 128, 15
_TWIX_FIRST, _MDH_BYTES, _CHANNEL_BYTES = 10240, 192, 32


def changing(kind: str, must_be_refused: bool) -> Callable[[Callable[[bytearray, np.random.Generator], bytes]], None]:
    """Register a change of the bytes of files of this kind."""

    def register(change: Callable[[bytearray, np.random.Generator], bytes]) -> None:
        def mutate(draft: Draft) -> None:
            draft.path.write_bytes(change(bytearray(draft.path.read_bytes()), draft.rng))

        registered(kind, must_be_refused, change.__name__, mutate)

    return register


def archived(kind: str, must_be_refused: bool) -> Callable[[Callable[[Members, np.random.Generator], Members]], None]:
    """Register a change of the members of an archive, of any names and contents."""

    def register(change: Callable[[Members, np.random.Generator], Members]) -> None:
        def mutate(draft: Draft) -> None:
            with zipfile.ZipFile(draft.path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            draft.path.write_bytes(_zip(change(members, draft.rng), draft.rng))

        registered(kind, must_be_refused, change.__name__, mutate)

    return register


def _zip(members: Mapping[str, bytes], rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@changing("gzip", True)
def packed_twice_or_a_bomb(content: bytearray, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        return gzip.compress(bytes(content), int(rng.integers(1, 10)))
    packer = zlib.compressobj(int(rng.integers(1, 10)), wbits=31)
    piece = bytes(8 << 20)
    return b"".join(packer.compress(piece) for _ in range(int(rng.integers(9, 14)))) + packer.flush()


@changing("gzip", True)
def checksum_or_length_that_lies(content: bytearray, rng: np.random.Generator) -> bytes:
    content[-1 - int(rng.integers(8))] ^= 1 << int(rng.integers(8))
    return content


@changing("gzip", False)
def members_one_after_the_other(content: bytearray, rng: np.random.Generator) -> bytes:
    plain = gzip.decompress(content)
    cuts = sorted(int(cut) for cut in rng.integers(0, len(plain), rng.integers(1, 9)))
    parts = [plain[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(plain)], strict=True)]
    more = [b"", bytes(100), rng.bytes(20), gzip.compress(b"more")]
    return b"".join(map(gzip.compress, parts)) + more[rng.integers(len(more))]


def _unpacked(content: bytes) -> bytes:
    """A MATLAB 5 file whose variables are not packed."""
    place, parts = _MATLAB_HEADER, [content[:_MATLAB_HEADER]]
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, place)
        body = content[place + 8 : place + 8 + size]
        parts.append(zlib.decompress(body) if kind == _PACKED else content[place : place + 8 + size])
        place += 8 + size
    return b"".join(parts)


@changing("matlab5", False)
def tags_that_lie(content: bytearray, rng: np.random.Generator) -> bytes:
    """Words of the first tags, of types, sizes, classes and axes; and packed again, as often as not."""
    plain = bytearray(_unpacked(bytes(content)))
    for _ in range(int(rng.integers(1, 4))):
        at = _MATLAB_HEADER + 4 * int(rng.integers(0, 24))
        struct.pack_into("<I", plain, at, int(rng.choice(EXTREMES)))
    if rng.random() < 0.5:
        return plain
    packed = zlib.compress(bytes(plain[_MATLAB_HEADER:]))
    return bytes(plain[:_MATLAB_HEADER]) + struct.pack("<II", _PACKED, len(packed)) + packed


@changing("matlab5", False)
def variables_again_and_again(content: bytearray, rng: np.random.Generator) -> bytes:
    head, body = bytes(content[:_MATLAB_HEADER]), bytes(content[_MATLAB_HEADER:])
    return head + body * int(rng.integers(2, 301))


@archived("bart", False)
def dimensions_that_lie(members: Members, rng: np.random.Generator) -> Members:
    headers = [name for name in members if name.endswith(".hdr")]
    name = str(rng.choice(headers))
    sides = [str(rng.choice(["1", "2", "8", *NUMBERS])) for _ in range(int(rng.integers(0, 20)))]
    return {**members, name: b"# Dimensions\n" + " ".join(sides).encode() + b"\n"}


@archived("bart", False)
def arrays_of_other_names_and_sizes(members: Members, rng: np.random.Generator) -> Members:
    names = ["ksp", "sens", "pat", "traj", "a", "b", "../ksp", "/ksp", "x" * 300]
    renamed = {}
    for name, content in members.items():
        stem, dot, suffix = name.rpartition(".")
        renamed[str(rng.choice([stem, *names])) + dot + suffix] = content[: int(rng.choice([len(content), 8, 0]))]
    return renamed


@archived("bruker", False)
def parameters_that_lie(members: Members, rng: np.random.Generator) -> Members:
    name = str(rng.choice([each for each in members if not each.endswith("fid")]))
    lines = members[name].decode("latin-1").split("\n")
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(lines)))
        label = lines[at].split("=")[0] + "=" if "=" in lines[at] else ""
        lines[at] = label + " ".join(str(rng.choice(NUMBERS)) for _ in range(int(rng.integers(1, 5))))
    more = ["ACQ_phase_factor", "NI", "NR", "NSLICES", "PVM_EncNReceivers", "PVM_AntiAlias", "PVM_EncZf", "PVM_Matrix"]
    lines.append(f"##${rng.choice(more)}={rng.choice(NUMBERS)}")
    return {**members, name: "\n".join(lines).encode("latin-1")}


@archived("bruker", False)
def raw_data_of_another_length(members: Members, rng: np.random.Generator) -> Members:
    name = next(each for each in members if each.endswith("fid"))
    content = members[name]
    lengths = [content[:-1], content + bytes(8), content * 2, b"", content[: len(content) // 2]]
    return {**members, name: lengths[rng.integers(len(lengths))]}


def _places(content: bytes) -> list[int]:
    """Where the readouts of a twix file of one measurement begin."""
    place = _TWIX_FIRST + struct.unpack_from("<I", content, _TWIX_FIRST)[0]
    places = []
    while place + _MDH_BYTES <= len(content):
        places.append(place)
        samples, channels = struct.unpack_from("<HH", content, place + 48)
        place += _MDH_BYTES + channels * (_CHANNEL_BYTES + 8 * samples)
    return places


@changing("twix", False)
def readout_headers_that_lie(content: bytearray, rng: np.random.Generator) -> bytes:
    """Any field of any readouts: lengths, flags, counters, samples, channels, centres, positions."""
    places = _places(bytes(content))
    for place in rng.choice(places, int(rng.choice([1, 3, len(places)])), replace=False):
        at = int(place) + 2 * int(rng.integers(_MDH_BYTES // 2))
        struct.pack_into("<H", content, at, int(rng.choice(EXTREMES)) & 0xFFFF)
    return content


@changing("twix", False)
def directory_that_lies(content: bytearray, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.choice([0, 4, 16, 20, 24, 28, _TWIX_FIRST, _TWIX_FIRST + 4]))
        struct.pack_into("<I", content, at, int(rng.choice([*EXTREMES, _TWIX_FIRST, len(content)])))
    return content


@changing("twix", False)
def protocol_that_lies(content: bytearray, rng: np.random.Generator) -> bytes:
    """Numbers of the protocol, and as many more as fit in its length."""
    size = struct.unpack_from("<I", content, _TWIX_FIRST)[0]
    protocol = bytes(content[_TWIX_FIRST:][:size])
    names = ["sKSpace.lBaseResolution", "sKSpace.lPhaseEncodingLines", "sKSpace.ucDimension", "sKSpace.lPartitions",
             "sSliceArray.asSlice[0].dReadoutFOV", "sKSpace.dPhaseOversamplingForDialog", "sKSpace.ucTrajectory",
             "sKSpace.lImagesPerSlab", "sRXSPEC.alDwellTime[0]", "sFastImaging.lEPIFactor"]  # fmt: skip
    lines = [f"{name} = {rng.choice(NUMBERS)}" for name in rng.choice(names, int(rng.integers(1, 6)))]
    text = "\n".join(lines).encode() + b"\nsKSpace.lBaseResolution = 8\n"
    header = b"MeasYaps\0" + struct.pack("<I", len(text)) + text
    header = struct.pack("<II", len(header) + 8, 1) + header
    assert len(protocol) == size
    return bytes(content[:_TWIX_FIRST]) + header + bytes(content[_TWIX_FIRST + size :])


def _rewritten(content: bytes, change: Callable[[pydicom.Dataset], None]) -> bytes:
    data = pydicom.dcmread(io.BytesIO(content))
    change(data)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, data)
    return stream.getvalue()


@archived("ct_pd", False)
def geometry_that_lies(members: Members, rng: np.random.Generator) -> Members:
    """A private element of some views, or of all: sizes, distances, angles, the focal spot."""
    tags = [(0x70291002, "FL"), (0x70291006, "FL"), (0x70291010, "US"), (0x70291011, "US"), (0x00280010, "US")]
    tags += [(0x70310000 | end, "FL") for end in (0x1001, 0x1002, 0x1003, 0x1031, 0x1033)]
    tags += [(0x70330000 | end, "FL") for end in (0x100B, 0x100C, 0x100D)] + [(0x70411001, "FL"), (0x00200013, "US")]
    tag, kind = tags[int(rng.integers(len(tags)))]
    numbers = [0, 1, 2, 65535] if kind == "US" else [0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 7.5, 1000.0]
    share = float(rng.choice([0.05, 0.5, 1.0]))

    def change(data: pydicom.Dataset) -> None:
        if tag in data:
            del data[tag]
        count = int(rng.choice([0, 1, 1, 1, 2, 50]))
        data.add_new(tag, kind, [numbers[int(rng.integers(len(numbers)))] for _ in range(count)] or None)

    return {name: _rewritten(content, change) if rng.random() < share else content for name, content in members.items()}


@archived("ct_pd", False)
def views_cut_doubled_or_left_out(members: Members, rng: np.random.Generator) -> Members:
    changed: Members = {}
    for name, content in members.items():
        match int(rng.integers(12)):
            case 0:
                changed[name] = content[: int(rng.integers(len(content)))]
            case 1:
                changed["again/" + name] = changed[name] = content
            case 2:
                at = int(rng.integers(128, len(content) - 4))
                changed[name] = content[:at] + struct.pack("<I", int(rng.choice(EXTREMES))) + content[at + 4 :]
            case 3:
                continue
            case _:
                changed[name] = content
    return changed or members

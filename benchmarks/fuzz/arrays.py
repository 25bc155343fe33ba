"""Mutators of .npy and .npz files: headers that lie, pickles, and the tricks of zip."""

import io
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from struct import pack_into
from typing import Any

import numpy as np

from benchmarks.fuzz.mutators import Draft, registered, spoilt_array

Parts = dict[str, bytes]  # members of an .npz by name, each a whole .npy
NpyChange = Callable[[np.ndarray, Draft], bytes]
NpzChange = Callable[[Parts, Draft], bytes]
SIDES = (0, 1, 7, 8, 31, 1025, 1 << 20, 1 << 31, 1 << 63, 1 << 64, 10**30, -1, True, 1.0, "8", None, (1,))
DESCRIPTIONS = (
    "'|O'", "'|V8'", "'<U99999999'", "'|S0'", "'<c32'", "'<f2'", "'>c8'", "'<M8[s]'", "'|b1'", "'nothing'", "8", "None",
    "[('a', '<f4')]", "[('a', '<f4', (99999, 99999))]", "('<f4', (2, 2))", "['<f4'] * 9", "__import__('os')",
)  # fmt: skip


def npy(must_be_refused: bool) -> Callable[[NpyChange], NpyChange]:
    """Register a change of the array of an .npy file."""

    def register(change: NpyChange) -> NpyChange:
        def mutate(draft: Draft) -> None:
            draft.path.write_bytes(change(np.load(draft.path), draft))

        registered("npy", must_be_refused, change.__name__, mutate)
        return change

    return register


def npz(must_be_refused: bool) -> Callable[[NpzChange], NpzChange]:
    """Register a change of the members of an .npz file."""

    def register(change: NpzChange) -> NpzChange:
        def mutate(draft: Draft) -> None:
            with zipfile.ZipFile(draft.path) as archive:
                parts = {name: archive.read(name) for name in archive.namelist()}
            draft.path.write_bytes(change(parts, draft))

        registered("npz", must_be_refused, change.__name__, mutate)
        return change

    return register


def saved(array: Any) -> bytes:
    """The array as numpy.save writes it."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def headed(header: str | bytes, data: bytes, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    """An .npy file with this header, true or not."""
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    size = (len(text) if length is None else length).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + text + data


def described(descr: object, shape: object, *, fortran: object = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


class Malice:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.path,)


@npy(must_be_refused=False)
def lying_shape(array: np.ndarray, draft: Draft) -> bytes:
    shape: list[Any] = list(array.shape)
    shape[int(draft.rng.integers(len(shape)))] = SIDES[draft.rng.integers(len(SIDES))]
    shape += [1] * int(draft.rng.integers(3))
    fortran = draft.rng.random() < 0.3
    return headed(described("'<c8'", f"({', '.join(map(str, shape))},)", fortran=fortran), noisy(array, draft.rng))


def noisy(array: np.ndarray, rng: np.random.Generator) -> bytes:
    return (array * np.float32(rng.uniform(0.5, 2))).astype(array.dtype).tobytes()


@npy(must_be_refused=False)
def odd_type(array: np.ndarray, draft: Draft) -> bytes:
    descr = DESCRIPTIONS[draft.rng.integers(len(DESCRIPTIONS))]
    return headed(described(descr, array.shape), noisy(array, draft.rng))


@npy(must_be_refused=False)
def hostile_header(array: np.ndarray, draft: Draft) -> bytes:
    rng = draft.rng
    headers: list[str | bytes] = [
        "(" * 9000, "[" * 3000 + "]" * 3000, "-" * 9000 + "1", "{" * 500, "9" * 9000, "1" * 4000 + " ** 9", "''" * 4000,
        "\udcff", b"\xff" * 100, "", "None", "{}", "[]", "{'descr': '<c8'}", "{'shape': ()}", "__import__('os')",
        "lambda: 0", "{**{}}", f"{{'descr': '<c8', 'fortran_order': False, 'shape': {array.shape}, 'more': 1}}",
        "{1: " * 90 + "1" + "}" * 90, "a." * 4000 + "b", "not " * 2400 + "1", "+".join(["1j"] * 3000),
    ]  # fmt: skip
    version = [b"\1\0", b"\2\0", b"\3\0", b"\4\0", b"\0\0", b"\xff\xff"][rng.integers(6)]
    return headed(headers[rng.integers(len(headers))], noisy(array, rng), version)


@npy(must_be_refused=True)
def lying_header_length(array: np.ndarray, draft: Draft) -> bytes:
    length = int(draft.rng.choice([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]))
    version = b"\1\0" if length <= 0xFFFF else b"\2\0"
    return headed(described("'<c8'", array.shape), noisy(array, draft.rng), version, length)


@npy(must_be_refused=True)
def pickled(_array: np.ndarray, draft: Draft) -> bytes:
    malice = Malice(draft.traps.pickle_ran)
    if draft.rng.random() < 0.5:
        return saved(np.array([malice] * int(draft.rng.integers(1, 4)), dtype=object)) + draft.rng.bytes(8)
    return pickle.dumps(malice, int(draft.rng.integers(2, 6))) + draft.rng.bytes(8)


@npy(must_be_refused=True)
def not_finite(array: np.ndarray, draft: Draft) -> bytes:
    return saved(spoilt_array(array, draft.rng))


@npy(must_be_refused=True)
def absurd_values(array: np.ndarray, draft: Draft) -> bytes:
    return saved(
        (array * draft.rng.choice([0.0, 1e-30, 1e25]) * np.float32(draft.rng.uniform(0.5, 2))).astype(array.dtype)
    )


@npy(must_be_refused=True)
def absurd_size(_array: np.ndarray, draft: Draft) -> bytes:
    shape = [int(2 ** draft.rng.uniform(0, 40)) for _ in range(4)]
    shape[int(draft.rng.integers(4))] = int(2 ** draft.rng.uniform(13, 62))
    return headed(described("'<c8'", tuple(shape)), draft.rng.bytes(100))


def zipped(parts: Parts, *, compression: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytearray:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.comment = comment
        for name, content in parts.items():
            archive.writestr(name, content)
    return bytearray(stream.getvalue())


def serial(draft: Draft) -> bytes:
    return str(draft.rng.integers(1 << 62)).encode()


def some_member(parts: Parts, draft: Draft) -> str:
    return str(draft.rng.choice(list(parts)))


@npz(must_be_refused=False)
def path_tricks(parts: Parts, draft: Draft) -> bytes:
    name = some_member(parts, draft)
    tricks = [
        "../{}",
        "/{}",
        "../../../../{}",
        "a/{}",
        "./{}",
        "{}\0.txt",
        "C:\\{}",
        "..\\{}",
        "{}/",
        "\u202e{}",
        "{}.npy",
        "a" * 60_000,
    ]
    trick = str(tricks[draft.rng.integers(len(tricks))]).format(name)
    renamed = {trick if each == name else each: content for each, content in parts.items()}
    return bytes(zipped(renamed, comment=serial(draft)))


@npz(must_be_refused=True)
def symbolic_link(parts: Parts, draft: Draft) -> bytes:
    """A member that says it is a link to a file outside; its content is that file's path."""
    name = "kspace.npy" if "kspace.npy" in parts else next(iter(parts))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = serial(draft)
        for each, content in parts.items():
            if each != name:
                archive.writestr(each, content)
        member = zipfile.ZipInfo(name)
        member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, draft.target(draft.traps.raw))
    return stream.getvalue()


@npz(must_be_refused=True)
def two_of_one_name(parts: Parts, draft: Draft) -> bytes:
    name = some_member(parts, draft)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.comment = serial(draft)
        for each, content in [*parts.items(), (name.removesuffix(".npy"), parts[name])]:
            archive.writestr(each, content)
    return stream.getvalue()


@npz(must_be_refused=False)
def lying_directory(parts: Parts, draft: Draft) -> bytes:
    """Sizes, sums, methods, flags and offsets in the headers of members, there or in the directory at the end."""
    rng, content = draft.rng, zipped(parts, comment=serial(draft))
    signature, fields = [
        (b"PK\1\2", {8: 2, 10: 2, 16: 4, 20: 4, 24: 4, 28: 2, 30: 2, 32: 2, 34: 2, 42: 4}),
        (b"PK\3\4", {6: 2, 8: 2, 14: 4, 18: 4, 22: 4, 26: 2, 28: 2}),
        (b"PK\5\6", {4: 2, 8: 2, 10: 2, 12: 4, 16: 4, 20: 2}),
    ][rng.integers(3)]  # fmt: skip
    starts = [at for at in range(len(content)) if content.startswith(signature, at)]
    offset = int(rng.choice(list(fields)))
    value = int(rng.choice([0, 1, 2, 8, 12, 14, 99, 0x7FFF, 0xFFFF, int(rng.integers(len(content)))]))
    value = 0xFFFFFFFF if fields[offset] == 4 and rng.random() < 0.3 else value
    at = int(rng.choice(starts)) + offset
    pack_into("<H" if fields[offset] == 2 else "<I", content, at, value % 256 ** fields[offset])
    return bytes(content)


@npz(must_be_refused=True)
def encrypted(parts: Parts, draft: Draft) -> bytes:
    content = zipped(parts, comment=serial(draft))
    for at in range(len(content)):
        for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            if content.startswith(signature, at):
                content[at + offset] |= 1
    return bytes(content)


@npz(must_be_refused=True)
def foreign_compression(parts: Parts, draft: Draft) -> bytes:
    method = int(draft.rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    return bytes(zipped(parts, compression=method, comment=serial(draft)))


@npz(must_be_refused=True)
def packed_bomb(parts: Parts, draft: Draft) -> bytes:
    """Equal values, well packed: 65 MiB or more in a hundredth of it."""
    name, dtype = ("sinogram", np.float32) if "sinogram.npy" in parts else ("kspace", np.complex64)
    side = int(draft.rng.integers(900, 1024))
    count = int((66 << 20) / side**2 / np.dtype(dtype).itemsize) + 1
    shape = (count, side, side) if name == "sinogram" else (count, 1, side, side)
    bomb = saved(np.full(shape, draft.rng.integers(1, 9), dtype))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for each, content in {**parts, f"{name}.npy": bomb}.items():
            archive.writestr(each, content)
    return stream.getvalue()


@npz(must_be_refused=True)
def nested(parts: Parts, draft: Draft) -> bytes:
    content = parts
    for _ in range(int(draft.rng.integers(1, 9))):
        content = {some_member(content, draft): bytes(zipped(content, comment=serial(draft)))}
    return bytes(zipped(content))


@npz(must_be_refused=True)
def many_members(parts: Parts, draft: Draft) -> bytes:
    more = {f"{number}.npy": b"" for number in range(int(draft.rng.integers(65, 3000)))}
    return bytes(zipped({**parts, **more}, comment=serial(draft)))


@npz(must_be_refused=True)
def pickled_member(parts: Parts, draft: Draft) -> bytes:
    name = str(draft.rng.choice([some_member(parts, draft), "image_size.npy", "mask.npy", "reference.npy"]))
    malice = np.array([Malice(draft.traps.pickle_ran)], dtype=object)
    return bytes(zipped({**parts, name: saved(malice)}, comment=serial(draft)))


@npz(must_be_refused=False)
def lying_member(parts: Parts, draft: Draft) -> bytes:
    """A member of another shape, type or meaning than its name says."""
    rng, name = draft.rng, some_member(parts, draft)
    array = np.load(io.BytesIO(parts[name]))
    with np.errstate(over="ignore"):
        half = np.abs(array).astype(np.float16) if array.ndim else array
    others: list[Any] = [
        array[None], array.reshape(-1), np.zeros_like(array), np.asfortranarray(array), np.zeros((0, 3)),
        array.astype("U8") if array.ndim == 0 else half, np.array(b"\xff\0"),
        array[..., ::2] if array.ndim else array, np.float64(rng.choice([np.nan, np.inf, -1, 0, 1e9, 1e-9])),
        array.astype(bool), np.array("x" * 2000),
    ]  # fmt: skip
    return bytes(zipped({**parts, name: saved(others[rng.integers(len(others))])}, comment=serial(draft)))


@npz(must_be_refused=True)
def member_not_finite(parts: Parts, draft: Draft) -> bytes:
    name = "kspace.npy" if "kspace.npy" in parts else next(iter(parts))
    array = np.load(io.BytesIO(parts[name]))
    return bytes(zipped({**parts, name: saved(spoilt_array(array, draft.rng))}, comment=serial(draft)))


@npz(must_be_refused=False)
def wrong_units(parts: Parts, draft: Draft) -> bytes:
    """Degrees for radians, metres for millimetres, and the reverse."""
    names = [name for name in parts if name.endswith(("angles.npy", "_mm.npy", "image_size.npy", "i0.npy"))]
    if not names:
        return bytes(
            zipped({**parts, "pixel_spacing_mm.npy": saved(draft.rng.choice([1e-9, 1e9, -2.0]))}, comment=serial(draft))
        )
    name = str(draft.rng.choice(names))
    factor = float(draft.rng.choice([180 / np.pi, 1e-3, 1e3, 1e-6, 1e6, -1.0]))
    return bytes(zipped({**parts, name: saved(np.load(io.BytesIO(parts[name])) * factor)}, comment=serial(draft)))

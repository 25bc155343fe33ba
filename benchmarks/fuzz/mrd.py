"""Mutators of MRD (ISMRMRD) files: rows that lie of their lines, places in the heap, headers, counters and geometry."""

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from benchmarks.fuzz.hdf5 import ENTITIES, HEADERS
from benchmarks.fuzz.mutators import Draft, registered

Change = Callable[[h5py.File, Draft], None]
EXTREMES = (0, 1, 2, 7, 63, 64, 65, 255, 256, 4095, 60000, 65535)
LENGTHS = (0, 1, 2, 511, 513, 1 << 16, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_NOISE = 4  # readouts of noise before those of the image


def mrd(must_be_refused: bool) -> Callable[[Change], Change]:
    """Register a change of an MRD file that is open for it."""

    def register(change: Change) -> Change:
        def mutate(draft: Draft) -> None:
            with h5py.File(draft.path, "a") as file:
                change(file, draft)

        registered("mrd", must_be_refused, change.__name__, mutate)
        return change

    return register


def _raw(data: h5py.Dataset, row: int) -> bytearray:
    return bytearray(data.id.read_direct_chunk((row,))[1])


def _offsets(data: h5py.Dataset) -> dict[str, int]:
    """Where the members of variable length lie in a row."""
    kind = data.id.get_type()
    return {kind.get_member_name(index).decode(): kind.get_member_offset(index) for index in range(kind.get_nmembers())}


@mrd(must_be_refused=False)
def head_that_lies(file: h5py.File, draft: Draft) -> None:
    """Any bytes of any heads."""
    rng, data = draft.rng, file["dataset/data"]
    for row in rng.choice(len(data), int(rng.choice([1, 3, len(data)])), replace=False):
        content = _raw(data, int(row))
        at = int(rng.integers(0, 338))
        content[at : at + 2] = int(rng.choice(EXTREMES)).to_bytes(2, "little")
        data.id.write_direct_chunk((int(row),), bytes(content))


@mrd(must_be_refused=True)
def length_that_lies(file: h5py.File, draft: Draft) -> None:
    rng, data = draft.rng, file["dataset/data"]
    row = int(rng.integers(len(data)))
    content, at = _raw(data, row), _offsets(data)["data"]
    content[at : at + 4] = int(rng.choice(LENGTHS)).to_bytes(4, "little")
    data.id.write_direct_chunk((row,), bytes(content))


@mrd(must_be_refused=False)
def place_that_lies(file: h5py.File, draft: Draft) -> None:
    """The address or the number of a line in the heap: of nothing, of another line, of the file's own header."""
    rng, data = draft.rng, file["dataset/data"]
    row = int(rng.integers(_NOISE, len(data)))
    content, at = _raw(data, row), _offsets(data)[str(rng.choice(["data", "traj"]))]
    if rng.random() < 0.5:
        content[at + 4 : at + 12] = int(rng.choice([0, 48, 1 << 20, 1 << 40, (1 << 63) - 1])).to_bytes(8, "little")
    else:
        content[at + 12 : at + 16] = int(rng.choice([0, 1, 5, 1 << 16, (1 << 32) - 1])).to_bytes(4, "little")
    data.id.write_direct_chunk((row,), bytes(content))


@mrd(must_be_refused=False)
def rows_that_share_their_bytes(file: h5py.File, draft: Draft) -> None:
    rng, data = draft.rng, file["dataset/data"]
    content = bytes(_raw(data, int(rng.integers(len(data)))))
    count = int(rng.choice([10, 500, 3000]))
    data.resize((len(data) + count,))
    for row in range(len(data) - count, len(data)):
        data.id.write_direct_chunk((row,), content)


@mrd(must_be_refused=True)
def too_many_rows(file: h5py.File, draft: Draft) -> None:
    file["dataset/data"].resize((int(draft.rng.choice([250_001, 1 << 31, 1 << 40])),))


@mrd(must_be_refused=False)
def rows_that_are_not_stored(file: h5py.File, draft: Draft) -> None:
    data = file["dataset/data"]
    data.resize((int(draft.rng.choice([0, 3, 30, 500, 5000])),))


@mrd(must_be_refused=False)
def counters_at_random(file: h5py.File, draft: Draft) -> None:
    """Frames, rows, averages and encodings that no header tells of."""
    rng, data = draft.rng, file["dataset/data"]
    rows = data[:]
    names = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "repetition", "set")
    name, most = str(rng.choice(names)), int(rng.choice([2, 40, 300, 65536]))
    rows["head"]["idx"][name] = rng.integers(0, most, len(rows))
    data[:] = rows


@mrd(must_be_refused=False)
def flags_at_random(file: h5py.File, draft: Draft) -> None:
    rng, data = draft.rng, file["dataset/data"]
    rows = data[:]
    rows["head"]["flags"] = np.uint64(1) << rng.integers(0, 64, len(rows)).astype(np.uint64)
    data[:] = rows


@mrd(must_be_refused=False)
def geometry_at_random(file: h5py.File, draft: Draft) -> None:
    rng, data = draft.rng, file["dataset/data"]
    rows = data[:]
    name = str(rng.choice(["position", "read_dir", "phase_dir", "slice_dir", "sample_time_us"]))
    rows["head"][name] = rng.choice([np.nan, np.inf, -1e30, 0, 1e-30, 0.7], rows["head"][name].shape)
    data[:] = rows


@mrd(must_be_refused=True)
def samples_that_are_none(file: h5py.File, draft: Draft) -> None:
    rng, data = draft.rng, file["dataset/data"]
    row = int(rng.integers(_NOISE, len(data)))
    line = data[row]
    line["data"][int(rng.integers(len(line["data"])))] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    data[row] = line


@mrd(must_be_refused=False)
def faint_or_strong_noise(file: h5py.File, draft: Draft) -> None:
    rng, data = draft.rng, file["dataset/data"]
    for row in range(_NOISE):
        line = data[row]
        line["data"][:] *= np.float32(rng.choice([0.0, 1e-36, 1e-20, 1e20, 1.0]))
        data[row] = line


@mrd(must_be_refused=False)
def header_of_another_kind(file: h5py.File, draft: Draft) -> None:
    rng = draft.rng
    texts = (*HEADERS, *(text.replace("{trap}", str(draft.traps.raw)) for text in ENTITIES))
    text = texts[rng.integers(len(texts))]
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    del file["dataset/xml"]
    if rng.random() < 0.5 and content:
        file["dataset/xml"] = np.array([content], f"S{len(content)}")
    else:
        file.create_dataset("dataset/xml", (1,), h5py.string_dtype(), data=content.replace(b"\0", b"?"))


@mrd(must_be_refused=False)
def numbers_in_the_header(file: h5py.File, draft: Draft) -> None:
    rng = draft.rng
    text = file["dataset/xml"][0].decode()
    for _ in range(int(rng.integers(1, 4))):
        parts = text.split(">")
        at = int(rng.choice([place for place, part in enumerate(parts) if part[:1].isdigit()]))
        number = str(rng.choice(["0", "-1", "1", "7", "1e9", "NaN", "65535", "12.5", "1" * 400]))
        parts[at] = number + parts[at][parts[at].index("<") :]
        text = ">".join(parts)
    del file["dataset/xml"]
    file.create_dataset("dataset/xml", data=np.array([text], object), dtype=h5py.string_dtype())


@mrd(must_be_refused=True)
def members_of_other_types(file: h5py.File, draft: Draft) -> None:
    rng, head = draft.rng, file["dataset/data"].dtype["head"]
    text: Any = h5py.string_dtype()
    kinds: list[Any] = [
        [("head", head), ("data", h5py.vlen_dtype(np.float64))],
        [("head", head), ("traj", h5py.vlen_dtype(np.float32)), ("data", text)],
        [("head", "<u2"), ("data", h5py.vlen_dtype(np.float32))],
        [("head", head), ("data", "<f4", (8,))],
        [("data", h5py.vlen_dtype(np.float32))],
        "<f4",
    ]
    del file["dataset/data"]
    file.create_dataset("dataset/data", (40,), np.dtype(kinds[rng.integers(len(kinds))]), chunks=(1,))


@mrd(must_be_refused=True)
def external_rows(file: h5py.File, draft: Draft) -> None:
    name = str(draft.rng.choice(["data", "xml"]))
    kind = (
        np.dtype("S46") if name == "xml" else np.dtype([("head", file["dataset/data"].dtype["head"]), ("data", "V8")])
    )
    del file[f"dataset/{name}"]
    trap = draft.target(draft.traps.raw)
    file.create_dataset(f"dataset/{name}", (1,), kind, external=[(trap, 0, kind.itemsize)])

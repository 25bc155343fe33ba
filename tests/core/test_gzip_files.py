"""Scans packed by gzip: read at any position with bounded memory, and bombs, damage and nested ones refused."""

import gzip
import io
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.data.tiny_scans import GOOD, mri, write_hdf5
from udig_recon.core.errors import UnknownFormat, UnreadableScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.containers import inflate
from udig_recon.core.formats.containers.gzip_file import unpack
from udig_recon.core.formats.containers.scan_file import open_scan_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.gz"


@pytest.mark.parametrize("name", GOOD)
def test_every_scan_reads_the_same_packed_as_plain(name: str, path: Path) -> None:
    plain = GOOD[name](path.with_name("plain"))
    path.write_bytes(gzip.compress(plain.read_bytes()))
    assert probe(path) == probe(plain)
    for ours, theirs in zip(vars(read(path)).values(), vars(read(plain)).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A gzip file of 9 MiB in two members, and what is in it."""
    rng = np.random.default_rng(0)
    content = (rng.integers(0, 256, 9 << 16, np.uint8).repeat(16)).tobytes()
    path = tmp_path_factory.mktemp("gzip") / "long.gz"
    path.write_bytes(gzip.compress(content[: 5 << 20], 1) + gzip.compress(content[5 << 20 :], 1) + bytes(100))
    return path, content


@settings(max_examples=20, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 9 << 20), st.integers(0, 1 << 20)), max_size=12))
def test_any_part_is_read_in_any_order(long: tuple[Path, bytes], places: list[tuple[int, int]]) -> None:
    path, content = long
    with open_scan_file(path) as packed:
        file = unpack(packed)
        assert file.size == len(content)
        stream = file.stream()
        for start, size in places:
            stream.seek(start)
            assert stream.read(size) == content[start : start + size]


def test_going_back_unpacks_a_few_mib_and_not_the_file(
    long: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, content = long
    monkeypatch.setattr(inflate, "_KEPT_PIECES", 1)
    unpacked = 0
    following = inflate.Inflated._next

    def counted(self: inflate.Inflated, state: inflate._State) -> tuple[bytes, inflate._State]:
        nonlocal unpacked
        unpacked += inflate.PIECE_BYTES
        return following(self, state)

    monkeypatch.setattr(inflate.Inflated, "_next", counted)
    with open_scan_file(path) as packed:
        stream = unpack(packed).stream()
        assert unpacked < len(content) + (1 << 20)
        unpacked = 0
        stream.seek(len(content) - 100)
        assert stream.read() == content[-100:]
        assert unpacked <= 5 << 20
        unpacked = 0
        for start in (0, 6 << 20):  # in turn, as of real and imaginary parts
            stream.seek(start)
            stream.read(1)
        unpacked = 0
        for step in range(1, 8):
            for start in (0, 6 << 20):
                stream.seek(start + step * inflate.PIECE_BYTES)
                stream.read(1)
        assert unpacked <= 20 * inflate.PIECE_BYTES


def test_marks_stay_few_however_long_the_file(monkeypatch: pytest.MonkeyPatch, long: tuple[Path, bytes]) -> None:
    monkeypatch.setattr(inflate, "_MARK_EVERY", 1)
    monkeypatch.setattr(inflate, "_MOST_MARKS", 4)
    path, content = long
    with open_scan_file(path) as packed:
        file = unpack(packed)
        assert isinstance(file, inflate.InflatedFile)
        assert len(file._inflated._marks) <= 5
        stream = file.stream()
        for start in (7 << 20, 100, 3 << 20):
            stream.seek(start)
            assert stream.read(99) == content[start : start + 99]


def test_bomb_is_refused_without_memory_for_it(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(100 << 20)))
    tracemalloc.start()
    with pytest.raises(UnreadableScan, match="bytes that unpack to more than 67108864"):
        probe(path)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


def test_damaged_and_cut_files_are_refused(path: Path) -> None:
    write_hdf5(path, **mri())
    whole = bytearray(gzip.compress(path.read_bytes()))
    for content in (whole[: len(whole) // 2], whole[:-4], whole[:10], b"\x1f\x8b\x08" + bytes(99), whole + b"more"):
        path.write_bytes(content)
        with pytest.raises(UnreadableScan, match=r"damaged content .*whole gzip file"):
            probe(path)
    whole[-6] ^= 1  # its checksum
    path.write_bytes(whole)
    with pytest.raises(UnreadableScan, match="damaged content"):
        probe(path)


def test_what_is_packed_twice_and_archives_are_named(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.compress(b"x" * 99)))
    with pytest.raises(UnknownFormat, match="a gzip file within a gzip file"):
        probe(path)
    path.write_bytes(gzip.compress(b"ksp.cfl".ljust(257, b"\0") + b"ustar" + bytes(999)))
    with pytest.raises(UnknownFormat, match="a tar archive packed by gzip"):
        probe(path)
    path.write_bytes(gzip.compress(b"slice,value\n"))
    with pytest.raises(UnknownFormat, match="text"):
        probe(path)


def test_streams_of_zlib_and_of_zip_end_where_they_end() -> None:
    content = bytes(range(256)) * 3000
    for wrapper in (inflate.ZLIB, inflate.RAW):
        packer = zlib.compressobj(wbits=wrapper)
        packed = packer.compress(content) + packer.flush()
        inflated = inflate.Inflated(lambda held=packed + bytes(50): io.BytesIO(held), 0, len(packed) + 50, wrapper)
        assert inflated.measure("file") == len(content)
        assert zlib.crc32(inflated.stream(0, len(content)).read()) == zlib.crc32(content)
        assert inflated.stream(10, 20).read() == content[10:30]

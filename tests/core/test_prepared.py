"""A prepared scan gives what the file gives, bit for bit, or says that it is damaged."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import scans
from udig_recon.core import errors
from udig_recon.core.acquisition import Modality, MRIAcquisition, ScanHeader
from udig_recon.core.formats import Limits, Prober, probe, read
from udig_recon.core.formats.containers.scan_file import open_scan_file
from udig_recon.core.formats.prepared import (
    FOOTER,
    MAGIC,
    ReservedArrays,
    open_prepared,
    verify_prepared,
    write_prepared,
)
from udig_recon.core.formats.reading import prepare


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    made = Prober()
    yield made
    made.close()


def prepared(scan: Path) -> Path:
    """Its prepared form, beside it."""
    path = scan.with_name(scan.name + ".prepared")
    with path.open("wb", buffering=0) as file, open_scan_file(scan) as source:
        prepare(source, Limits(), "sha", file.fileno())
    return path


@pytest.mark.parametrize("name", scans.GOOD)
def test_every_slice_is_what_the_file_gives(name: str, tmp_path: Path, prober: Prober) -> None:
    scan, path = scans.GOOD[name](tmp_path / "scan"), tmp_path / "prepared"
    with path.open("wb", buffering=0) as file:
        header = prober.prepare_scan(scan, file.fileno(), "sha")
    assert header == probe(scan)
    assert path.read_bytes() == prepared(scan).read_bytes()
    with open_prepared(path) as found:
        assert (found.header, found.source_sha256, found.nbytes) == (header, "sha", path.stat().st_size)
        found.verify()
        for index in range(header.slices):
            mine, theirs = found.read([index]), read(scan, [index])
            assert type(mine) is type(theirs)
            for each in fields(mine):
                one, other = getattr(mine, each.name), getattr(theirs, each.name)
                if isinstance(other, np.ndarray):
                    assert one.dtype == other.dtype
                    assert np.array_equal(one, other)
                else:
                    assert one == other


def test_arrays_that_were_written_in_pieces_are_read_as_those_that_were_written_whole(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).standard_normal((3, 1, 4, 5, 6), np.float32).astype(np.complex64)
    volume[1, 0, 2] = 0
    scan = MRIAcquisition(kspace=volume[0], mask=np.ones((5, 6), bool), recon_size=(5, 6))
    header = ScanHeader(
        format="npy", modality=Modality.MRI, slices=3, matrix=(5, 6), pixel_spacing_mm=(1.0, 1.0), coils=4
    )
    path = tmp_path / "prepared"
    with path.open("w+b", buffering=0) as file:
        reserved = ReservedArrays(file.fileno())
        reserved.reserve("kspace", 3, (1, 4, 5, 6), np.dtype(np.complex64))
        for coil in (3, 0, 1):
            for index in (2, 0, 1):
                reserved.write(index, coil * 30, volume[index, 0, coil])
        for index in range(3):
            reserved.write(index, 60, volume[index, 0, 2]) if index != 1 else None
            np.testing.assert_array_equal(reserved.read(index), volume[index])
        with pytest.raises(IndexError):
            reserved.write(0, 119, np.zeros(9, np.complex64))

        def read_slice(index: int) -> MRIAcquisition:
            return replace(scan, kspace=reserved.read(index))

        write_prepared(file.fileno(), asdict(header), "sha", read_slice, 3, reserved)
    assert path.stat().st_size < volume.nbytes + 8192
    with open_prepared(path) as found:
        found.verify()
        for index in range(3):
            np.testing.assert_array_equal(found.read([index]).kspace, volume[index])  # type: ignore[union-attr]


def test_arrays_lie_plain_in_the_file_at_the_places_that_the_header_names(tmp_path: Path) -> None:
    """As docs/prepared-scan.md has it, read by nothing but numpy, json and hashlib."""
    scan = scans.GOOD["fastmri"](tmp_path / "scan")
    content = prepared(scan).read_bytes()
    place, length, digest, magic = FOOTER.unpack(content[-64:])
    header = json.loads(content[place : place + length])
    assert content[:16] == magic == MAGIC
    assert hashlib.sha256(content[place : place + length]).digest() == digest
    offset, dtype, shape, sha256 = header["slices"][1]["kspace"]["array"]
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    assert offset % 64 == 0
    assert hashlib.sha256(content[offset : offset + size]).hexdigest() == sha256
    plain = np.frombuffer(content[offset : offset + size], dtype).reshape(shape)
    assert np.array_equal(plain, read(scan, [1]).kspace)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["fastmri", "sinogram_counts"])
def test_one_flipped_bit_anywhere_is_damage_or_means_nothing(name: str, tmp_path: Path) -> None:
    scan = scans.GOOD[name](tmp_path / "scan")
    path = prepared(scan)
    whole = path.read_bytes()
    with open_prepared(path) as found:
        right = [found.read([index]) for index in range(found.header.slices)]
    rng = np.random.default_rng(0)
    for place in [*range(16), *range(len(whole) - 400, len(whole)), *rng.integers(len(whole), size=300)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        try:
            verify_prepared(path)
        except errors.DamagedScan:
            continue
        with open_prepared(path) as found:  # the bit lies between arrays
            for index, other in enumerate(right):
                assert all(
                    np.array_equal(getattr(found.read([index]), each.name), getattr(other, each.name))
                    for each in fields(other)
                    if isinstance(getattr(other, each.name), np.ndarray)
                )


@pytest.mark.parametrize("kept", [0, 1, 15, 16, 100, 0.5, 0.99])
def test_a_prepared_scan_that_lost_its_end_is_damaged(kept: float, tmp_path: Path) -> None:
    path = prepared(scans.GOOD["fastmri"](tmp_path / "scan"))
    os.truncate(path, int(kept * path.stat().st_size) if isinstance(kept, float) else kept)
    with pytest.raises(errors.DamagedScan), open_prepared(path):
        pass


def test_a_slice_that_rots_leaves_the_others_readable(tmp_path: Path) -> None:
    scan = scans.GOOD["fastmri"](tmp_path / "scan")
    path = prepared(scan)
    content = bytearray(path.read_bytes())
    place, length, _, _ = FOOTER.unpack(content[-64:])
    offset = json.loads(content[place : place + length])["slices"][1]["kspace"]["array"][0]
    content[offset + 5] ^= 1
    path.write_bytes(content)
    with open_prepared(path) as found:
        assert found.read([0]).slices == 1
        with pytest.raises(errors.DamagedScan, match="SHA-256"):
            found.read([1])
        with pytest.raises(errors.DamagedScan, match="SHA-256"):
            found.verify()


def _changed(header: dict[str, Any], how: str) -> dict[str, Any]:
    array = header["slices"][0]["kspace"]["array"]
    match how:
        case "offset":
            array[0] = 10**12
        case "negative":
            array[0] = -5
        case "shape":
            array[2] = [10**9, 10**9]
        case "negative shape":
            array[2] = [-1, 4, 32, 32]
        case "dtype":
            array[1] = "|O"
        case "slices":
            header["slices"] = header["slices"][:1]
        case "kind":
            header["kind"] = "Popen"
        case "field":
            header["shared"]["other"] = 1
        case "header":
            header["scan"]["slices"] = "2"
        case "list":
            header["slices"] = 5
    return header


@pytest.mark.parametrize(
    "how",
    [
        "offset", "negative", "shape", "negative shape", "dtype", "slices", "kind", "field", "header", "list",
    ],
)  # fmt: skip
def test_a_header_of_a_hostile_reader_is_refused_whatever_its_digest(how: str, tmp_path: Path) -> None:
    path = prepared(scans.GOOD["fastmri"](tmp_path / "scan"))
    content = path.read_bytes()
    place, length, _, _ = FOOTER.unpack(content[-64:])
    header = json.dumps(_changed(json.loads(content[place : place + length]), how)).encode()
    footer = FOOTER.pack(place, len(header), hashlib.sha256(header).digest(), MAGIC)
    path.write_bytes(content[:place] + header + footer)
    with pytest.raises(errors.DamagedScan), open_prepared(path) as found:
        found.read([0])


def test_a_disk_without_room_is_told_as_that(tmp_path: Path, prober: Prober) -> None:
    scan = scans.GOOD["fastmri"](tmp_path / "scan")
    with (tmp_path / "out").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        prober.prepare_scan(scan, file.fileno(), "sha", room_bytes=1000)
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        prober.prepare_scan(scan, file.fileno(), "sha")


def test_slices_of_a_packed_archive_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scans.write_npz(tmp_path / "scan", **scans.mri(slices=40, size=32))
    begun = []
    opened = zipfile.ZipFile.open

    def open_(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
        begun.append(member.filename)
        return opened(archive, member)

    monkeypatch.setattr(zipfile.ZipFile, "open", open_)
    prepared(scan)
    assert begun.count("kspace.npy") < 6

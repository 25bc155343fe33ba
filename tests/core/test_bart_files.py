"""BART's arrays as scans: in a zip, or as the bytes of .cfl and .hdr; 2-D, 3-D, frames, maps and patterns."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data.tiny_scans import mri
from tests.support.bart_maker import cfl, hdr, in_bart_order, write_zip
from udig_recon.core.acquisition import Frame, NonCartesianAcquisition
from udig_recon.core.errors import UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.containers import cfl_arrays
from udig_recon.core.formats.sandbox.local import open_scan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.zip"


def ksp(array: np.ndarray | None = None, axes: str = "slice coil phase_1 read") -> np.ndarray:
    return in_bart_order(mri()["kspace"] if array is None else array, axes)


def centred_ifft(kspace: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    shifted = np.fft.ifftshift(kspace, axes)
    return np.fft.fftshift(np.fft.ifftn(shifted, axes=axes, norm="ortho"), axes)


@pytest.mark.parametrize("packed", [True, False])
def test_zip_of_kspace_maps_and_pattern_is_a_scan(packed: bool, path: Path) -> None:
    parts = mri()
    maps = np.stack([parts["sensitivity_maps"], np.ones_like(parts["sensitivity_maps"])])
    arrays = {
        "ksp": ksp(),
        "sens": in_bart_order(maps, "maps slice coil phase_1 read"),
        "pat": in_bart_order(parts["mask"][None], "phase_1 read"),
    }
    write_zip(path, arrays, packed=packed, folder="scan 1/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/scan 1/._ksp.cfl", b"")
    header = probe(path)
    assert (header.format, header.slices, header.coils, header.has_maps) == ("bart", 2, 4, True)
    for words in ("ksp is read as kspace", "pat is read as mask", "2 sets of sensitivity maps"):
        assert any(words in warning for warning in header.warnings)
    scan = read(path, [1])
    np.testing.assert_array_equal(scan.kspace, parts["kspace"][1:])
    np.testing.assert_array_equal(scan.sensitivity_maps, parts["sensitivity_maps"][1:])
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(parts["mask"], (32, 32)))


def test_bytes_of_both_files_are_a_scan_in_either_order(path: Path) -> None:
    for content in (hdr(ksp()) + cfl(ksp()), cfl(ksp()) + hdr(ksp())):
        path.write_bytes(content)
        np.testing.assert_array_equal(read(path).kspace, mri()["kspace"])
    path.write_bytes(cfl(ksp()))
    with pytest.raises(UnknownFormat, match=r"BART \.cfl file, expected a zip of the \.cfl and its \.hdr"):
        probe(path)
    path.write_bytes(hdr(ksp()))
    with pytest.raises(UnknownFormat, match=r"header of a BART file"):
        probe(path)


def test_cfl_is_read_with_the_hdr_beside_it(tmp_path: Path) -> None:
    (tmp_path / "ksp.cfl").write_bytes(cfl(ksp()))
    (tmp_path / "ksp.hdr").write_bytes(hdr(ksp()))
    for name in ("ksp.cfl", "ksp.hdr"):
        with open_scan(tmp_path / name) as scan:
            assert scan.header.format == "bart"
            np.testing.assert_array_equal(scan.read([1]).kspace, mri()["kspace"][1:])


def test_times_and_echoes_are_frames_and_averages_are_averaged(path: Path) -> None:
    rng = np.random.default_rng(0)
    shape = (2, 2, 3, 2, 4, 12, 10)
    array = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    array *= 5 * np.exp(-(np.linspace(-3, 3, 12)[:, None] ** 2) - np.linspace(-3, 3, 10) ** 2).astype(np.float32) + 0.1
    maps = in_bart_order(array[0, :, 0, 0], "slice coil phase_1 read")
    pattern = np.ones((3, 12, 1))
    pattern[1, 3] = 0
    arrays = {
        "kspace": ksp(array, "average slice time te coil phase_1 read"),
        "sens": maps,
        "pattern": in_bart_order(pattern, "time phase_1 read"),
    }
    write_zip(path, arrays)
    header = probe(path)
    assert (header.slices, header.averages) == (12, 2)
    assert header.frames[7] == Frame(slice=1, repetition=0, contrast=1)
    assert "2 averages are averaged" in header.corrections
    scan = read(path, [7, 2])
    np.testing.assert_allclose(scan.kspace[0], array[:, 1, 0, 1].mean(0), rtol=1e-5)
    expected = array[:, 0, 1, 0].mean(0)
    expected[:, 3] = 0
    np.testing.assert_allclose(scan.kspace[1], expected, rtol=1e-5)
    np.testing.assert_array_equal(scan.sensitivity_maps[0], array[0, 1, 0, 0])
    assert not scan.mask_of(1)[3].any()


def volume() -> np.ndarray:
    """(coil, phase 2, phase 1, read)."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (10, 12, 16)), indexing="ij"))
    image = (np.square(grid).sum(0) < 0.6) * (1.5 + grid[2])
    coils = np.stack([1 + 0.3 * grid[0], 1 - 0.3j * grid[1]])
    kspace = np.fft.fftshift(
        np.fft.fftn(np.fft.ifftshift(coils * image, (1, 2, 3)), axes=(1, 2, 3), norm="ortho"), (1, 2, 3)
    )
    return kspace.astype(np.complex64)


@pytest.mark.parametrize("slab_bytes", [1, 60_000, 1 << 30])
def test_3d_scan_is_a_stack_of_slices_along_its_readout(
    slab_bytes: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cfl_arrays, "_SLAB_BYTES", slab_bytes)
    kspace = volume()
    pattern = np.ones((10, 12, 1))
    pattern[3, 4] = 0
    maps = np.arange(kspace.size).reshape(kspace.shape)
    arrays = {
        "ksp": in_bart_order(kspace, "coil phase_2 phase_1 read"),
        "maps": in_bart_order(maps, "coil phase_2 phase_1 read"),
        "pattern": in_bart_order(pattern, "phase_2 phase_1 read"),
    }
    write_zip(path, arrays)
    header = probe(path)
    assert (header.slices, header.matrix) == (16, (10, 12))
    assert any("transformed along its readout" in correction for correction in header.corrections)
    scan = read(path, [15, 3, 4])
    hybrid = centred_ifft(kspace, (3,))
    hybrid[:, 3, 4] = 0
    for place, index in enumerate((15, 3, 4)):
        np.testing.assert_allclose(scan.kspace[place], hybrid[..., index], atol=1e-5)
        np.testing.assert_array_equal(scan.sensitivity_maps[place], maps[..., index])
    assert not scan.mask[3, 4]


def test_two_phase_encodings_of_one_slice_are_rows_and_columns(path: Path) -> None:
    plane = volume()[..., 8]
    write_zip(path, {"anything": in_bart_order(plane, "coil phase_2 phase_1")})
    np.testing.assert_allclose(read(path).kspace[0], plane, atol=1e-7)


ONE = in_bart_order(np.ones((4, 16, 16)), "coil phase_1 read")
LIES = {
    "cfl too short": ({"ksp.hdr": hdr(ONE), "ksp.cfl": cfl(ONE)[:-8]}, "8184 bytes of data, expected 8192"),
    "no hdr": ({"ksp.cfl": cfl(ONE)}, "a .cfl without its .hdr"),
    "hdr elsewhere": ({"a/ksp.cfl": cfl(ONE), "b/ksp.hdr": hdr(ONE)}, "a .cfl without its .hdr"),
    "no dimensions": ({"ksp.hdr": b"# Command\n", "ksp.cfl": cfl(ONE)}, "a .hdr without dimensions"),
    "mark last": ({"ksp.hdr": b"# Dimensions", "ksp.cfl": cfl(ONE)}, "a .hdr without dimensions"),
    "negative": ({"ksp.hdr": b"# Dimensions\n16 -16 1 4\n", "ksp.cfl": cfl(ONE)}, "no whole numbers from 1 on"),
    "zero": ({"ksp.hdr": b"# Dimensions\n16 16 0 4\n", "ksp.cfl": b""}, "no whole numbers from 1 on"),
    "text": ({"ksp.hdr": b"# Dimensions\nsixteen\n", "ksp.cfl": cfl(ONE)}, "no whole numbers from 1 on"),
    "17 dimensions": ({"ksp.hdr": b"# Dimensions\n" + b"2 " * 17, "ksp.cfl": cfl(ONE)}, "17 dimensions"),
    "huge": ({"ksp.hdr": b"# Dimensions\n99999 99999 99999\n", "ksp.cfl": cfl(ONE)}, "8192 bytes of data"),
    "long hdr": ({"ksp.hdr": hdr(ONE) + bytes(70_000), "ksp.cfl": cfl(ONE)}, "a text of"),
    "two candidates": (
        {"a.hdr": hdr(ONE), "a.cfl": cfl(ONE), "b.hdr": hdr(ONE), "b.cfl": cfl(ONE)},
        "2 arrays that may be it",
    ),
    "maps alone": ({"sens.hdr": hdr(ONE), "sens.cfl": cfl(ONE)}, "no array that may be it"),
    "pattern of another size": (
        {"k.hdr": hdr(ONE), "k.cfl": cfl(ONE), "pat.hdr": hdr(ONE[:8]), "pat.cfl": cfl(ONE[:8])},
        "8 entries along dimension 0",
    ),
    "pattern of halves": (
        {"k.hdr": hdr(ONE), "k.cfl": cfl(ONE), "pat.hdr": hdr(ONE), "pat.cfl": cfl(ONE / 2)},
        "values beside 0 and 1",
    ),
    "maps of other frames": (
        {
            "k.hdr": hdr(ONE),
            "k.cfl": cfl(ONE),
            "sens.hdr": b"# Dimensions\n16 16 1 4 1 2\n",
            "sens.cfl": cfl(ONE) * 2,
        },
        "2 entries along dimension 5",
    ),
    "NaN": ({"ksp.hdr": hdr(ONE), "ksp.cfl": cfl(np.where(ONE == 1, np.nan, 0))}, "NaN"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lie_is_refused_with_what_was_found(lie: str, path: Path) -> None:
    members, words = LIES[lie]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UnreadableScan, match=words.replace(".", r"\.")):
        probe(path)


def test_dimensions_without_a_meaning_are_refused_with_the_command_to_choose(path: Path) -> None:
    write_zip(path, {"ksp": in_bart_order(np.ones((2, 4, 16, 16)), "maps coil phase_1 read")})
    with pytest.raises(UnsupportedScan, match="bart slice 4 0 in out"):
        probe(path)
    write_zip(path, {"ksp": in_bart_order(np.ones((2, 4, 16, 16, 16)), "slice coil phase_2 phase_1 read")})
    with pytest.raises(UnsupportedScan, match="2 slabs of a 3-D scan"):
        probe(path)


def test_damaged_members_and_bombs_are_refused(path: Path) -> None:
    write_zip(path, {"ksp": ONE * np.random.default_rng(0).standard_normal(ONE.shape)}, packed=False)
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableScan, match="another checksum"):
        probe(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ksp.hdr", "# Dimensions\n1024 1024 1 9\n")
        archive.writestr("ksp.cfl", bytes(9 << 23))
    with pytest.raises(UnreadableScan, match="declares"):
        probe(path)
    path.write_bytes(b"PK\3\4" + bytes(200))
    with pytest.raises(UnreadableScan):
        probe(path)


def test_scan_along_a_trajectory_is_read_with_it(path: Path) -> None:
    spokes, samples = 24, 32
    angles = np.arange(spokes)[:, None] * np.pi / spokes
    radius = np.arange(samples) / 2 - 8
    points = np.stack([np.cos(angles) * radius, np.sin(angles) * radius, 0 * angles * radius], axis=-1)
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((2, 4, spokes, samples)) + 1j
    arrays = {
        "ksp": in_bart_order(kspace, "time coil phase_2 phase_1"),
        "traj": in_bart_order(points, "phase_2 phase_1 read"),
    }
    write_zip(path, arrays)
    header, scan = probe(path), read(path)
    assert (header.trajectory, header.matrix, len(header.frames)) == ("radial", (16, 16), 2)
    assert isinstance(scan, NonCartesianAcquisition)
    np.testing.assert_allclose(scan.kspace, kspace, rtol=1e-6)
    np.testing.assert_allclose(scan.trajectory[1], points[..., 1::-1], atol=1e-5)
    for wrong, words in (
        ({"traj": in_bart_order(points[:, :, :2], "phase_2 phase_1 read")}, "2 components"),
        ({"traj": in_bart_order(points[:9], "phase_2 phase_1 read")}, "9 entries along dimension 2"),
        ({"ksp": in_bart_order(kspace, "time coil phase_1 read")}, "of 32 along dimension 0"),
    ):
        write_zip(path, {**arrays, **wrong})
        with pytest.raises(UnreadableScan, match=words):
            probe(path)


@pytest.mark.skipif(shutil.which("bart") is None, reason="bart is not installed")
@pytest.mark.parametrize(("flags", "axes"), [((), (2, 3)), (("-3",), (1, 2))])
def test_images_are_those_of_bart_fft(flags: tuple[str, ...], axes: tuple[int, ...], tmp_path: Path) -> None:
    def bart(*words: str) -> None:
        subprocess.run(["bart", *words], cwd=tmp_path, check=True, capture_output=True)

    bart("phantom", "-k", "-s", "3", "-x", "24", *flags, "ksp")
    bart("fft", "-u", "-i", "7" if flags else "3", "ksp", "image")
    with open_scan(tmp_path / "ksp.cfl") as scan:
        ours = [centred_ifft(scan.read([index]).kspace[0], (1, 2)) for index in range(scan.header.slices)]
    sides = (24, 24, 24 if flags else 1, 3)
    theirs = np.fromfile(tmp_path / "image.cfl", "<c8").reshape(sides, order="F")
    for index, image in enumerate(ours):
        expected = theirs[index].transpose(2, 1, 0) if flags else theirs[:, :, 0].transpose(2, 1, 0)
        np.testing.assert_allclose(image, expected, atol=2e-7 * np.abs(theirs).max() * 4)

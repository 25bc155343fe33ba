"""k-space in the orders of axes that people have becomes (slices, coils, ky, kx), and what was done is said."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support import scans
from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.errors import ReconstructionError, UnreadableScan
from udig_recon.core.formats import probe, read

SLICES, COILS, ROWS, COLUMNS = 3, 4, 48, 40


def truth(slices: int = SLICES, seed: int = 0) -> dict[str, np.ndarray]:
    """k-space with its maps and images, in our order."""
    rng = np.random.default_rng(seed)
    images = np.stack([scans.phantom(1, 48)[0][:, 4:44] * (1 + 0.3 * index) for index in range(slices)])
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    maps = np.stack([np.exp(-((x - np.cos(t)) ** 2) - (y - np.sin(t)) ** 2 + 1j * (t + x)) for t in np.arange(COILS)])
    maps = maps / np.sqrt(np.square(np.abs(maps)).sum(axis=0))
    kspace = scans.fft(images[:, None] * maps)
    kspace = kspace + 1e-3 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    maps = np.broadcast_to(maps, kspace.shape)
    return {
        "kspace": kspace.astype(np.complex64),
        "maps": maps.astype(np.complex64),
        "images": images.astype(np.float32),
    }


def scan_of(path: Path, slices: list[int] | None = None) -> MRIAcquisition:
    scan = read(path, slices)
    assert isinstance(scan, MRIAcquisition)
    return scan


def said(path: Path, words: str) -> bool:
    return any(words in warning for warning in probe(path).warnings)


@pytest.fixture(params=[scans.write_hdf5, scans.write_npz], ids=["hdf5", "npz"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    return lambda **parts: request.param(tmp_path / "scan", **parts)


ORDERS = {
    "slice ky kx coil": (0, 2, 3, 1),
    "ky kx slice coil": (2, 3, 0, 1),
    "ky kx coil slice": (2, 3, 1, 0),
    "coil slice ky kx": (1, 0, 2, 3),
    "coil ky kx slice": (1, 2, 3, 0),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_attribute_axes_settles_any_order(order: str, write: Callable[..., Path]) -> None:
    parts = truth()
    path = write(
        kspace=parts["kspace"].transpose(ORDERS[order]).copy(),
        sensitivity_maps=parts["maps"].transpose(ORDERS[order]).copy(),
        reference=parts["images"],
        axes=order,
    )
    header = probe(path)
    assert (header.slices, header.coils, header.kspace_matrix) == (SLICES, COILS, (ROWS, COLUMNS))
    scan = scan_of(path)
    np.testing.assert_array_equal(scan.kspace, parts["kspace"])
    np.testing.assert_array_equal(scan.sensitivity_maps, parts["maps"])
    np.testing.assert_array_equal(scan.reference, parts["images"])
    np.testing.assert_array_equal(scan_of(path, [2]).kspace, parts["kspace"][2:])


@pytest.mark.parametrize("axes", ["slice coil ky", "slice coil ky ky", "slice coil ky kx time", "a b c d", ""])
def test_axes_that_make_no_sense_are_refused_with_their_names(axes: str, write: Callable[..., Path]) -> None:
    path = write(kspace=truth()["kspace"], axes=axes)
    with pytest.raises(UnreadableScan, match="one name for each of 4 axes"):
        probe(path)


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (2, 3, 0, 1), (2, 3, 1, 0)])
def test_an_order_that_the_shape_tells_is_taken_and_said(order: tuple[int, ...], write: Callable[..., Path]) -> None:
    parts = truth(1)
    path = write(kspace=parts["kspace"].transpose(order).copy(), sensitivity_maps=parts["maps"].transpose(order).copy())
    assert said(path, "kspace is read with the axes (")
    np.testing.assert_array_equal(scan_of(path).kspace, parts["kspace"])
    np.testing.assert_array_equal(scan_of(path).sensitivity_maps, parts["maps"])


def test_an_order_that_only_the_maps_or_images_tell_is_taken(write: Callable[..., Path]) -> None:
    parts = truth()
    path = write(kspace=parts["kspace"].transpose(2, 3, 1, 0).copy(), reference=parts["images"])
    np.testing.assert_array_equal(scan_of(path).kspace, parts["kspace"])


def test_an_order_that_nothing_tells_is_refused_with_those_that_fit(write: Callable[..., Path]) -> None:
    path = write(kspace=truth()["kspace"].transpose(2, 3, 1, 0).copy())
    with pytest.raises(UnreadableScan, match="axes = 'ky kx coil slice', or axes = 'ky kx slice coil'"):
        probe(path)


def test_ours_is_never_taken_for_another(write: Callable[..., Path]) -> None:
    for shape in ((1, 2, 16, 16), (40, 16, 24, 32), (2, 32, 64, 64), (300, 1, 32, 40), (3, 64, 128, 96)):
        assert not said(write(kspace=np.ones(shape, np.complex64)), "is read with the axes"), shape


def test_one_plane_and_one_slice_with_coils_last(write: Callable[..., Path]) -> None:
    parts = truth(1)
    path = write(kspace=parts["kspace"][0].transpose(1, 2, 0).copy())
    np.testing.assert_array_equal(scan_of(path).kspace, parts["kspace"])
    path = write(kspace=parts["kspace"][0, 0])
    assert (probe(path).slices, probe(path).coils) == (1, 1)
    np.testing.assert_array_equal(scan_of(path).kspace, parts["kspace"][:, :1])


def test_a_fifth_axis_is_counted_through_as_frames(write: Callable[..., Path]) -> None:
    both = np.stack([truth(seed=seed)["kspace"] for seed in (0, 1)])
    path = write(kspace=both)
    header = probe(path)
    assert header.slices == 2 * SLICES
    assert [(frame.repetition, frame.slice) for frame in header.frames] == [
        (r, s) for r in (0, 1) for s in range(SLICES)
    ]
    np.testing.assert_array_equal(scan_of(path).kspace, both.reshape(-1, COILS, ROWS, COLUMNS))
    path = write(kspace=both, axes="time, slices, coils, y, x", sensitivity_maps=truth()["maps"])
    assert [(frame.phase, frame.slice) for frame in probe(path).frames][SLICES] == (1, 0)
    np.testing.assert_array_equal(scan_of(path, [SLICES]).sensitivity_maps, truth()["maps"][:1])


def parts_of(array: np.ndarray, axis: int) -> np.ndarray:
    return np.stack([array.real, array.imag], axis).astype(np.float32)


@pytest.mark.parametrize("axis", [-1, 0])
def test_real_and_imaginary_parts_on_the_last_or_first_axis_are_joined_in_all_arrays(
    axis: int, write: Callable[..., Path]
) -> None:
    parts = truth()
    path = write(kspace=parts_of(parts["kspace"], axis), sensitivity_maps=parts_of(parts["maps"], axis))
    assert said(path, "axis: they are joined")
    np.testing.assert_array_equal(scan_of(path).kspace, parts["kspace"])
    np.testing.assert_array_equal(scan_of(path).sensitivity_maps, parts["maps"])


@pytest.mark.parametrize("names", [("r", "i"), ("real", "imag"), ("Re", "Im"), ("REAL", "IMAG"), ("real", "imaginary")])
def test_compounds_of_real_and_imaginary_parts_are_complex(names: tuple[str, str], tmp_path: Path) -> None:
    kspace = truth()["kspace"]
    pairs = np.empty(kspace.shape, [(names[0], "<f4"), (names[1], "<f4")])
    pairs[names[0]], pairs[names[1]] = kspace.real, kspace.imag
    path = scans.write_hdf5(tmp_path / "scan", kspace=pairs)
    np.testing.assert_array_equal(scan_of(path).kspace, kspace)


@pytest.mark.parametrize("corner", [True, False])
@pytest.mark.parametrize("plain_fft", [True, False])
def test_calgary_campinas(corner: bool, plain_fft: bool, write: Callable[..., Path]) -> None:
    """Whether zero frequency lies in the corner, and whether k-space is numpy.fft.fft2 of the image or of its shift."""
    parts = truth(5)
    images = scans.ifft(parts["kspace"])
    kspace = np.fft.fft2(images if plain_fft else np.fft.ifftshift(images, (-2, -1)), norm="ortho")
    if not corner:
        kspace = np.fft.fftshift(kspace, (-2, -1))
    kspace[..., -6:] = 0 if not corner else kspace[..., -6:]
    moved = kspace.transpose(0, 2, 3, 1)
    stored = np.stack([moved.real, moved.imag], -1).reshape(*moved.shape[:-1], 2 * COILS).astype(np.float32)
    path = write(kspace=stored)
    header = probe(path)
    assert (header.slices, header.coils, header.kspace_matrix) == (5, COILS, (ROWS, COLUMNS))
    assert said(path, "in turn on its last axis")
    scan = scan_of(path, [2])
    found, wanted = (np.sqrt(np.square(np.abs(each)).sum(axis=0)) for each in (scans.ifft(scan.kspace)[0], images[2]))
    assert np.abs(found - wanted).max() < (1e-5 if corner else 0.2) * wanted.max()
    assert scan.mask[:, -1].any() == corner


def test_skm_tea(tmp_path: Path) -> None:
    echoes = [truth(36, seed=seed) for seed in (0, 1)]
    kspace = np.stack([each["kspace"] for each in echoes])  # (echo, x, coil, ky, kz)
    path = tmp_path / "scan"
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace.transpose(1, 3, 4, 0, 2).copy()
        file["maps"] = echoes[0]["maps"].transpose(0, 2, 3, 1)[..., None].copy()
        file["target"] = np.stack([each["images"] for each in echoes], -1)[..., None].astype(np.complex64)
        file["masks/poisson_6.0x"] = np.ones((ROWS, COLUMNS), np.uint8)
    header = probe(path)
    assert (header.slices, header.coils, header.kspace_matrix) == (72, COILS, (ROWS, COLUMNS))
    assert [(frame.contrast, frame.slice) for frame in header.frames][36] == (1, 0)
    assert (header.has_maps, header.has_reference) == (True, True)
    scan = scan_of(path, [36 + 5])
    np.testing.assert_array_equal(scan.kspace[0], kspace[1, 5])
    np.testing.assert_array_equal(scan.sensitivity_maps[0], echoes[0]["maps"][5])
    np.testing.assert_array_equal(scan.reference[0], echoes[1]["images"][5])


def cmrxrecon(path: Path, name: str, kspace: np.ndarray, **more: np.ndarray) -> Path:
    """k-space as CMRxRecon's MATLAB files hold it, (time, slice, [coil,] ky, kx) as HDF5 sees it."""
    pairs = np.empty(kspace.shape, [("real", "<f4"), ("imag", "<f4")])
    pairs["real"], pairs["imag"] = kspace.real, kspace.imag
    with h5py.File(path, "w", userblock_size=512) as file:
        file[name] = pairs
        for key, value in more.items():
            file[key] = value
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def test_cmrxrecon(tmp_path: Path) -> None:
    frames = np.stack([truth(2, seed=seed)["kspace"] for seed in range(3)])
    mask = np.zeros((ROWS, COLUMNS), np.float32)
    mask[::4] = mask[16:32] = 1
    path = cmrxrecon(tmp_path / "multi", "kspace_sub04", frames * mask, mask04=mask)
    header = probe(path)
    assert (header.slices, header.coils, header.kspace_matrix) == (6, COILS, (ROWS, COLUMNS))
    assert [(frame.phase, frame.slice) for frame in header.frames] == [(t, s) for t in range(3) for s in range(2)]
    assert said(path, "kspace_sub04 is read as kspace")
    scan = scan_of(path, [3])
    np.testing.assert_array_equal(scan.kspace[0], (frames * mask)[1, 1])
    np.testing.assert_array_equal(scan.mask, mask > 0)
    path = cmrxrecon(tmp_path / "single", "kspace_single_full", frames[:, :, 0])
    assert (probe(path).slices, probe(path).coils) == (6, 1)
    np.testing.assert_array_equal(scan_of(path, [5]).kspace[0, 0], frames[2, 1, 0])


def lines() -> np.ndarray:
    line = np.zeros(COLUMNS, bool)
    line[::3] = line[14:26] = True
    return line


MASKS: dict[str, Callable[[np.ndarray], Any]] = {
    "(kx,)": lambda line: line,
    "(1, kx)": lambda line: line[None],
    "(1, 1, kx, 1)": lambda line: line[None, None, :, None],
    "(ky, kx) uint8 of 255": lambda line: 255 * np.broadcast_to(line, (ROWS, COLUMNS)).astype(np.uint8),
    "(coils, ky, kx) float": lambda line: np.broadcast_to(line, (COILS, ROWS, COLUMNS)).astype(np.float64),
    "(slices, coils, ky, kx)": lambda line: np.broadcast_to(line, (SLICES, COILS, ROWS, COLUMNS)).astype(np.int16),
    "(slices, 1, kx)": lambda line: np.broadcast_to(line, (SLICES, 1, COLUMNS)).astype(np.int8),
    "numbers from 0": lambda line: np.flatnonzero(line),
    "numbers as floats in a row": lambda line: np.flatnonzero(line)[None].astype(np.float64),
}


@pytest.mark.parametrize("shape", MASKS)
def test_masks_of_all_shapes_are_taken(shape: str, write: Callable[..., Path]) -> None:
    path = write(kspace=truth()["kspace"], mask=MASKS[shape](lines()))
    np.testing.assert_array_equal(scan_of(path).mask, np.broadcast_to(lines(), (ROWS, COLUMNS)))


def test_a_mask_of_rows_is_taken_and_said(write: Callable[..., Path]) -> None:
    rows = np.zeros(ROWS, bool)
    rows[::2] = rows[18:30] = True
    for mask in (rows, rows[:, None], rows[None, :, None]):
        path = write(kspace=truth()["kspace"], mask=mask)
        np.testing.assert_array_equal(scan_of(path).mask, np.broadcast_to(rows[:, None], (ROWS, COLUMNS)))
    assert said(write(kspace=truth()["kspace"], mask=rows), "one value for each of 48 rows")


def test_numbers_of_lines_from_1_and_masks_that_differ_in_coils(write: Callable[..., Path]) -> None:
    numbers = np.append(np.flatnonzero(lines())[:-1] + 1, COLUMNS)
    path = write(kspace=truth()["kspace"], mask=numbers)
    assert said(path, "from 1 on")
    assert scan_of(path).mask[0, COLUMNS - 1]
    differing = np.broadcast_to(lines(), (SLICES, COILS, ROWS, COLUMNS)).copy()
    differing[0, 1, 3] ^= True
    with pytest.raises(UnreadableScan, match="mask"):
        probe(write(kspace=truth()["kspace"], mask=differing))


def test_masks_of_frames_follow_them(write: Callable[..., Path]) -> None:
    both = np.stack([truth(seed=seed)["kspace"] for seed in (0, 1)])
    masks = np.stack([np.roll(lines(), shift) | (np.abs(np.arange(COLUMNS) - 20) < 6) for shift in (0, 1)])
    given = masks[:, None, None, None]
    path = write(
        kspace=both * given, mask=np.broadcast_to(masks[:, None], (2, ROWS, COLUMNS)), axes="time slice coil ky kx"
    )
    np.testing.assert_array_equal(scan_of(path, [SLICES]).mask[0], masks[1])
    np.testing.assert_array_equal(scan_of(path, [0]).mask[0], masks[0])


def zipped(path: Path, **files: dict[str, Any] | bytes) -> Path:
    """A zip of HDF5 files of these arrays, packed, with a text beside them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.txt", "a phantom")
        for name, arrays in files.items():
            content = arrays if isinstance(arrays, bytes) else hdf5_of(arrays)
            archive.writestr(f"scan/{name}.h5", content)
    return path


def hdf5_of(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return stream.getvalue()


def test_m4raw_repetitions_of_one_zip_are_frames(tmp_path: Path) -> None:
    repetitions = [truth(2, seed=seed) for seed in range(3)]
    files = {
        f"T1_rep{number}": {"kspace": each["kspace"], "reconstruction_rss": each["images"]}
        for number, each in enumerate(repetitions)
    }
    path = zipped(tmp_path / "scan", **files)
    header = probe(path)
    assert (header.slices, header.coils, header.has_reference) == (6, COILS, True)
    assert [(frame.repetition, frame.slice) for frame in header.frames] == [(r, s) for r in range(3) for s in range(2)]
    assert said(path, "3 files of k-space: they are read as repetitions")
    scan = scan_of(path, [3])
    np.testing.assert_array_equal(scan.kspace[0], repetitions[1]["kspace"][1])
    np.testing.assert_array_equal(scan.reference[0], repetitions[1]["images"][1])


def test_a_mask_in_another_file_of_the_zip_is_used(tmp_path: Path) -> None:
    parts = truth()
    path = zipped(tmp_path / "scan", kspace={"kspace": parts["kspace"]}, mask={"mask": lines()})
    np.testing.assert_array_equal(scan_of(path).mask[0], lines())


ZIPPED = {
    "of one shape": lambda: {"a": {"kspace": truth()["kspace"]}, "b": {"kspace": truth(2)["kspace"]}},
    "one for each": lambda: {"a": truth() | {"reference": truth()["images"]}, "b": {"kspace": truth()["kspace"]}},
    "without kspace": lambda: {"a": {"mask": lines()}},
    "files of": lambda: {name: {"kspace": truth(1)["kspace"][0]} for name in "ab"},
    "whole": lambda: {"a": hdf5_of({"kspace": truth()["kspace"]})[:9000]},
    "at most 64": lambda: {f"f{number}": {"mask": lines()} for number in range(65)},
}


@pytest.mark.parametrize("words", ZIPPED)
def test_zips_that_are_no_one_scan_are_refused(words: str, tmp_path: Path) -> None:
    with pytest.raises(ReconstructionError, match=words):
        probe(zipped(tmp_path / "scan", **ZIPPED[words]()))


def test_a_bomb_within_a_zip_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("kspace", (1, 64, 1024, 1024), np.complex64, chunks=(1, 1, 256, 1024), compression="gzip")
    with pytest.raises(ReconstructionError):
        probe(zipped(tmp_path / "scan", a=stream.getvalue()))


def test_slices_on_the_last_axis_are_read_in_several_passes_where_memory_is_short(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = truth(5)
    path = write(kspace=parts["kspace"].transpose(2, 3, 1, 0).copy(), axes="ky kx coil slice")
    monkeypatch.setattr("udig_recon.core.formats.containers.arranged._KEPT_BYTES", 2 * parts["kspace"][0].nbytes)
    np.testing.assert_array_equal(scan_of(path).kspace, parts["kspace"])
    np.testing.assert_array_equal(scan_of(path, [4, 0]).kspace, parts["kspace"][[4, 0]])
    assert probe(path).slices == 5

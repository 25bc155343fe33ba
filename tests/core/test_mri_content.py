"""k-space that is something else than it is called, and what comes with it and does not fit: told, or refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.support import scans
from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.errors import ReconstructionError, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.kspace import partitions

SIZE = 64


def head(rows: int = SIZE, columns: int = SIZE) -> np.ndarray:
    """A head without any symmetry, (y, x)."""
    y, x = np.mgrid[:rows, :columns]
    y, x = (y - rows // 2) / (rows / 2), (x - columns // 2) / (columns / 2)
    ellipses = (
        (0, 0, 0.62, 0.78, 1.0),
        (0, 0, 0.56, 0.71, -0.5),
        (-0.2, 0.1, 0.16, 0.28, 0.3),
        (0.25, 0.3, 0.1, 0.1, 0.5),
    )
    image = sum(v * (((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1) for cx, cy, a, b, v in ellipses)
    return np.asarray(image + 0.5 * ((np.abs(y + 0.5) < 0.04) & (np.abs(x + 0.15) < 0.2)), np.float32)


def coils(count: int, rows: int = SIZE, columns: int = SIZE) -> np.ndarray:
    """Maps (coils, y, x) whose root-sum-of-squares is 1."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    at = (np.arange(count) * 2 * np.pi / count)[:, None, None]
    distance = (x - 1.1 * np.cos(at)) ** 2 + (y - 1.1 * np.sin(at)) ** 2
    maps = np.exp(-distance / 1.4 + 1j * (1.5 * x * np.cos(at) + 1.2 * y * np.sin(at) + at))
    return maps / np.sqrt((np.abs(maps) ** 2).sum(0))


def kspace_of(image: np.ndarray, count: int = 6, noise: float = 0.004, seed: int = 0) -> np.ndarray:
    """(1, coils, ky, kx) of an image with a smooth phase."""
    rows, columns = image.shape
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    maps = coils(count, rows, columns) if count > 1 else np.ones((1, rows, columns))
    k = scans.fft(maps * image * np.exp(1j * (0.6 * x + 0.4 * y**2)))
    rng = np.random.default_rng(seed)
    k = k + noise * (rng.standard_normal(k.shape) + 1j * rng.standard_normal(k.shape))
    return k[None].astype(np.complex64)


def lines(columns: int = SIZE, step: int = 2, centre: int = 16) -> np.ndarray:
    mask = np.arange(columns) % step == 1
    mask[columns // 2 - centre // 2 : columns // 2 + centre // 2] = True
    return mask


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan"


def warned(path: Path, **parts: Any) -> tuple[str, ...]:
    """What a scan with a known spacing warns of."""
    return probe(scans.write_hdf5(path, **parts, pixel_spacing_mm=1.0)).warnings


RIGHT: dict[str, Callable[[], dict[str, Any]]] = {
    "whole": lambda: {"kspace": kspace_of(head())},
    "undersampled": lambda: {"kspace": kspace_of(head()) * lines(), "mask": lines()},
    "without a mask": lambda: {"kspace": kspace_of(head()) * lines(step=4)},
    "an odd matrix": lambda: {"kspace": kspace_of(head(65, 49)) * lines(49)},
    "an echo off the centre": lambda: {"kspace": np.roll(kspace_of(head()), (5, 4), (-2, -1)) * lines(centre=24)},
    "without noise": lambda: {"kspace": kspace_of(head(), noise=0)},
    "much noise": lambda: {"kspace": kspace_of(head(), noise=0.3)},
    "a dead coil": lambda: {"kspace": kspace_of(head()) * (np.arange(6) != 3)[:, None, None] * lines()},
    "a hot voxel": lambda: {"kspace": kspace_of(np.where(np.arange(SIZE**2).reshape(SIZE, SIZE) == 444, 99, head()))},
    "a small object": lambda: {"kspace": kspace_of(np.pad(head(16, 16), 24))},
    "an object that fills the image": lambda: {"kspace": kspace_of(head() + 1)},
    "one coil": lambda: {"kspace": kspace_of(head(), 1) * lines()},
    "tiny values": lambda: {"kspace": kspace_of(head()) * np.complex64(1e-12) * lines()},
    "maps": lambda: {"kspace": kspace_of(head()) * lines(), "sensitivity_maps": coils(6)[None].astype(np.complex64)},
    "maps of another unit": lambda: {"kspace": kspace_of(head()), "sensitivity_maps": (9 * coils(6))[None]},
    "maps and lines without a middle": lambda: {
        "kspace": kspace_of(head()) * lines(centre=0),
        "sensitivity_maps": coils(6)[None].astype(np.complex64),
    },
    "maps and an echo off the centre": lambda: {
        "kspace": np.roll(kspace_of(head()) * lines(), SIZE // 4, -1),
        "sensitivity_maps": coils(6)[None].astype(np.complex64),
    },
    "maps of the object alone": lambda: {
        "kspace": kspace_of(head()) * lines(),
        "sensitivity_maps": (coils(6) * (head() > 0))[None].astype(np.complex64),
    },
    "a reference": lambda: {"kspace": kspace_of(head()) * lines(step=4), "reference": head()[None]},
    "a cropped reference": lambda: {"kspace": kspace_of(head()) * lines(), "reference": head()[None, 7:56, 5:58]},
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_scan_warns_of_nothing(name: str, path: Path) -> None:
    assert warned(path, **RIGHT[name]()) == ()


def test_zero_frequency_at_the_corner_or_the_edge_is_refused_with_the_cure(path: Path) -> None:
    for axes in ((-2, -1), (-1,)):
        shifted = np.fft.ifftshift(kspace_of(head()), axes=axes)
        with pytest.raises(UnreadableScan, match=r"at both ends of .*ifftshift\(image\)"):
            probe(scans.write_hdf5(path, kspace=shifted))


def test_an_image_in_the_place_of_kspace_is_refused_with_the_cure(path: Path) -> None:
    with pytest.raises(UnreadableScan, match=r"looks like an image, expected its k-space"):
        probe(scans.write_hdf5(path, kspace=(coils(6) * head())[None].astype(np.complex64)))


def test_a_quartered_image_is_told(path: Path) -> None:
    quartered = kspace_of(np.fft.fftshift(head()))
    assert any("corners of the image" in warning for warning in warned(path, kspace=quartered))


def test_an_object_at_both_ends_of_an_axis_is_told(path: Path) -> None:
    for axis, name in ((-2, "y"), (-1, "x")):
        signs = np.moveaxis((-1.0) ** np.arange(SIZE)[:, None], 0, axis)
        warnings = warned(path, kspace=(kspace_of(head()) * signs).astype(np.complex64))
        assert any(f"at both ends of {name} " in warning for warning in warnings)


def test_kspace_without_imaginary_parts_is_told(path: Path) -> None:
    for real in (np.abs(kspace_of(head())), kspace_of(head()).real):
        assert any("imaginary part" in warning for warning in warned(path, kspace=real.astype(np.complex64)))


def test_pixels_in_metres_are_told(path: Path) -> None:
    scan = scans.write_hdf5(path, kspace=kspace_of(head()), pixel_spacing_mm=0.001)
    assert any("metres" in warning for warning in probe(scan).warnings)


@pytest.mark.parametrize("count", [1, 6])
def test_a_mask_that_leaves_out_the_middle_is_refused_with_how_it_looks(count: int, path: Path) -> None:
    kspace, maps = kspace_of(head(), count), coils(6)[None, :count].astype(np.complex64)
    for mask, how in ((~lines(), "inverted"), (np.fft.ifftshift(lines(step=4)), "fftshift")):
        for parts in ({}, {"sensitivity_maps": maps}):
            with pytest.raises(UnreadableScan, match=rf"^mask: .*{how}"):
                probe(scans.write_hdf5(path, kspace=kspace, mask=mask, **parts))


def test_a_mask_without_a_middle_over_whole_kspace_is_no_mistake(path: Path) -> None:
    maps = coils(6)[None].astype(np.complex64)
    (warning,) = warned(path, kspace=kspace_of(head()), mask=lines(step=4, centre=0), sensitivity_maps=maps)
    assert "outside the mask" in warning


def test_noise_that_holds_an_object_is_refused_and_noise_of_two_gains_is_taken(path: Path) -> None:
    kspace = kspace_of(head())
    with pytest.raises(UnreadableScan, match=r"noise: .*as of an object"):
        probe(scans.write_hdf5(path, kspace=kspace, noise=kspace[0, :, :, SIZE // 2]))
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((6, 200, 2)) @ [1, 1j] * np.where(np.arange(200) < 100, 1, 10)
    assert warned(path, kspace=kspace, noise=noise) == ()


def test_maps_that_are_zero_where_the_object_is_are_told(path: Path) -> None:
    maps = (coils(6) * (np.arange(SIZE) < SIZE // 2))[None].astype(np.complex64)
    (warning,) = warned(path, kspace=kspace_of(head()) * lines(), sensitivity_maps=maps)
    assert "do not fit k-space" in warning


def test_a_mask_of_0_and_255_and_a_leading_axis_of_one_are_read(path: Path) -> None:
    kspace = kspace_of(head()) * lines()
    assert warned(path, kspace=kspace[None], mask=(255 * lines()).astype(np.uint8)) == ()
    np.testing.assert_array_equal(read(path).kspace, kspace)


@pytest.mark.parametrize("names", [("real", "imag"), ("re", "im")])
def test_records_of_real_and_imaginary_parts_are_read(names: tuple[str, str], path: Path) -> None:
    kspace = kspace_of(head())
    records = np.empty(kspace.shape, [(name, "f4") for name in names])
    records[names[0]], records[names[1]] = kspace.real, kspace.imag
    assert warned(path, kspace=records) == ()
    np.testing.assert_array_equal(read(path).kspace, kspace)


def partitions_of(slices: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.fft(np.fft.ifftshift(slices, 0), axis=0, norm="ortho"), 0).astype(np.complex64)


def volume_of_16_slices() -> tuple[np.ndarray, str]:
    """k-space of a volume's slices, and a header that tells of so many partitions."""
    slices = np.concatenate([kspace_of(head() * np.exp(-(((z - 8) / 4) ** 2))) for z in range(16)])
    return slices, scans.header(slices, SIZE, SIZE).replace("<z>1</z>", "<z>16</z>")


def test_partitions_that_are_not_transformed_along_kz_are_where_that_gives_slices(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices, header = volume_of_16_slices()
    slices[..., 1:20:4] = 0
    told = probe(scans.write_hdf5(path, kspace=slices, ismrmrd_header=header))
    assert any("3D scan of 16 partitions" in warning for warning in told.warnings)
    assert told.slice_spacing_mm == pytest.approx(5 / 16)
    scans.write_hdf5(path, kspace=partitions_of(slices), ismrmrd_header=header)
    for bytes_at_a_time in (1 << 30, 5 * slices[0].nbytes):  # in one pass, and in several
        monkeypatch.setattr(partitions, "_PIECE_BYTES", bytes_at_a_time)
        made = probe(path)
        assert replace(made, warnings=(), corrections=()) == replace(told, warnings=(), corrections=())
        assert "kz" in made.corrections[0]
        assert not any("3D scan" in warning for warning in made.warnings)
        np.testing.assert_allclose(read(path).kspace, slices, atol=1e-5 * np.abs(slices).max())
        np.testing.assert_allclose(read(path, [11]).kspace, slices[[11]], atol=1e-5 * np.abs(slices).max())


def test_partitions_sampled_at_different_places_are_refused_with_what_would_do(path: Path) -> None:
    slices, header = volume_of_16_slices()
    sampled = partitions_of(slices)
    sampled[::2, ..., 1:20:4] = 0
    scans.write_hdf5(path, kspace=sampled, ismrmrd_header=header)
    with pytest.raises(UnsupportedScan, match=r"not transformed along kz.*same places.*ifft"):
        probe(path)


def test_samples_that_a_mask_calls_measured_and_are_zero_are_not_measured(path: Path) -> None:
    kspace = kspace_of(head()) * lines(step=4)
    padded = kspace.copy()
    padded[..., :8] = padded[..., -8:] = 0
    for given, mask, kept in (
        (kspace, np.ones(SIZE), lines(step=4)),
        (padded, lines(step=4), lines(step=4) & (np.abs(np.arange(SIZE) - 31.5) < 24)),
    ):
        assert any("exactly zero in every coil" in warning for warning in warned(path, kspace=given, mask=mask))
        scan = read(path, [0])
        assert isinstance(scan, MRIAcquisition)
        np.testing.assert_array_equal(scan.mask[0], kept)


def test_dust_of_rounding_is_not_measured(path: Path) -> None:
    kspace = kspace_of(head())
    dust = 1e-7 * np.abs(kspace).max() * kspace_of(head(), noise=1, seed=3) / 5
    assert any("as rounding leaves" in w for w in warned(path, kspace=np.where(lines(step=4), kspace, dust)))
    assert probe(path).acceleration == pytest.approx(SIZE / lines(step=4).sum(), abs=1e-3)
    scan = read(path)
    assert isinstance(scan, MRIAcquisition)
    assert not scan.kspace[..., ~lines(step=4)].any()


def test_a_zero_amid_measured_samples_is_measured_and_one_in_the_middle_is_not(path: Path) -> None:
    for row, column, measured in ((10, 8, True), (32, 32, False)):
        kspace = kspace_of(head(), 1)
        kspace[..., row, column] = 0
        scan = read(scans.write_npy(path, kspace))
        assert isinstance(scan, MRIAcquisition)
        assert scan.mask[row, column] == measured
        assert scan.mask.sum() >= SIZE**2 - 1


def test_the_echo_off_the_middle_is_brought_there_where_its_lines_are_needed(path: Path) -> None:
    mask = np.arange(SIZE) % 3 == 0
    mask[40:56] = True
    kspace = np.roll(kspace_of(head()), 16, -1) * mask
    assert any("0 rows and 16 columns off the middle" in warning for warning in warned(path, kspace=kspace))
    scan = read(path)
    assert isinstance(scan, MRIAcquisition)
    np.testing.assert_array_equal(scan.kspace, np.roll(kspace, -16, -1))
    np.testing.assert_array_equal(scan.mask[0], np.roll(mask, -16))
    images = [np.abs(scans.ifft(each)) for each in (kspace, scan.kspace)]
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)


def test_too_few_lines_for_coil_maps_are_refused_at_once_but_not_of_one_coil_or_with_maps(path: Path) -> None:
    mask = lines(step=8, centre=4)
    with pytest.raises(UnsupportedScan, match="send sensitivity_maps"):
        probe(scans.write_hdf5(path, kspace=kspace_of(head()) * mask))
    assert warned(path, kspace=kspace_of(head(), 1) * mask) == ()
    maps = coils(6)[None].astype(np.complex64)
    assert probe(scans.write_hdf5(path, kspace=kspace_of(head()) * mask, sensitivity_maps=maps)).has_maps


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("conjugated", np.conj),
        ("rows upside down", lambda maps: maps[..., ::-1, :]),
        ("columns reversed", lambda maps: maps[..., ::-1]),
        ("rows and columns swapped", lambda maps: maps.swapaxes(-1, -2)),
        ("another order", lambda maps: maps[:, [2, 0, 1, 5, 3, 4]]),
        ("half the matrix", lambda maps: np.fft.fftshift(maps, axes=(-2, -1))),
    ],
)
def test_maps_that_do_not_fit_are_named_with_what_would_make_them(
    word: str, change: Callable[[np.ndarray], np.ndarray], path: Path
) -> None:
    maps = change(coils(6)[None].astype(np.complex64))
    (warning,) = warned(path, kspace=kspace_of(head()) * lines(), sensitivity_maps=maps)
    assert "do not fit k-space" in warning
    assert word in warning


def test_a_reference_elsewhere_turned_or_of_another_unit_is_told(path: Path) -> None:
    image = head()
    image[10:22, 12:34] += 1
    kspace = kspace_of(image) * lines()
    for word, reference in (
        ("2 rows and -3 columns off", np.roll(image, (2, -3), (0, 1))),
        ("upside down", image[::-1]),
        ("(3.9|4|4.0.) times smaller", image / 4),
        ("times larger", (1000 * image).astype(np.uint16)),
    ):
        (warning,) = warned(path, kspace=kspace, reference=reference[None])
        assert re.search(word, warning)


def test_a_complex_reference_is_its_magnitude(path: Path) -> None:
    reference = (head() * np.exp(0.3j)).astype(np.complex64)
    (warning,) = warned(path, kspace=kspace_of(head()), reference=reference[None])
    assert "magnitude" in warning
    np.testing.assert_allclose(read(path).reference[0], head(), atol=1e-6)


def test_coils_that_are_noisier_are_named(path: Path) -> None:
    kspace = kspace_of(head())
    kspace[:, [1, 4]] += kspace_of(0 * head(), noise=0.5, seed=5)[:, [1, 4]]
    (warning,) = warned(path, kspace=kspace * lines())
    assert warning.startswith("coils 1, 4: up to ")


def test_a_spike_and_one_sided_kspace_are_told(path: Path) -> None:
    kspace = kspace_of(head())
    kspace[0, 2, 10, 12] = 30 * np.abs(kspace).max()
    assert any("ky 10, kx 12" in warning for warning in warned(path, kspace=kspace))
    half = kspace_of(head())
    half[..., :20, :] = 0
    (warning,) = warned(path, kspace=half)
    assert "partial Fourier" in warning


def test_nan_that_the_mask_leaves_out_is_not_measured_and_elsewhere_it_is_refused(path: Path) -> None:
    kspace = np.where(lines(), kspace_of(head()), np.nan).astype(np.complex64)
    (warning,) = warned(path, kspace=kspace, mask=lines())
    assert "NaN outside the mask" in warning
    scan = read(path)
    assert isinstance(scan, MRIAcquisition)
    assert np.isfinite(scan.kspace).all()
    with pytest.raises(UnreadableScan, match="NaN"):
        probe(scans.write_hdf5(path, kspace=kspace))


@pytest.mark.parametrize("shape", [(1, SIZE), (1, 1, SIZE, 1), (SIZE, SIZE), (1, SIZE, SIZE), (2, 1, SIZE)])
def test_a_mask_may_have_axes_of_one_and_be_the_same_for_all_slices(shape: tuple[int, ...], path: Path) -> None:
    kspace = np.concatenate([kspace_of(head()), kspace_of(head(), seed=1)]) * lines()
    row = lines().reshape(1, 1, SIZE, 1) if shape[-1] == 1 else lines()
    assert warned(path, kspace=kspace, mask=np.broadcast_to(row, shape).astype(np.float64)) == ()
    scan = read(path)
    assert isinstance(scan, MRIAcquisition)
    assert scan.masks is None
    np.testing.assert_array_equal(scan.mask, np.broadcast_to(lines(), (SIZE, SIZE)))


def test_slices_with_masks_of_their_own_are_read_by_their_own(path: Path) -> None:
    kspace = np.concatenate([kspace_of(head()), kspace_of(head(), seed=1)])
    masks = np.stack([np.broadcast_to(lines(step=step), (SIZE, SIZE)) for step in (2, 4)])
    assert any("masks of their own" in warning for warning in warned(path, kspace=kspace, mask=masks))
    whole = read(path)
    assert isinstance(whole, MRIAcquisition)
    for index in (0, 1):
        one = read(path, [index])
        assert isinstance(one, MRIAcquisition)
        np.testing.assert_array_equal(one.mask, masks[index])
        np.testing.assert_array_equal(whole.mask_of(index), masks[index])
        assert not one.kspace[0][:, ~masks[index]].any()


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"kspace": kspace_of(head(SIZE, 48)), "mask": np.ones((48, SIZE))}, r"numpy.swapaxes\(mask, -1, -2\)"),
        ({"kspace": np.ones((1, 6, SIZE, SIZE, 2), np.int16)}, "join real and imaginary parts"),
        ({"kspace": kspace_of(head()), "pixel_spacing_mm": np.ones(2)}, "ismrmrd_header tells"),
        ({"kspace": np.abs(kspace_of(head()))}, "join real and imaginary parts"),
        ({"kspace": kspace_of(head(16, 16), 300)}, "compress them first"),
        ({"kspace": kspace_of(head()), "mask": np.ones((5, SIZE))}, "without a mask, zeros count as not measured"),
        ({"kspace": kspace_of(head()), "sensitivity_maps": np.zeros((1, 2, 6, SIZE, SIZE), np.complex64)}, "one set"),
        ({"kspace": kspace_of(head()), "noise": np.ones((100, 6), np.complex64)}, "noise"),
    ],
)
def test_what_is_not_read_is_refused_with_what_to_do(parts: dict[str, Any], word: str, path: Path) -> None:
    with pytest.raises(ReconstructionError, match=word):
        probe(scans.write_hdf5(path, **parts))


def test_real_and_imaginary_parts_on_a_last_axis_are_joined(tmp_path: Path) -> None:
    kspace = kspace_of(head()) * lines()
    parts = np.stack([kspace.real, kspace.imag], -1)
    for each in (scans.write_hdf5(tmp_path / "a", kspace=parts), scans.write_npy(tmp_path / "b", parts[0])):
        assert any("they are joined" in warning for warning in probe(each).warnings)
        np.testing.assert_array_equal(read(each).kspace, kspace)
    with h5py.File(tmp_path / "c", "w") as file:
        file.create_dataset("kspace", data=parts, chunks=(1, 6, SIZE, SIZE, 1))
    assert probe(tmp_path / "c").coils == 6
    np.testing.assert_array_equal(read(tmp_path / "c").kspace, kspace)

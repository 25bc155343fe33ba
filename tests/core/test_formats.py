import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import scans
from udig_recon.core.acquisition import CTAcquisition, Modality, MRIAcquisition, ScanHeader
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats import Limits, probe, read
from udig_recon.core.formats.containers import arrays
from udig_recon.core.formats.containers.scan_file import open_scan_file
from udig_recon.core.formats.input_format import InputFormat
from udig_recon.core.formats.reading import _recognises
from udig_recon.core.formats.registry import BUILT_IN


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a name that says nothing.txt"


@pytest.mark.parametrize("name", scans.GOOD)
def test_probe_and_read_agree(name: str, path: Path) -> None:
    scans.GOOD[name](path)
    header, scan = probe(path), read(path)

    assert header.slices == scan.slices
    assert header.pixel_spacing_mm == scan.pixel_spacing_mm
    assert header.has_reference == (scan.reference is not None)
    assert scan.reference is None or scan.reference.shape == (header.slices, *header.matrix)
    assert scan.reference is None or scan.reference.dtype == np.float32
    if isinstance(scan, MRIAcquisition):
        assert header.modality == Modality.MRI
        assert scan.kspace.shape == (header.slices, header.coils, *(header.kspace_matrix or ()))
        assert scan.kspace.dtype == np.complex64
        assert scan.mask.shape == header.kspace_matrix
        assert scan.mask.dtype == np.bool_
        assert header.acceleration == pytest.approx(scan.mask.size / scan.mask.sum(), abs=1e-4)
        assert scan.recon_size == header.matrix
        assert header.has_maps == (scan.sensitivity_maps is not None)
        assert scan.sensitivity_maps is None or scan.sensitivity_maps.shape == scan.kspace.shape
    else:
        assert header.modality == Modality.CT
        assert scan.sinogram.shape == (header.slices, header.views, header.detectors)
        assert scan.sinogram.dtype == np.float32
        assert scan.angles.shape == (header.views,)
        assert header.matrix == (scan.image_size, scan.image_size)


@pytest.mark.parametrize("made", [scans.mri, scans.ct])
def test_a_guide_is_read_and_must_be_of_the_images_size(made: Callable[[], dict[str, Any]], path: Path) -> None:
    parts = made()
    scans.write_hdf5(path, **parts, guide=2 * parts["reference"])
    assert probe(path).images == ("reference", "guide")
    assert np.array_equal(read(path, [1]).guide, 2 * parts["reference"][1:])
    scans.write_hdf5(path, **parts, guide=parts["reference"][:, 1:])
    with pytest.raises(UnreadableScan, match="guide"):
        probe(path)


@pytest.mark.parametrize("name", scans.GOOD)
def test_some_slices_are_those_of_the_whole_in_the_order_asked(name: str, path: Path) -> None:
    scans.GOOD[name](path)
    whole = read(path)
    order = list(reversed(range(whole.slices)))
    some = read(path, order)
    for attribute in ("kspace", "sensitivity_maps", "sinogram", "reference"):
        expected = getattr(whole, attribute, None)
        if expected is not None:
            np.testing.assert_array_equal(getattr(some, attribute), expected[order])


def test_one_scan_is_the_same_in_every_format(tmp_path: Path) -> None:
    parts = scans.mri()
    hdf5 = read(scans.write_hdf5(tmp_path / "a", **parts))
    npz = read(scans.write_npz(tmp_path / "b", **parts))
    npy = read(scans.write_npy(tmp_path / "c", parts["kspace"]))
    assert isinstance(hdf5, MRIAcquisition)
    assert isinstance(npz, MRIAcquisition)
    assert isinstance(npy, MRIAcquisition)
    for other in (npz, npy):
        np.testing.assert_array_equal(other.kspace, hdf5.kspace)
        np.testing.assert_array_equal(other.mask, hdf5.mask)
    np.testing.assert_array_equal(npz.sensitivity_maps, hdf5.sensitivity_maps)


@pytest.mark.parametrize(
    "storage",
    [
        {"chunks": (1, 3, 5, 7), "compression": "gzip", "shuffle": True},
        {"chunks": True, "compression": "lzf", "fletcher32": True},
        {"dtype": ">c8"},
        {"dtype": "c16"},
    ],
)
def test_storage_of_an_hdf5_array_does_not_matter(storage: dict[str, object], path: Path) -> None:
    kspace = scans.mri()["kspace"]
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=kspace, **storage)
    assert probe(path).acceleration == pytest.approx(1.6)
    scan = read(path)
    assert isinstance(scan, MRIAcquisition)
    np.testing.assert_array_equal(scan.kspace, kspace)
    assert scan.kspace.dtype.isnative


@pytest.mark.parametrize("compressed", [False, True])
def test_storage_of_a_numpy_array_does_not_matter(compressed: bool, path: Path) -> None:
    kspace = scans.mri()["kspace"]
    fortran = np.asfortranarray(kspace.astype(">c16"))
    with path.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, kspace=fortran)
    assert probe(path).coils == 4
    scan = read(path, [1])
    assert isinstance(scan, MRIAcquisition)
    np.testing.assert_array_equal(scan.kspace, kspace[1:])


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    chunk=st.none() | st.lists(st.integers(1, 9), min_size=4, max_size=4),
    room=st.integers(1, 300),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_blocks_cover_an_array_once_and_keep_chunks_whole(shape: list[int], chunk: list[int] | None, room: int) -> None:
    chunks = None if chunk is None else tuple(chunk[: len(shape)])
    covered = np.zeros(shape, int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK_BYTES", room)
        for region in arrays.regions(tuple(shape), 1, chunks):
            covered[region] += 1
            assert covered[region].size <= max(room, math.prod(chunks or (1,)))
            if chunks is not None:
                assert all(cut.start % side == 0 for cut, side in zip(region, chunks, strict=True))
    assert (covered == 1).all()


@pytest.mark.parametrize("name", ["fastmri_with_maps", "npz_kspace", "npy_kspace", "sinogram"])
def test_many_small_blocks_find_what_one_large_one_finds(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans.GOOD[name](path)
    header = probe(path)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 1000)
    assert probe(path) == header


def test_oversampling_is_cropped_to_the_size_that_fastmri_distributes(path: Path) -> None:
    parts = scans.distributed()
    scans.write_hdf5(path, **parts)
    header, scan = probe(path), read(path)
    assert header.kspace_matrix == (64, 37)
    assert header.matrix == (32, 32)
    assert header.pixel_spacing_mm == (2.0, 2.0)
    assert isinstance(scan, MRIAcquisition)
    images = np.sqrt((np.abs(scans.ifft(scan.kspace)) ** 2).sum(1))
    rows, columns = ((have - keep) // 2 for have, keep in zip((64, 37), scan.recon_size, strict=True))
    np.testing.assert_allclose(images[:, rows : rows + 32, columns : columns + 32], scan.reference, atol=1e-6)


def test_readout_of_the_header_lies_along_rows(path: Path) -> None:
    kspace = scans.mri(size=48)["kspace"]
    scans.write_hdf5(path, kspace=kspace, ismrmrd_header=scans.header(kspace, rows=40, columns=24, pixel_mm=1.5))
    assert probe(path).matrix == (40, 24)


def test_image_is_as_large_as_a_smaller_reference_where_no_header_says(path: Path) -> None:
    parts = scans.distributed()
    scans.write_npz(path, kspace=parts["kspace"], reference=parts["reconstruction_rss"])
    assert probe(path).matrix == (32, 32)


def test_header_that_wants_more_than_was_measured_is_cut_and_told(path: Path) -> None:
    kspace = scans.mri()["kspace"]
    scans.write_hdf5(path, kspace=kspace, ismrmrd_header=scans.header(kspace, rows=40, columns=30))
    header = probe(path)
    assert header.matrix == (32, 30)
    assert any("larger than k-space" in warning for warning in header.warnings)


def test_header_without_sizes_is_as_good_as_none(path: Path) -> None:
    scans.write_hdf5(path, kspace=scans.mri()["kspace"], ismrmrd_header="<ismrmrdHeader><encoding/></ismrmrdHeader>")
    assert probe(path).matrix == (32, 32)


def test_three_axes_are_slices_in_hdf5_and_coils_in_numpy(tmp_path: Path) -> None:
    kspace = scans.mri(slices=3)["kspace"][:, 0]
    hdf5 = probe(scans.write_hdf5(tmp_path / "a", kspace=kspace))
    npy = probe(scans.write_npy(tmp_path / "b", kspace))
    assert (hdf5.slices, hdf5.coils) == (3, 1)
    assert (npy.slices, npy.coils) == (1, 3)
    assert any("single coil" in warning for warning in hdf5.warnings)


def test_samples_outside_the_mask_are_not_used(path: Path) -> None:
    parts = scans.mri(acceleration=1)
    mask = scans.mri(acceleration=4)["mask"]
    scans.write_hdf5(path, kspace=parts["kspace"], mask=mask.astype(np.float64))
    scan = read(path)
    assert isinstance(scan, MRIAcquisition)
    assert scan.kspace[..., mask].all()
    assert not scan.kspace[..., ~mask].any()
    assert any("outside the mask" in warning for warning in probe(path).warnings)


def test_mask_of_points_holds_for_every_slice_and_coil(path: Path) -> None:
    points = np.random.default_rng(2).random((32, 32)) < 0.3
    scans.write_npz(path, kspace=scans.mri(acceleration=1)["kspace"], mask=points)
    scan = read(path, [1])
    assert isinstance(scan, MRIAcquisition)
    np.testing.assert_array_equal(scan.mask, points)


def test_without_a_mask_every_slice_has_its_own_pattern(path: Path) -> None:
    kspace = scans.mri(acceleration=1)["kspace"]
    kspace[0, ..., :12:2] = 0
    kspace[1, ..., :12:3] = 0
    scans.write_npy(path, kspace)
    assert any("different places" in warning for warning in probe(path).warnings)
    scan = read(path, [1])
    assert isinstance(scan, MRIAcquisition)
    np.testing.assert_array_equal(scan.mask[0], (np.arange(32) % 3 != 0) | (np.arange(32) >= 12))
    both = read(path)
    assert isinstance(both, MRIAcquisition)
    np.testing.assert_array_equal(both.mask_of(1), scan.mask)
    np.testing.assert_array_equal(both.mask_of(0)[0], (np.arange(32) % 2 != 0) | (np.arange(32) >= 12))


def test_slice_without_signal_is_told_and_counts_as_measured(path: Path) -> None:
    kspace = scans.mri(slices=3)["kspace"]
    kspace[1] = 0
    scans.write_npy(path, kspace)
    assert any(warning == "slices without any signal: 1" for warning in probe(path).warnings)
    scan = read(path, [1])
    assert isinstance(scan, MRIAcquisition)
    assert scan.mask.all()


def test_counts_become_the_line_integrals_that_attenuated_them(path: Path) -> None:
    exact = scans.ct()["sinogram"]
    scans.GOOD["sinogram_counts"](path)
    scan = read(path)
    assert isinstance(scan, CTAcquisition)
    # Poisson: the standard deviation of -log(n / i0) is 1 / sqrt(n).
    deviations = (scan.sinogram - exact) * np.sqrt(1e5 * np.exp(-exact))
    assert np.abs(deviations.mean()) < 0.1
    assert deviations.std() == pytest.approx(1, abs=0.1)


def test_ray_without_photons_stays_finite_and_is_told(path: Path) -> None:
    counts = np.full((1, 8, 16), 1000, np.uint16)
    counts[0, 3, 4] = 0
    parts = {**scans.ct(), "sinogram": counts, "angles": np.linspace(0, 3, 8), "quantity": "counts", "i0": 1000.0}
    scans.write_hdf5(path, **scans.without(parts, "reference", "image_size"))
    scan = read(path)
    assert isinstance(scan, CTAcquisition)
    assert scan.sinogram[0, 3, 4] == pytest.approx(math.log(2000))
    assert any("1 rays without photons" in warning for warning in probe(path).warnings)


def test_missing_geometry_follows_from_what_is_there_and_is_told(tmp_path: Path) -> None:
    parts = scans.ct(size=32, pixel_size_mm=4.0)
    bare = scans.without(parts, "geometry", "image_size", "pixel_size_mm", "detector_spacing_mm")
    with_reference = probe(scans.write_npz(tmp_path / "a", **bare))
    assert with_reference.matrix == (32, 32)
    assert with_reference.pixel_spacing_mm == (1.0, 1.0)
    assert len(with_reference.warnings) == 4
    sized = {**scans.without(bare, "reference"), "detector_spacing_mm": 2.0, "pixel_size_mm": 4.0}
    assert probe(scans.write_npz(tmp_path / "b", **sized)).matrix == (24, 24)


def test_attributes_may_stand_at_the_dataset(path: Path) -> None:
    parts = scans.ct()
    scans.write_hdf5(path, sinogram=parts["sinogram"], angles=parts["angles"])
    with h5py.File(path, "a") as file:
        file["sinogram"].attrs.update(geometry="parallel", image_size=20, pixel_size_mm=[3.0], detector_spacing_mm=2.0)
    header = probe(path)
    assert header.matrix == (20, 20)
    assert header.pixel_spacing_mm == (3.0, 3.0)
    assert header.warnings == ()


def test_counts_that_nobody_called_counts_are_suspected(path: Path) -> None:
    scans.write_hdf5(path, **{**scans.ct(), "sinogram": scans.ct()["sinogram"] * 1000})
    assert any("counts" in warning for warning in probe(path).warnings)


def test_limits_are_those_given(path: Path) -> None:
    scans.GOOD["fastmri_with_maps"](path)
    for limits, word in (
        (Limits(max_slices=1), "slices"),
        (Limits(max_coils=3), "coils"),
        (Limits(max_matrix=31), "samples"),
    ):
        with pytest.raises(UnsupportedScan, match=word):
            probe(path, limits)
    scans.GOOD["sinogram"](path)
    with pytest.raises(UnsupportedScan, match="24 views"):
        probe(path, Limits(max_views=23))


@pytest.mark.parametrize("index", [-1, 2])
def test_slice_that_is_not_there_cannot_be_read(index: int, path: Path) -> None:
    scans.GOOD["npy_kspace"](path)
    with pytest.raises(UnsupportedScan, match="0 to 1"):
        read(path, [index])


def test_the_phantoms_rays_and_pixels_tell_of_the_same_object(path: Path) -> None:
    """Convention: s = x cos + y sin, y up, so the centre of mass of view theta is that of the image, projected."""
    parts = scans.ct(slices=1, size=128, pixel_size_mm=1.0)
    scan = read(scans.write_hdf5(path, **parts))
    assert isinstance(scan, CTAcquisition)
    assert scan.reference is not None
    image, sinogram = scan.reference[0], scan.sinogram[0]
    np.testing.assert_allclose(sinogram.sum(1), image.sum(), rtol=0.01)
    x = np.arange(128) - 63.5
    centre = np.array([(image.sum(0) * x).sum(), (image.sum(1) * -x).sum()]) / image.sum()
    s = np.arange(sinogram.shape[1]) - (sinogram.shape[1] - 1) / 2
    directions = np.stack([np.cos(scan.angles), np.sin(scan.angles)])
    np.testing.assert_allclose((sinogram * s).sum(1) / sinogram.sum(1), centre @ directions, atol=0.2)


def test_header_survives_the_way_between_processes() -> None:
    from udig_recon.core.formats.sandbox.messages import pack, unpack

    header = ScanHeader(format="npz", modality=Modality.CT, slices=1, matrix=(2, 3), pixel_spacing_mm=(1, 2))
    assert unpack(pack(header)) == header


@pytest.mark.parametrize("format_", BUILT_IN, ids=lambda format_: format_.name)
def test_the_samples_of_a_format_are_recognised_by_it_first_and_are_whole_scans(
    format_: InputFormat, tmp_path: Path
) -> None:
    for content in format_.samples():
        path = tmp_path / "sample"
        path.write_bytes(content)
        with open_scan_file(path) as file:
            # As `core.formats` asks them: a format that fails over a file does not recognise it.
            assert next(each.name for each in BUILT_IN if _recognises(each, file)) == format_.name
        assert probe(path).slices >= 1

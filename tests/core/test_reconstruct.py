"""A file becomes an image: through every step that the service takes, without the service."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support import scans
from udig_recon.core import formats, metrics
from udig_recon.core.acquisition import Modality, MRIAcquisition
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.parameters import complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.reconstruct import reconstruct

CPU = torch.device("cpu")


def last(problem, method, **knobs):
    *_, iterate = reconstruct(problem, complete(parse({"method": method, **knobs}), problem.modality), seed=0)
    return iterate


@pytest.fixture
def brainlike(tmp_path):
    """A 64-pixel scan with eight coils at half the lines, maps to be estimated."""
    parts = scans.without(scans.mri(slices=2, coils=8, size=64), "sensitivity_maps")
    return formats.read(scans.write_hdf5(tmp_path / "scan", **parts))


@pytest.fixture
def sparse(tmp_path):
    """A 64-pixel sinogram of 24 views."""
    return formats.read(scans.write_hdf5(tmp_path / "scan", **scans.ct(size=64, pixel_size_mm=2.0)))


def test_mri_without_maps_is_reconstructed_in_scanner_units(brainlike):
    problem = slice_problem(brainlike, 0, CPU)
    solved = problem.image_metrics(last(problem, "cg_sense").image)
    assert solved.psnr > 28
    assert solved.psnr > problem.image_metrics(problem.direct()).psnr + 3
    assert problem.magnitude(problem.direct()).shape == (64, 64)


def test_ct_is_reconstructed_in_attenuation_per_millimetre(sparse):
    problem = slice_problem(sparse, 0, CPU)
    image = problem.magnitude(last(problem, "sirt").image)
    truth = sparse.reference[0]
    bright = truth > 0.9 * np.median(truth[truth > 0])
    assert np.median(image[bright]) == pytest.approx(scans.ATTENUATION_1_PER_MM, rel=0.1)
    assert metrics.psnr(image, truth) > metrics.psnr(problem.magnitude(problem.direct()), truth)


def test_an_image_of_the_scan_lies_on_the_grid_of_its_operator_in_the_unit_of_the_network(tmp_path):
    """Oversampled and cropped, as fastMRI distributes it; the truth with the phase of the rough image."""
    parts = scans.distributed()
    guide = 7 * parts["reconstruction_rss"]
    problem = slice_problem(formats.read(scans.write_hdf5(tmp_path / "scan", **parts, guide=guide)), 0, CPU)
    rough = last(problem, "cg_sense").image
    images = problem.side_images(rough, 0.5)
    assert images["guide"].shape[-2:] == images["reference"].shape[-2:] == problem.operator.image_shape[1:]
    assert float(images["guide"].max()) == pytest.approx(1)
    assert np.allclose(
        problem.magnitude(0.5 * images["reference"]), problem.reference, atol=0.01
    )  # 0 where no coil sees
    assert float((0.5 * images["reference"] - rough).norm() / rough.norm()) < 0.2


def test_a_guide_reaches_the_result_and_its_unit_does_not(brainlike):
    given = {"kspace": brainlike.kspace, "mask": brainlike.mask, "recon_size": brainlike.recon_size}
    scanned = [MRIAcquisition(**given, guide=guide) for guide in (brainlike.reference, 9 * brainlike.reference, None)]
    one, other, plain = (last(slice_problem(scan, 0, CPU), "ref_guided_dip", iterations=2).image for scan in scanned)
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(one, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("lines", [slice(None), slice(26, 38)], ids=["all lines", "none but central ones"])
@pytest.mark.parametrize("method", ["tv", "l1_wavelet", "udig_dip"])
def test_a_scan_of_which_no_line_can_be_spared_is_reconstructed_as_others_are(tmp_path, method, lines):
    mask = np.zeros(64, bool)
    mask[lines] = True
    parts = {**scans.mri(slices=1, coils=2, size=64), "mask": mask}
    parts["kspace"] = parts["kspace"] * mask
    problem = slice_problem(formats.read(scans.write_hdf5(tmp_path / "scan", **parts)), 0, CPU)
    knobs = {"outer_iterations": 2, "inner_iterations": 1} if method == "udig_dip" else {}
    image = last(problem, method, **knobs).image
    assert problem.image_metrics(image).psnr > problem.image_metrics(problem.direct()).psnr - 1


@pytest.mark.parametrize("modality", Modality)
def test_the_smallest_scan_is_fitted_by_the_largest_network(tmp_path, modality):
    parts = scans.mri(size=8) if modality is Modality.MRI else scans.ct(size=8)
    problem = slice_problem(formats.read(scans.write_hdf5(tmp_path / "scan", **parts)), 0, CPU)
    assert bool(last(problem, "dip", iterations=2, holdout_share=0).image.isfinite().all())


def test_a_slice_of_which_only_rounding_is_left_is_an_empty_image(brainlike):
    faint = replace(brainlike, kspace=(brainlike.kspace * 1e-30).astype(np.complex64))
    assert faint.kspace.any()
    problem = slice_problem(faint, 0, CPU)
    iterate = last(problem, "tv")
    assert not iterate.image.any()
    assert assess(problem, parse({"method": "tv"}), iterate).rating.level == "check"


def test_measurements_that_make_no_image_are_refused(tmp_path):
    """All line integrals are negative, and of the coils that see something none has measured."""
    dark = {"sinogram": -np.ones((1, 1, 16), np.float32), "angles": np.zeros(1), "image_size": 8, "pixel_size_mm": 1.0}
    blind = scans.mri(coils=2)
    blind["kspace"][:, 0] = 0
    blind["sensitivity_maps"][:, 1] = 0
    for parts, method, field in ((dark, "sirt", "sinogram"), (blind, "cg_sense", "kspace")):
        problem = slice_problem(formats.read(scans.write_hdf5(tmp_path / field, **parts)), 0, CPU)
        with pytest.raises(UnsupportedScan, match="rough image") as refusal:
            last(problem, method)
        assert refusal.value.field == field


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_result_scales_with_the_scan(brainlike, factor):
    scaled = MRIAcquisition(
        kspace=brainlike.kspace * np.complex64(factor), mask=brainlike.mask, recon_size=brainlike.recon_size
    )
    knobs = {"preset": "preview", "outer_iterations": 3}
    plain = last(slice_problem(brainlike, 0, CPU), "udig_dip", **knobs).image
    other = last(slice_problem(scaled, 0, CPU), "udig_dip", **knobs).image
    assert float((other / factor - plain).norm() / plain.norm()) < 0.01


def test_residual_is_known_without_a_reference(brainlike):
    blind = MRIAcquisition(kspace=brainlike.kspace, mask=brainlike.mask, recon_size=brainlike.recon_size)
    quality = slice_problem(blind, 1, CPU).image_metrics(last(slice_problem(blind, 1, CPU), "cg_sense").image)
    assert quality.psnr is None
    assert quality.ssim is None
    assert 0 < quality.data_residual < 0.2


def test_oversampled_readout_is_cropped_to_the_centre(tmp_path):
    scan = formats.read(scans.write_hdf5(tmp_path / "scan", **scans.distributed()))
    problem = slice_problem(scan, 0, CPU)
    assert problem.operator.image_shape[1:] != scan.recon_size
    image = problem.magnitude(last(problem, "cg_sense").image)
    assert image.shape == scan.recon_size
    assert metrics.psnr(image, scan.reference[0]) > 20


@pytest.mark.parametrize(("height", "width", "coils"), [(33, 47, 3), (48, 31, 1), (24, 24, 64)])
def test_odd_sizes_and_any_number_of_coils_run(height, width, coils):
    rng = np.random.default_rng(0)
    image = np.zeros((height, width), np.complex64)
    image[height // 4 : -height // 4, width // 4 : -width // 4] = 1
    gains = rng.normal(size=(coils, 1, 1)) + 1j * rng.normal(size=(coils, 1, 1))
    kspace = scans.fft(gains * image)[None].astype(np.complex64)
    mask = np.ones((height, width), bool)
    mask[:, ::5] = False
    mask[height // 2 - 8 : height // 2 + 8, width // 2 - 8 : width // 2 + 8] = True
    scan = MRIAcquisition(kspace=kspace * mask, mask=mask, recon_size=(height, width))
    problem = slice_problem(scan, 0, CPU)
    image = last(problem, "udig_dip", preset="preview", outer_iterations=2).image
    assert bool(image.isfinite().all())
    assert problem.magnitude(image).shape == (height, width)


def test_too_few_calibration_samples_are_refused_with_the_remedy(brainlike):
    mask = np.array(brainlike.mask)
    mask[30:34] = False
    scan = MRIAcquisition(kspace=brainlike.kspace * mask, mask=mask, recon_size=(64, 64))
    with pytest.raises(UnsupportedScan, match="sensitivity_maps"):
        slice_problem(scan, 0, CPU)


@pytest.mark.parametrize("method", ["udig_dip", "dip"])
def test_a_slice_without_signal_is_an_empty_image(brainlike, sparse, method):
    brainlike.kspace[1] = 0
    sparse.sinogram[1] = 0
    for scan in (brainlike, sparse):
        problem = slice_problem(scan, 1, CPU)
        image = last(problem, method).image
        assert not image.any()
        assert problem.image_metrics(image).data_residual == 0
        assert not problem.direct().any()


def test_unit_puts_the_object_into_the_range_of_the_priors(brainlike, sparse):
    for scan, modality in ((brainlike, Modality.MRI), (sparse, Modality.CT)):
        problem = slice_problem(scan, 0, CPU)
        assert problem.modality is modality
        image = last(problem, "cg_sense" if modality is Modality.MRI else "sirt").image
        assert 0.3 < float((image / intensity_scale(image)).norm(dim=1).quantile(0.98)) < 1.6

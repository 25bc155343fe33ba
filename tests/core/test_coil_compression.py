"""Coils are compressed to those that hold the signal: the image stays, and a scan's maps and noise follow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import scans
from udig_recon.core import formats
from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.coils.noise import bands, covariance_of_outer_samples
from udig_recon.core.metrics import psnr
from udig_recon.core.parameters import Parameters, parse
from udig_recon.core.preprocessing.coils import compress_coils
from udig_recon.core.preprocessing.options import Preprocessing
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, simulate_mri

SIZE, COILS = 96, 16
CPU = torch.device("cpu")
CG = parse({"method": "cg_sense", "holdout_share": 0})


def noisy_scan(level: float, *, coils: int = COILS, correlation: float = 0.0, **more: object) -> MRIAcquisition:
    """A scan whose coils share noise of this level with their neighbours."""
    rng = np.random.default_rng(2)
    image = scans.phantom(1, SIZE)[0].astype(np.complex64)
    mask = cartesian_lines((SIZE, SIZE), 3, 0.25, rng)
    scan = simulate_mri(image, birdcage_maps(coils, (SIZE, SIZE)), mask, rng)
    white = (rng.standard_normal((2, coils, SIZE, SIZE)) / np.sqrt(2)) * level
    mixing = np.linalg.cholesky(covariance_of(coils, correlation))
    noise = np.einsum("cd,dyx->cyx", mixing, white[0] + 1j * white[1]) * mask
    return replace(scan, kspace=(scan.kspace + noise).astype(np.complex64), **more)


def covariance_of(coils: int, correlation: float) -> np.ndarray:
    levels = np.linspace(0.5, 2, coils)
    neighbours = np.eye(coils) + correlation * (np.eye(coils, k=1) + np.eye(coils, k=-1))
    return levels[:, None] * neighbours * levels


def image_of(scan: MRIAcquisition, preprocessing: Preprocessing, method: Parameters = CG) -> np.ndarray:
    problem = slice_problem(scan, 0, CPU, preprocessing=preprocessing)
    *_, last = reconstruct(problem, method, seed=0)
    return problem.magnitude(last.image)


def test_all_energy_and_one_coil_leave_the_scan_as_it_is_bit_for_bit() -> None:
    scan = noisy_scan(0.01)
    assert compress_coils(scan, 0, Preprocessing()) is scan
    one = noisy_scan(0.01, coils=1)
    assert compress_coils(one, 0, Preprocessing(coil_energy=0.5)) is one
    few = noisy_scan(0.01, coils=8)
    assert compress_coils(few, 0, Preprocessing(coil_energy=None)) is few


@pytest.mark.parametrize("energy", [0.9, 0.99, 0.999])
def test_the_energy_asked_for_is_kept_by_the_fewest_coils(energy: float) -> None:
    scan = noisy_scan(0.0)
    compressed = compress_coils(scan, 0, Preprocessing(coil_energy=energy))
    energies = np.linalg.svd(scan.kspace[0].reshape(COILS, -1), compute_uv=False) ** 2
    fewest = int(np.searchsorted(np.cumsum(energies) / energies.sum(), energy)) + 1
    assert compressed.kspace.shape == (1, fewest, SIZE, SIZE)
    kept = np.square(np.abs(compressed.kspace)).sum() / np.square(np.abs(scan.kspace)).sum()
    assert energy <= kept <= 1 + 1e-6
    assert np.array_equal(compressed.kspace != 0, np.broadcast_to(scan.mask, compressed.kspace.shape))
    again = compress_coils(scan, 0, Preprocessing(coil_energy=energy))
    assert np.array_equal(again.kspace, compressed.kspace)


def test_noise_counts_for_no_energy() -> None:
    few = compress_coils(noisy_scan(0.0), 0, Preprocessing(coil_energy=0.99)).kspace.shape[1]
    noisy = compress_coils(noisy_scan(0.02), 0, Preprocessing(coil_energy=0.99)).kspace.shape[1]
    assert few <= noisy <= few + 2 < COILS


@pytest.mark.parametrize("with_maps", [False, True], ids=["maps estimated", "maps given"])
def test_the_image_stays_whether_maps_are_given_or_estimated(with_maps: bool) -> None:
    maps = birdcage_maps(COILS, (SIZE, SIZE))[None] if with_maps else None
    scan = noisy_scan(0.003, sensitivity_maps=maps)
    whole, few = (image_of(scan, Preprocessing(coil_energy=energy)) for energy in (1.0, None))
    assert compress_coils(scan, 0, Preprocessing(coil_energy=None)).kspace.shape[1] <= 12
    assert psnr(few, whole) > 40
    truth = scan.reference
    assert truth is not None
    assert psnr(few, truth[0]) > psnr(whole, truth[0]) - 0.25


def test_noise_is_whitened_before_and_its_covariance_is_compressed_with_it() -> None:
    covariance = (0.05**2 * covariance_of(COILS, 0.45)).astype(np.complex64)
    scan = noisy_scan(0.05, correlation=0.45, noise_covariance=covariance)
    compressed = compress_coils(scan, 0, Preprocessing(coil_energy=0.999))
    assert compressed.noise_covariance is not None
    assert compressed.noise_covariance.shape == (compressed.kspace.shape[1],) * 2
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, COILS, SIZE * SIZE)) / np.sqrt(2)
    mixed = np.linalg.cholesky(covariance.astype(complex)) @ (noise[0] + 1j * noise[1])
    alone = replace(scan, kspace=mixed.reshape(1, COILS, SIZE, SIZE).astype(np.complex64))
    assert alone.noise_covariance is covariance
    truth = scan.reference
    assert truth is not None
    whole, few = (psnr(image_of(scan, Preprocessing(coil_energy=energy)), truth[0]) for energy in (1.0, 0.999))
    assert few > whole - 0.2


def outer_covariance(kspace: np.ndarray) -> np.ndarray | None:
    return covariance_of_outer_samples(kspace, bands((kspace.shape[1], kspace.shape[2])))


@pytest.mark.parametrize("coils", [4, COILS])
def test_noise_of_a_known_covariance_is_found_within_a_tenth_of_the_data(coils: int) -> None:
    scan = noisy_scan(0.2, coils=coils, correlation=0.45)
    found = outer_covariance(scan.kspace[0])
    assert found is not None
    truth = 0.2**2 * covariance_of(coils, 0.45)
    scale = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    assert (np.abs(found - truth) / scale).max() < 0.1


@pytest.mark.parametrize("level", [0.0, 1e-5, 1e-4, 5e-4, 2e-3, 5e-3])
def test_signal_is_not_taken_for_noise(level: float) -> None:
    assert outer_covariance(noisy_scan(level, correlation=0.45).kspace[0]) is None


def test_a_spike_or_few_samples_tell_no_covariance() -> None:
    scan = noisy_scan(0.2, correlation=0.45)
    spiked = scan.kspace[0].copy()
    spiked[:, 3, np.flatnonzero(scan.mask[3])[0]] = 100
    assert outer_covariance(spiked) is None
    assert outer_covariance(scan.kspace[0, :, 24:72, 24:72]) is None


def test_noise_told_from_the_data_gives_a_better_image() -> None:
    scan = noisy_scan(0.2, correlation=0.45)
    truth = scan.reference
    assert truth is not None
    plain = replace(scan, noise_covariance=np.eye(COILS, dtype=np.complex64))
    found, without = (psnr(image_of(each, Preprocessing()), truth[0]) for each in (scan, plain))
    assert found > without + 0.5


def test_more_than_64_coils_are_compressed_when_a_scan_is_read(tmp_path: Path) -> None:
    scan = noisy_scan(0.002, coils=100)
    path = scans.write_npz(tmp_path / "scan", kspace=scan.kspace, mask=scan.mask, reference=scan.reference)
    header = formats.probe(path)
    assert header.coils == 64
    assert any("100 coils were compressed to 64" in each for each in header.corrections)
    read = formats.read(path, [0])
    assert read.kspace.shape == (1, 64, SIZE, SIZE)
    assert psnr(image_of(read, Preprocessing(coil_energy=None)), scan.reference[0]) > 26

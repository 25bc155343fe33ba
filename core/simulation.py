"""Simulated scans of known images: undersampling masks, coil maps, k-space and sinograms with noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from udig_recon.core.acquisition import BeamGeometry, CTAcquisition, MRIAcquisition, NonCartesianAcquisition
from udig_recon.core.operators import XRayTransform, centre, fft2c
from udig_recon.core.operators.nufft import nonuniform_fourier

WATER_1_PER_MM = 0.0193
"""Linear attenuation of water at 70 keV (NIST: 0.193 1/cm), about the mean energy of a CT beam of 120 kV."""


def cartesian_lines(
    shape: tuple[int, int], acceleration: float, center_fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Mask (ky, kx) of whole lines kx: a full centre, and random others, kx / acceleration of them in all."""
    width = shape[1]
    center = max(1, round(width * center_fraction))
    lines = np.zeros(width, bool)
    lines[centre(width, center)] = True
    others = np.flatnonzero(~lines)
    missing = min(max(round(width / acceleration) - center, 0), others.size)
    lines[rng.choice(others, missing, replace=False)] = True
    return np.broadcast_to(lines, shape).copy()


def poisson_disc(
    shape: tuple[int, int], acceleration: float, calibration: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Mask (ky, kx) of 1 / acceleration of the points, ever further apart outwards, about a full centre.

    Points are thrown in random order and kept when no kept one is nearer than the local radius (Bridson's rule); the
    radius is found by bisection, and the surplus of the last bracket dropped.
    """
    wanted = round(shape[0] * shape[1] / acceleration)
    center = np.zeros(shape, bool)
    center[centre(shape[0], calibration), centre(shape[1], calibration)] = True
    order = rng.permutation(shape[0] * shape[1])
    low, high = 0.0, 4 * np.sqrt(acceleration)
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if (_thrown(shape, middle, order) | center).sum() >= wanted else (low, middle)
    mask = _thrown(shape, low, order) | center
    surplus = np.flatnonzero(mask & ~center)
    mask.flat[rng.choice(surplus, max(0, min(mask.sum() - wanted, surplus.size)), replace=False)] = False
    return mask


def _thrown(shape: tuple[int, int], scale: float, order: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Points of one throw; the radius grows from half of `scale` in the centre to all of it at the edge's middle."""
    rows, columns = np.indices(shape)
    offset = np.hypot(rows / shape[0] - 0.5, columns / shape[1] - 0.5)
    radii = (scale * (0.5 + offset)).ravel()
    discs = [_disc(radius / 2) for radius in range(2 * int(np.ceil(radii.max())) + 1)]
    margin = discs[-1].shape[0] // 2
    free = np.ones((shape[0] + 2 * margin, shape[1] + 2 * margin), bool)
    mask = np.zeros(shape, bool)
    for point in order:
        row, column = divmod(int(point), shape[1])
        if free[row + margin, column + margin]:
            mask[row, column] = True
            disc = discs[int(2 * radii[point])]
            reach = disc.shape[0] // 2
            window = np.s_[row + margin - reach : row + margin + reach + 1]
            free[window, column + margin - reach : column + margin + reach + 1] &= ~disc
    return mask


def _disc(radius: float) -> NDArray[np.bool_]:
    reach = int(np.ceil(radius))
    steps = np.arange(-reach, reach + 1)
    return np.hypot(steps[:, None], steps) < max(radius, 0.5)


def radial_spokes(
    shape: tuple[int, int], spokes: int, samples: int | None = None, *, golden: bool = True
) -> NDArray[np.float32]:
    """Trajectory (spokes, samples, 2) of lines through the centre of k-space, (ky, kx) in cycles per field of view.

    Twice as many samples as the longer side of the grid unless told otherwise; the one of zero frequency is number
    n // 2. Angles are `golden` (Winkelmann et al. 2007) or evenly spread over half a turn.
    """
    count = samples or 2 * max(shape)
    step = np.pi * (np.sqrt(5) - 1) / 2 if golden else np.pi / spokes
    angles = np.arange(spokes) * step
    radius = (np.arange(count) - count // 2) / count
    cycles_per_pixel = np.stack((np.sin(angles)[:, None] * radius, np.cos(angles)[:, None] * radius), axis=-1)
    return (cycles_per_pixel * shape).astype(np.float32)


def spiral_interleaves(shape: tuple[int, int], interleaves: int, acceleration: float = 1.0) -> NDArray[np.float32]:
    """Trajectory (interleaves, samples, 2) of Archimedean spirals, (ky, kx) in cycles per field of view.

    Neighbouring turns are `acceleration` cells of the Cartesian grid apart, samples of constant speed half a cell.
    """
    side = max(shape)
    last = np.pi * side / (interleaves * acceleration)  # the angle at which the end of k-space is reached
    fine = np.linspace(0, last, 4096)
    length = (fine * np.hypot(1, fine) + np.arcsinh(fine)) * side / (4 * last)
    count = int(np.ceil(2 * length[-1])) + 1
    turned = np.interp(np.linspace(0, length[-1], count), length, fine)
    share = turned / last
    angles = turned + 2 * np.pi * np.arange(interleaves)[:, None] / interleaves
    cycles_per_pixel = np.stack((share / 2 * np.sin(angles), share / 2 * np.cos(angles)), axis=-1)
    return (cycles_per_pixel * shape).astype(np.float32)


def birdcage_maps(coils: int, shape: tuple[int, int]) -> NDArray[np.complex64]:
    """Sensitivity maps (coils, y, x) of loops on a ring about the image, of unit root-sum-of-squares.

    A loop's field falls with the distance and turns its phase about the loop; one coil sees everything alike.
    """
    if coils == 1:
        return np.ones((1, *shape), np.complex64)
    y, x = (np.linspace(-1, 1, size) for size in shape)
    around = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    away_x, away_y = x - 1.5 * np.cos(around), y[:, None] - 1.5 * np.sin(around)
    maps = np.exp(1j * (np.arctan2(away_y, away_x) - around)) / np.hypot(away_x, away_y)
    unit: NDArray[np.complex64] = (maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))).astype(np.complex64)
    return unit


def simulate_mri(
    image: NDArray[np.complex64],
    maps: NDArray[np.complex64],
    mask: NDArray[np.bool_],
    rng: np.random.Generator,
    *,
    noise_level: float = 0.0,
    with_maps: bool = False,
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0),
) -> MRIAcquisition:
    """Scan of an image ([slices,] y, x) through maps (coils, y, x) at the points of a mask (ky, kx).

    `noise_level` is the standard deviation of complex k-space noise, in units of the image's largest magnitude; the
    transform is orthonormal, so it is that of each coil image too.
    """
    volume = np.asarray(image, np.complex64).reshape(-1, *image.shape[-2:])
    kspace = fft2c(torch.from_numpy(volume[:, None] * maps)).numpy()
    kspace = _with_noise(kspace, noise_level * np.abs(volume).max(), rng) * mask
    return MRIAcquisition(
        kspace=kspace.astype(np.complex64),
        mask=mask,
        sensitivity_maps=np.broadcast_to(maps, kspace.shape).astype(np.complex64) if with_maps else None,
        reference=np.abs(volume),
        recon_size=(volume.shape[1], volume.shape[2]),
        pixel_spacing_mm=pixel_spacing_mm,
    )


def simulate_non_cartesian(
    image: NDArray[np.complex64],
    maps: NDArray[np.complex64],
    trajectory: NDArray[np.float32],
    rng: np.random.Generator,
    *,
    noise_level: float = 0.0,
    with_maps: bool = False,
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0),
) -> NonCartesianAcquisition:
    """Scan of an image ([slices,] y, x) through maps (coils, y, x) along a trajectory (readouts, samples, 2).

    `noise_level` is as of `simulate_mri`; the transform is the orthonormal one's at frequencies between the grid's.
    """
    volume = np.asarray(image, np.complex64).reshape(-1, *image.shape[-2:])
    slices, coils, shape = len(volume), len(maps), (volume.shape[1], volume.shape[2])
    fourier = nonuniform_fourier(trajectory.reshape(-1, 2).astype(np.float64), shape, coils, torch.device("cpu"))
    samples = [fourier.forward(torch.from_numpy(plane * maps)).numpy() for plane in volume]
    kspace = np.stack(samples).reshape(slices, coils, *trajectory.shape[:2])
    kspace = _with_noise(kspace, noise_level * np.abs(volume).max(), rng)
    return NonCartesianAcquisition(
        kspace=kspace.astype(np.complex64),
        trajectory=np.broadcast_to(trajectory, (slices, *trajectory.shape)),
        matrix=shape,
        sensitivity_maps=np.broadcast_to(maps, (slices, *maps.shape)).astype(np.complex64) if with_maps else None,
        reference=np.abs(volume),
        recon_size=shape,
        pixel_spacing_mm=pixel_spacing_mm,
    )


def _with_noise(
    kspace: NDArray[np.complex64], level: np.floating[Any], rng: np.random.Generator
) -> NDArray[np.complex64]:
    """k-space with complex noise of standard deviation `level`."""
    noise = rng.standard_normal((*kspace.shape, 2), np.float32).view(np.complex64)[..., 0] / np.sqrt(np.float32(2))
    noisy: NDArray[np.complex64] = kspace + np.float32(level) * noise
    return noisy


def simulate_ct(
    image_1_per_mm: NDArray[np.float32],
    views: int | Sequence[float],
    photons: float | None,
    rng: np.random.Generator,
    *,
    pixel_size_mm: float = 1.0,
    detectors: int | None = None,
    detector_spacing_mm: float | None = None,
    rotation_center: float | None = None,
    geometry: BeamGeometry = "parallel",
    source_origin_mm: float | None = None,
    source_detector_mm: float | None = None,
    supersampling: int = 1,
    weighted: bool = False,
) -> CTAcquisition:
    """Scan of an image ([slices,] y, x) in 1/mm with `photons` per ray before the object; None: no noise.

    Counts are Poisson(I0 exp(-integral)); where none arrive, half a photon is taken for the logarithm, and with
    `weighted` they are the rays' weights. `views` is their number over half a turn, of fans over a whole one, or their
    angles (radians). With `supersampling` the image is that many times finer than the pixels (of `pixel_size_mm`) to be
    reconstructed, and the reference is its mean over each.
    """
    volume = np.asarray(image_1_per_mm, np.float32).reshape(-1, *image_1_per_mm.shape[-2:])
    size = volume.shape[-1] // supersampling
    radius, magnification, turn = np.sqrt(2) * size * pixel_size_mm / 2, 1.0, np.pi
    if source_origin_mm is not None and source_detector_mm is not None:
        turn, magnification = 2 * np.pi, source_detector_mm / source_origin_mm
        widest = np.arcsin(min(1.0, radius / source_origin_mm))
        radius = source_detector_mm * (np.tan(widest) if geometry == "fan_flat" else widest)
    spacing = detector_spacing_mm or pixel_size_mm * magnification
    detectors = detectors or int(np.ceil(2 * radius / spacing)) | 1
    angles = np.arange(views) * turn / views if isinstance(views, int) else np.asarray(views, np.float64)
    operator = XRayTransform(
        angles,
        volume.shape[-1],
        detectors,
        pixel_size_mm / supersampling,
        spacing,
        rotation_center=rotation_center,
        beam=geometry,
        source_origin_mm=source_origin_mm,
        source_detector_mm=source_detector_mm,
    )
    sinogram = (operator.forward(torch.from_numpy(volume)[:, None])[:, 0] / operator.scale).numpy()
    weights = None
    if photons is not None:
        counts = np.maximum(rng.poisson(photons * np.exp(-sinogram.astype(np.float64))), 0.5)
        sinogram = -np.log(counts / photons)
        if weighted:
            weights = (counts / counts.mean(axis=(1, 2), keepdims=True)).astype(np.float32)
    blocks = volume.reshape(len(volume), size, supersampling, size, supersampling)
    return CTAcquisition(
        sinogram=sinogram.astype(np.float32),
        angles=angles,
        image_size=size,
        pixel_size_mm=pixel_size_mm,
        detector_spacing_mm=spacing,
        rotation_center=rotation_center,
        geometry=geometry,
        source_origin_mm=source_origin_mm,
        source_detector_mm=source_detector_mm,
        weights=weights,
        reference=blocks.mean(axis=(2, 4)),
    )

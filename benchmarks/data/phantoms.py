"""Phantoms that no bundled prior was trained on: limbs for MRI, metal phantoms and bodies with metal for CT."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.cases import SIZE
from udig_recon.core.simulation import WATER_1_PER_MM

METALS_1_PER_MM = {"aluminium": 0.065, "titanium": 0.21, "steel": 0.45}
"""At about 70 keV."""
PLASTIC_1_PER_MM = 0.022
SUPERSAMPLING = 2

Image = NDArray[np.float32]


def limb(rng: np.random.Generator, size: int = SIZE) -> NDArray[np.complex64]:
    """Cross-section (y, x) of a limb: skin, fat, muscles in their septa, bones with cortex and marrow; smooth phase.

    One leg or two, each with one bone or two, as a thigh, a knee or a calf has them, in T1's order of brightness.
    """
    y, x = np.mgrid[-1 : 1 : 1j * size, -1 : 1 : 1j * size]
    image = np.zeros((size, size))
    legs = int(rng.integers(1, 3))
    for leg in range(legs):
        cx = 0.0 if legs == 1 else (leg - 0.5) * 0.95
        radius = rng.uniform(0.5, 0.75) if legs == 1 else rng.uniform(0.33, 0.42)
        _leg(image, (x - cx) / radius, y / radius / rng.uniform(0.9, 1.15), rng)
    phase = rng.uniform(0, 2 * np.pi) + rng.normal(size=2)[0] * x + rng.normal() * y
    return (image * np.exp(1j * phase)).astype(np.complex64)


def _leg(image: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Draw a leg of radius 1 into an image at coordinates about its axis."""
    around, away = np.arctan2(y, x), np.hypot(x, y)
    outline = 1 + sum(rng.normal(scale=0.04) * np.cos(n * around + rng.uniform(0, 6)) for n in (2, 3))
    fascia = rng.uniform(0.72, 0.85) * (1 + 0.03 * np.cos(3 * around))
    image[away < outline] = 0.45  # skin
    image[away < 0.97 * outline] = 1.0  # fat
    muscle = away < fascia
    image[muscle] = 0.35 + 0.03 * np.sin(25 * x[muscle] + 14 * y[muscle])
    for angle in rng.uniform(-np.pi, np.pi, int(rng.integers(4, 7))):
        septum = np.abs(x * np.sin(angle) - y * np.cos(angle)) < 0.012
        image[muscle & septum & (x * np.cos(angle) + y * np.sin(angle) > 0)] = 0.85
    bones = [(0.0, 0.0, rng.uniform(0.28, 0.5))] if rng.random() < 0.5 else [(-0.2, -0.15, 0.3), (0.38, 0.2, 0.13)]
    for bx, by, radius in bones:
        distance = np.hypot(x - bx, (y - by) / rng.uniform(0.8, 1.1))
        image[distance < radius] = 0.08  # cortex
        image[distance < rng.uniform(0.7, 0.85) * radius] = 0.9  # marrow
    for vx, vy in rng.uniform(-0.5, 0.5, (3, 2)):
        image[np.hypot(x - vx, y - vy) < 0.035] = 0.1  # vessels


def metal_phantom(rng: np.random.Generator, size: int = SIZE) -> Image:
    """A disc of water in plastic with rods of metal (y, x) in 1/mm, in pixels half as large as those to reconstruct."""
    x, y = _fine(size)
    image = np.zeros(x.shape, np.float32)
    radius = rng.uniform(0.5, 0.8)
    image[np.hypot(x, y) < radius] = PLASTIC_1_PER_MM
    image[np.hypot(x, y) < 0.94 * radius] = WATER_1_PER_MM
    count = int(rng.integers(2, 7))
    for number in range(count):
        angle, away = 2 * np.pi * number / count + rng.uniform(0, 0.5), rng.uniform(0.25, 0.7) * radius
        metal = rng.choice(list(METALS_1_PER_MM.values()))
        here = np.hypot(x - away * np.cos(angle), y - away * np.sin(angle))
        image[here < rng.uniform(0.03, 0.08)] = metal
    return image


def with_metal(image: Image, rng: np.random.Generator) -> Image:
    """A body (y, x) in 1/mm with one or two discs of metal set into it, as implants are."""
    x, y = _fine(len(image) // SUPERSAMPLING)
    found = image.copy()
    for _ in range(int(rng.integers(1, 3))):
        inside = np.argwhere(image > 0.5 * WATER_1_PER_MM)
        row, column = inside[rng.integers(len(inside))]
        here = np.hypot(x - x[row, column], y - y[row, column])
        found[here < rng.uniform(0.02, 0.06)] = rng.choice(list(METALS_1_PER_MM.values()))
    return found


def _fine(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[-1 : 1 : 1j * SUPERSAMPLING * size, -1 : 1 : 1j * SUPERSAMPLING * size]
    return x, y

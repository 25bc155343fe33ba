"""The Cartesian calibration region of a non-Cartesian scan, gridded from its samples about the centre of k-space."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.coils.calibration import LARGEST_CALIBRATION, centre
from udig_recon.core.operators.fourier import as_complex, fft2c
from udig_recon.core.operators.noncartesian import NonCartesianMRI
from udig_recon.core.operators.solvers import conjugate_gradient

GRID = 2 * LARGEST_CALIBRATION
"""Pixels a side of the coarse images whose k-space the region is cut from."""
INSIDE = 0.95
"""Share of the coarse grid's frequencies whose samples are used."""
ITERATIONS = 15

Points = NDArray[np.floating[Any]]


def gridded_centre(samples: Tensor, points: Points, shape: tuple[int, int]) -> Tensor:
    """Cartesian k-space (coils, *shape) of samples (coils, n) at points (n, 2), the middle 32 x 32; 0 elsewhere.

    It is that of coarse images that fit the samples about the centre, by least squares.
    """
    coarse = (min(shape[0], GRID), min(shape[1], GRID))
    near = (np.abs(points) < INSIDE / 2 * np.array(coarse)).all(axis=1)
    ones = torch.ones((1, *coarse), dtype=samples.dtype, device=samples.device)
    model = NonCartesianMRI(ones, points[near][None])
    y = model.measurements(samples[:, torch.from_numpy(near).to(samples.device)][:, None]).movedim(1, 0)
    rhs = model.adjoint(y)
    images = conjugate_gradient(model.normal, rhs, None, ITERATIONS)
    kspace = torch.zeros((len(samples), *shape), dtype=samples.dtype, device=samples.device)
    fitted = fft2c(as_complex(images))
    sides = [min(side, LARGEST_CALIBRATION) for side in shape]
    target, source = (
        tuple(centre(size, side) for size, side in zip(grid, sides, strict=True)) for grid in (shape, coarse)
    )
    kspace[:, *target] = fitted[:, *source]
    return kspace

"""Nonuniform Fourier transforms of images at the points of a trajectory: by finufft, and by gridding in torch alone.

The image's pixel n // 2 is the origin, frequencies (ky, kx) are in cycles per field of view, and the transform is
scaled as an orthonormal Fourier transform is: at the points of the Cartesian grid it is `fourier.fft2c`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse, special
from torch import Tensor

from udig_recon.core.operators.sparse import sparse_csr

try:
    import finufft  # type: ignore[import-untyped]
except ImportError:  # there is no wheel for Linux on ARM
    finufft = None

Points = NDArray[np.float64]
"""(points, 2): (ky, kx) in cycles per field of view."""

TOLERANCE = 1e-7
"""Relative error of finufft's transforms; in double precision this takes no longer than single precision does."""
UPSAMPLING = 1.25
"""Of finufft's grid: with it double precision is fastest."""
KERNEL_TOLERANCE = 1e-10
"""Relative error of point spread functions, which serve every iteration."""

WIDTH = 7
"""Width of the Kaiser-Bessel kernel in points of the grid that is finer by `OVERSAMPLING`."""
OVERSAMPLING = 2


class NonuniformFourier(ABC):
    """A nonuniform Fourier transform and its adjoint, for images (n, H, W) and values (n, points), complex64."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Values (n, points) of images (n, H, W)."""

    @abstractmethod
    def adjoint(self, values: Tensor) -> Tensor:
        """Images (n, H, W): the adjoint of `forward`, not its inverse."""


def nonuniform_fourier(
    points: Points, shape: tuple[int, int], count: int, device: torch.device, *, gridded: bool = False
) -> NonuniformFourier:
    """The transform of `count` images at a time: by finufft on the CPU where that is installed, else by gridding.

    `gridded` True asks for gridding.
    """
    if gridded or device.type != "cpu" or finufft is None:
        return GriddedFourier(points, shape, device)
    return PlannedFourier(points, shape, count)


class PlannedFourier(NonuniformFourier):
    """By finufft, in double precision on the CPU (Barnett, Magland, af Klinteberg 2019)."""

    def __init__(self, points: Points, shape: tuple[int, int], count: int) -> None:
        self._shape, self._count = shape, count
        self._scale = 1 / math.sqrt(math.prod(shape))
        self._types = _plan(2, points, shape, count, TOLERANCE), _plan(1, points, shape, count, TOLERANCE)

    def forward(self, images: Tensor) -> Tensor:
        """Values (n, points) of images (n, H, W), n a multiple of the count that was planned for."""
        return self._execute(self._types[0], images)

    def adjoint(self, values: Tensor) -> Tensor:
        """Images (n, H, W) of values (n, points)."""
        return self._execute(self._types[1], values)

    def _execute(self, plan: Any, given: Tensor) -> Tensor:
        array = (given.to(torch.complex128) * self._scale).contiguous().numpy()
        several = [plan.execute(part) for part in np.split(array, len(array) // self._count)]
        return torch.from_numpy(np.concatenate(several)).to(torch.complex64)


def _plan(kind: int, points: Points, shape: tuple[int, int], count: int, tolerance: float, *, fast: bool = True) -> Any:
    plan = finufft.Plan(
        kind,
        shape,
        n_trans=count,
        eps=tolerance,
        isign=-1 if kind == 2 else 1,
        dtype="complex128",
        upsampfac=UPSAMPLING if fast else 2.0,
        # One thread for one transform: its sums have one order, so that the same data give the same bits.
        spread_thread=2,
        nthreads=min(count, torch.get_num_threads()),
    )
    rows, columns = (np.ascontiguousarray(points[:, axis] * (2 * math.pi / shape[axis])) for axis in (0, 1))
    plan.setpts(rows, columns)
    return plan


def _sums(
    kind: int, points: Points, shape: tuple[int, int], tolerance: float
) -> Callable[[NDArray[np.complex128]], NDArray[np.complex128]]:
    """Sums of waves in double precision: of samples at each pixel (kind 1), or of pixels at each sample (kind 2).

    By finufft to this relative error, else by gridding to some 1e-6.
    """
    if finufft is not None:
        plan = _plan(kind, points, shape, 1, tolerance, fast=tolerance >= TOLERANCE)
        return lambda given: plan.execute(given)
    gridded = GriddedFourier(points, shape, torch.device("cpu"), torch.float64)
    apply = gridded.adjoint if kind == 1 else gridded.forward
    scale = math.sqrt(math.prod(shape))

    def summed(given: NDArray[np.complex128]) -> NDArray[np.complex128]:
        return np.asarray(scale * apply(torch.from_numpy(given)[None])[0].numpy(), np.complex128)

    return summed


def point_spread(
    points: Points, weights: NDArray[np.float64], shape: tuple[int, int], tolerance: float = KERNEL_TOLERANCE
) -> NDArray[np.complex128]:
    """Sum of weights (points,) times exp(2 pi i k q / n) at all differences q of pixels, (2H, 2W).

    Zero difference is at (H, W); the row and column of difference -n are 0, for they have no partner.
    """
    # The frequencies are per field of view of the image, which is half of this grid.
    doubled = (2 * shape[0], 2 * shape[1])
    spread = _sums(1, 2 * points, doubled, tolerance)(weights.astype(np.complex128))
    spread[0], spread[:, 0] = 0, 0
    return spread


class GriddedFourier(NonuniformFourier):
    """By Kaiser-Bessel gridding as a pair of sparse matrices in torch, for any device (Jackson et al. 1991)."""

    def __init__(
        self, points: Points, shape: tuple[int, int], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._shape = shape
        self._grid = tuple(OVERSAMPLING * side for side in shape)
        matrix = _interpolation(points, shape)
        self._matrix, self._transpose = (_on(each, device, dtype) for each in (matrix, matrix.T.tocsr()))
        rows, columns = (torch.from_numpy(1 / _apodisation(side)) for side in shape)
        scale = 1 / math.sqrt(math.prod(shape))
        self._correction = (scale * rows[:, None] * columns).to(device, dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Values (n, points) of images (n, H, W)."""
        spectra = torch.fft.fft2(self._padded(images * self._correction))
        return self._multiply(self._matrix, spectra.flatten(1))

    def adjoint(self, values: Tensor) -> Tensor:
        """Images (n, H, W) of values (n, points)."""
        spectra = self._multiply(self._transpose, values).reshape(-1, *self._grid)
        images: Tensor = torch.fft.ifft2(spectra, norm="forward")
        for axis, side in zip((-2, -1), self._shape, strict=True):
            images = images.roll(side // 2, axis).narrow(axis, 0, side)
        return images * self._correction

    def _padded(self, images: Tensor) -> Tensor:
        padded = images.new_zeros((len(images), *self._grid))
        padded[:, : self._shape[0], : self._shape[1]] = images
        shifts = tuple(-(side // 2) for side in self._shape)
        return padded.roll(shifts, (-2, -1))

    @staticmethod
    def _multiply(matrix: Tensor, values: Tensor) -> Tensor:
        """Sparse real (a, b) times dense complex (n, b), (n, a)."""
        parts = torch.view_as_real(values).permute(1, 0, 2).flatten(1)
        product = matrix @ parts.contiguous()
        result: Tensor = torch.view_as_complex(product.reshape(len(product), -1, 2).permute(1, 0, 2).contiguous())
        return result


def _on(matrix: "sparse.csr_array[np.float64]", device: torch.device, dtype: torch.dtype) -> Tensor:
    starts, columns = (torch.from_numpy(index.astype(np.int32)) for index in (matrix.indptr, matrix.indices))
    return sparse_csr(starts, columns, torch.from_numpy(matrix.data).to(dtype), matrix.shape, device)


def _interpolation(points: Points, shape: tuple[int, int]) -> "sparse.csr_array[np.float64]":
    """Sparse matrix (points, 4 H W) of the kernel's values at the points about each frequency."""
    steps = np.arange(WIDTH)
    indices, values = [], []
    for axis in (0, 1):
        places = points[:, axis, None] * OVERSAMPLING
        first = np.ceil(places - WIDTH / 2)
        values.append(_kaiser_bessel(first + steps - places))
        indices.append((first + steps).astype(np.int64) % (OVERSAMPLING * shape[axis]))
    flat = indices[0][:, :, None] * (OVERSAMPLING * shape[1]) + indices[1][:, None, :]
    weights = values[0][:, :, None] * values[1][:, None, :]
    ends = np.arange(len(points) + 1) * WIDTH**2
    size = (len(points), OVERSAMPLING**2 * shape[0] * shape[1])
    matrix = sparse.csr_array((weights.ravel(), flat.ravel(), ends), shape=size)
    matrix.sum_duplicates()
    return matrix


BETA = math.pi * math.sqrt((WIDTH / OVERSAMPLING) ** 2 * (OVERSAMPLING - 0.5) ** 2 - 0.8)
"""Shape of the kernel (Beatty, Nishimura, Pauly 2005)."""


def _kaiser_bessel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.maximum(1 - (2 * distance / WIDTH) ** 2, 0)
    kernel: NDArray[np.float64] = special.i0(BETA * np.sqrt(inside)) * (np.abs(distance) <= WIDTH / 2)
    return kernel


def _apodisation(side: int) -> NDArray[np.float64]:
    """Fourier transform of the kernel at the pixels of one axis."""
    pixels = (np.arange(side) - side // 2) / (OVERSAMPLING * side)
    argument = np.sqrt(np.maximum(BETA**2 - (math.pi * WIDTH * pixels) ** 2, 1e-12))
    transform: NDArray[np.float64] = WIDTH * np.sinh(argument) / argument
    return transform


def density_compensation(points: Points, shape: tuple[int, int], rounds: int = 30) -> NDArray[np.float64]:
    """Weights (points,) of density compensation: the area of k-space that each sample stands for, at most one cell.

    The fixed point w <- w / (K w) of Pipe and Menon (1999) with K = |<a_i, a_j>|^2, a_i the waves of the samples over
    the field of view: sinc^2 of their distance. A sample without neighbours within a cell of the Cartesian grid has
    weight 1; in regions sampled more densely the weights of a cell add up to 1. So the least-squares problem that they
    weight is as well conditioned as a Cartesian one.
    """
    doubled = (2 * shape[0], 2 * shape[1])
    triangles = [1 - np.abs(np.arange(-side, side)) / side for side in shape]
    window = triangles[0][:, None] * triangles[1] / math.prod(shape)
    spread, gather = (_sums(kind, 2 * points, doubled, 1e-6) for kind in (1, 2))
    weights = np.ones(len(points))
    for _ in range(rounds):
        density = gather(spread(weights.astype(np.complex128)) * window).real
        weights = weights / np.maximum(density, weights)
    return weights

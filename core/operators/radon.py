"""The parallel-beam projector as a pair of sparse matrices of strip weights; runs on any device."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.interruption import check_interruption

LARGEST_PAIR_BYTES = 12 * 2**30


class Geometry(NamedTuple):
    """Parallel-beam scan of a square image, centred on the axis of rotation.

    Pixel (row r, column c) lies at x = (c - (n-1)/2) d, y = ((n-1)/2 - r) d. The ray of view theta and detector k is
    x cos(theta) + y sin(theta) = (k - c) p, where c is the detector index that the axis of rotation falls on.
    """

    angles: tuple[float, ...]
    """theta (views,), radians"""
    image_size: int
    """n, pixels a side"""
    detectors: int
    pixel_size_mm: float
    """d"""
    detector_spacing_mm: float
    """p"""
    rotation_center: float | None = None
    """c; None: the middle, (detectors - 1) / 2"""

    @property
    def axis(self) -> float:
        """c, detectors from the first one's centre to the axis of rotation."""
        return (self.detectors - 1) / 2 if self.rotation_center is None else self.rotation_center


class StripProjector:
    """Mean line integral over each detector's width, and its transpose, as two CSR matrices.

    An entry is the area that pixel and strip share, divided by the strip's width (mm).
    """

    def __init__(self, geometry: Geometry, device: torch.device) -> None:
        transpose = _back_projection(geometry)
        self._matrix = _on(transpose.T.tocsr(), device)
        self._transpose = _on(transpose, device)

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (B, views * detectors) of images (B, pixels)."""
        return _product(self._matrix, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `forward`: (B, views * detectors) to (B, pixels)."""
        return _product(self._transpose, y)


def _product(matrix: Tensor, batch: Tensor) -> Tensor:
    # MKL multiplies by a vector several times faster than by a matrix of one column.
    return (matrix @ batch[0])[None] if len(batch) == 1 else (matrix @ batch.T).T


def _back_projection(geometry: Geometry) -> "sparse.csr_array[np.float32]":
    """CSR (pixels, views * detectors); row by row, so nothing needs sorting."""
    reach = _reach(geometry)
    views, pixels = len(geometry.angles), geometry.image_size**2
    _check_memory(geometry)
    rows_at_once = max(1, 2**17 // (views * geometry.image_size * reach))
    blocks = []
    for first in range(0, geometry.image_size, rows_at_once):
        check_interruption()
        blocks.append(_rows(geometry, reach, np.arange(first, min(first + rows_at_once, geometry.image_size))))
    weights, columns, counts = (np.concatenate(part) for part in zip(*blocks, strict=True))
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return sparse.csr_array((weights, columns, starts), shape=(pixels, views * geometry.detectors))


def _check_memory(geometry: Geometry) -> None:
    """A shadow of width w lies on 1 + w / p strips on average; each entry is 8 bytes in each of the two matrices."""
    shadows = np.abs(np.cos(geometry.angles)) + np.abs(np.sin(geometry.angles))
    strips = 1 + shadows * geometry.pixel_size_mm / geometry.detector_spacing_mm
    size = 16 * geometry.image_size**2 * float(strips.sum())
    if size > LARGEST_PAIR_BYTES:
        raise UnsupportedScan(
            f"{len(strips)} views of {geometry.image_size} x {geometry.image_size} pixels need a projector of "
            f"{size / 2**30:.1f} GiB; at most {LARGEST_PAIR_BYTES / 2**30:.1f} GiB are taken",
            field="angles",
            found=f"{len(strips)} views, {geometry.image_size} pixels a side",
            expected="fewer views or a smaller image",
        )


def _rows(
    geometry: Geometry, reach: int, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.intp]]:
    """Weights, columns and entries per pixel of some image rows."""
    theta = np.asarray(geometry.angles)
    middle, spacing, pixel = (geometry.image_size - 1) / 2, geometry.detector_spacing_mm, geometry.pixel_size_mm
    x = (np.arange(geometry.image_size) - middle) * pixel
    y = (middle - rows) * pixel
    s = (y[:, None, None] * np.sin(theta) + x[:, None] * np.cos(theta)).reshape(-1, theta.size)
    extent = (np.abs(np.cos(theta)) + np.abs(np.sin(theta))) * pixel / 2
    first = np.floor((s - extent) / spacing + geometry.axis + 0.5)
    # From here on lengths are no longer than a few pixels, so float32 is exact enough, and twice as fast.
    edge = ((first + 0.5 - geometry.axis) * spacing - s).astype(np.float32)
    area = np.empty((*s.shape, reach + 1), np.float32)
    area[..., 0], area[..., -1] = -(pixel**2) / 2, pixel**2 / 2
    for i in range(1, reach):
        area[..., i] = _shadow(edge + np.float32((i - 1) * spacing), theta, pixel)
    weights = np.diff(area, axis=-1) / np.float32(spacing)
    detector = first.astype(np.int32)[..., None] + np.arange(reach, dtype=np.int32)
    hit = (weights > 1e-6 * pixel) & (detector >= 0) & (detector < geometry.detectors)
    columns = detector + np.arange(theta.size, dtype=np.int32)[:, None] * np.int32(geometry.detectors)
    return weights[hit], columns[hit], np.count_nonzero(hit, axis=(1, 2))


def _shadow(u: NDArray[np.float32], theta: NDArray[np.float64], pixel: float) -> NDArray[np.float32]:
    """Area (mm^2) of a pixel between its centre and the line at distance u (pixels, views), with u's sign.

    A pixel's shadow on the detector is a trapezoid, so this is linear, then quadratic, then constant.
    """
    sides = np.sort(np.abs((np.cos(theta), np.sin(theta))), axis=0) * pixel
    narrow, wide = sides
    height = pixel**2 / wide
    slope = np.divide(height / 2, narrow, out=np.zeros_like(height), where=narrow > 0)
    inner, outer, height, slope = np.stack(((wide - narrow) / 2, (wide + narrow) / 2, height, slope)).astype(np.float32)
    v = np.minimum(np.abs(u), outer)
    beyond = np.maximum(v - inner, 0)
    area: NDArray[np.float32] = np.copysign(height * v - slope * beyond**2, u)
    return area


def _reach(geometry: Geometry) -> int:
    """Most strips that one pixel's shadow can touch."""
    return int(np.ceil(np.sqrt(2) * geometry.pixel_size_mm / geometry.detector_spacing_mm)) + 1


def _on(matrix: "sparse.csr_array[np.float32]", device: torch.device) -> Tensor:
    starts, columns = (
        torch.from_numpy(index.astype(np.int32, copy=False)) for index in (matrix.indptr, matrix.indices)
    )
    weights = torch.from_numpy(matrix.data)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        csr = torch.sparse_csr_tensor(starts, columns, weights, matrix.shape, check_invariants=True)
    return csr.to(device)

"""The projector of parallel and fan beams as a pair of sparse matrices of strip weights; runs on any device."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from udig_recon.core.interruption import check_interruption
from udig_recon.core.operators.pair_cache import Arrays, stored_arrays
from udig_recon.core.operators.sparse import sparse_csr
from udig_recon.core.operators.symmetry import share_views
from udig_recon.core.scan_geometry import LARGEST_PAIR_BYTES, Geometry

LEAST_SHARED_BYTES = 2**26
"""A smaller pair has all views of its own: there is little to save."""
TINY = 1e-9


class StripProjector:
    """Mean line integral over each detector's width, and its transpose, as two CSR matrices.

    An entry is the area that pixel and strip share, divided by the strip's width (mm). Large ones are kept of those
    views alone that no turn or mirroring of the image makes of others (`udig_recon.core.operators.symmetry`).
    """

    def __init__(self, geometry: Geometry, device: torch.device) -> None:
        geometry.check()
        self._shared = share_views(geometry) if pair_bytes(geometry) > LEAST_SHARED_BYTES else None
        own = geometry if self._shared is None else self._shared.geometry
        arrays = stored_arrays(own, lambda: _build_pair(own))
        rays, pixels = len(own.angles) * own.detectors, own.image_size**2
        self._matrix = _csr(arrays, "forward", (rays, pixels), device)
        self._transpose = _csr(arrays, "adjoint", (pixels, rays), device)

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (B, views * detectors) of images (B, pixels)."""
        if self._shared is None:
            return _product(self._matrix, x)
        return self._shared.gathered(_product(self._matrix, self._shared.posed(x)))

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `forward`: (B, views * detectors) to (B, pixels)."""
        if self._shared is None:
            return _product(self._transpose, y)
        return self._shared.summed(_product(self._transpose, self._shared.spread(y)))


def _product(matrix: Tensor, batch: Tensor) -> Tensor:
    # MKL multiplies by a vector several times faster than by a matrix of one column.
    return (matrix @ batch[0])[None] if len(batch) == 1 else (matrix @ batch.T).T


def _build_pair(geometry: Geometry) -> Arrays:
    """Arrays of both matrices: starts of rows, columns and weights."""
    transpose = _back_projection(geometry)
    forward = transpose.T.tocsr()
    return {
        f"{name}_{part}": np.ascontiguousarray(array)
        for name, matrix in (("forward", forward), ("adjoint", transpose))
        for part, array in (
            ("starts", matrix.indptr.astype(np.int32, copy=False)),
            ("columns", matrix.indices.astype(np.int32, copy=False)),
            ("weights", matrix.data),
        )
    }


def _back_projection(geometry: Geometry) -> "sparse.csr_array[np.float32]":
    """CSR (pixels, views * detectors); pixel by pixel, so nothing needs sorting."""
    reach = _reach(geometry)
    views, pixels = len(geometry.angles), geometry.image_size**2
    rows = _parallel_rows if geometry.beam == "parallel" else _fan_rows
    pixels_at_once = max(1, 2**17 // (views * reach))
    weights, columns = _Growing(np.float32), _Growing(np.int32)
    starts = np.zeros(pixels + 1, np.int32)
    for first in range(0, pixels, pixels_at_once):
        check_interruption()
        block = rows(geometry, reach, np.arange(first, min(first + pixels_at_once, pixels)))
        starts[first + 1 : first + 1 + len(block.counts)] = starts[first] + np.cumsum(block.counts)
        weights.append(block.weights)
        columns.append(block.columns)
    shape = (pixels, views * geometry.detectors)
    return sparse.csr_array((weights.finished(), columns.finished(), starts), shape=shape)


class _Growing:
    """An array that grows in place, where a list of its parts and then the whole would take twice the memory."""

    def __init__(self, dtype: Any) -> None:
        self._array, self._length = np.empty(2**20, dtype), 0

    def append(self, part: NDArray[Any]) -> None:
        """Add a part at the end."""
        end = self._length + len(part)
        if end > len(self._array):
            self._array.resize(max(end, len(self._array) * 9 // 8), refcheck=False)
        self._array[self._length : end] = part
        self._length = end

    def finished(self) -> NDArray[Any]:
        """The whole array."""
        self._array.resize(self._length, refcheck=False)
        return self._array


def is_too_large(geometry: Geometry) -> bool:
    """Whether the pair of matrices of a geometry takes too much memory, though views share what they can."""
    if pair_bytes(geometry) <= LARGEST_PAIR_BYTES:
        return False
    shared = share_views(geometry)
    return shared is None or pair_bytes(shared.geometry) > LARGEST_PAIR_BYTES


def pair_bytes(geometry: Geometry) -> float:
    """Bytes of the two matrices, estimated.

    A shadow of width w lies on 1 + w / p strips on average; each entry is 8 bytes in each of the two matrices.
    """
    shadows = np.abs(np.cos(geometry.angles)) + np.abs(np.sin(geometry.angles))
    # The magnification at a distance L from the source is D / L; this is its mean over the circle around the image.
    share = (geometry.radius_mm / geometry.source_origin_mm) ** 2
    magnification = geometry.magnification * 2 / (1 + math.sqrt(max(0.0, 1 - share)))
    strips = 1 + shadows * geometry.pixel_size_mm * magnification / geometry.detector_spacing_mm
    return 16 * geometry.image_size**2 * float(strips.sum())


class Rows(NamedTuple):
    """Weights, columns and entries per pixel of some pixels."""

    weights: NDArray[np.float32]
    columns: NDArray[np.int32]
    counts: NDArray[np.intp]


def _parallel_rows(geometry: Geometry, reach: int, pixels: NDArray[np.intp]) -> Rows:
    theta = np.asarray(geometry.angles)
    spacing, pixel = geometry.detector_spacing_mm, geometry.pixel_size_mm
    x, y = _places(geometry, pixels)
    s = y[:, None] * np.sin(theta) + x[:, None] * np.cos(theta)
    trapezoid = _trapezoid(np.cos(theta), np.sin(theta), pixel)
    extent = (np.abs(np.cos(theta)) + np.abs(np.sin(theta))) * pixel / 2
    first = np.floor((s - extent) / spacing + geometry.axis + 0.5)
    # From here on lengths are no longer than a few pixels, so float32 is exact enough, and twice as fast.
    edge = ((first + 0.5 - geometry.axis) * spacing - s).astype(np.float32)
    area = np.empty((*s.shape, reach + 1), np.float32)
    area[..., 0], area[..., -1] = -(pixel**2) / 2, pixel**2 / 2
    for i in range(1, reach):
        area[..., i] = _shadow(edge + np.float32((i - 1) * spacing), trapezoid)
    return _entries(geometry, np.asarray(np.diff(area, axis=-1) / np.float32(spacing), np.float32), first)


def _fan_rows(geometry: Geometry, reach: int, pixels: NDArray[np.intp]) -> Rows:
    """Seen from the source, a pixel's shadow across its central ray is that of a parallel beam with the ray's angle."""
    theta = np.asarray(geometry.angles)
    x, y = _places(geometry, pixels)
    cos, sin = np.cos(theta), np.sin(theta)
    across = x[:, None] * cos + y[:, None] * sin
    along = geometry.source_origin_mm + y[:, None] * cos - x[:, None] * sin
    distance = np.hypot(across, along)
    normal = (cos * along + sin * across) / distance, (sin * along - cos * across) / distance
    trapezoid = _trapezoid(*normal, geometry.pixel_size_mm)
    half = (np.abs(normal[0]) + np.abs(normal[1])) * geometry.pixel_size_mm / 2 / distance  # tan of the half shadow
    slope, unit = across / along, geometry.detector_spacing_mm / geometry.source_detector_mm
    flat = geometry.beam == "fan_flat"
    gamma = slope if flat else np.arctan(slope)
    # Tangents of more than a right angle, of a source close to the image, are taken for one.
    start = (slope - half) / np.maximum(1 + slope * half, TINY) if flat else gamma - np.arctan(half)
    first = np.floor(np.clip(start / unit + geometry.axis + 0.5, 0.0, float(geometry.detectors)))
    area = np.empty((*across.shape, reach + 1), np.float32)
    area[..., -1] = geometry.pixel_size_mm**2 / 2
    for i in range(reach):
        edge = (first + (i - 0.5 - geometry.axis)) * unit
        if flat:
            away = (edge - slope) / np.maximum(1 + edge * slope, TINY)
        else:
            away = np.tan(np.clip(edge - gamma, TINY - np.pi / 2, np.pi / 2 - TINY))
        area[..., i] = _shadow((away * distance).astype(np.float32), trapezoid)
    widths = np.diff(geometry.fan_angles(np.arange(geometry.detectors + reach + 1, dtype=np.float64) - 0.5))
    widths = widths[first.astype(np.intp)[..., None] + np.arange(reach)]
    return _entries(geometry, (np.diff(area, axis=-1) / (widths * distance[..., None])).astype(np.float32), first)


def _places(geometry: Geometry, pixels: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """X and y (mm) of pixels by their number."""
    middle = (geometry.image_size - 1) / 2
    rows, columns = np.divmod(pixels, geometry.image_size)
    return (columns - middle) * geometry.pixel_size_mm, (middle - rows) * geometry.pixel_size_mm


def _entries(geometry: Geometry, weights: NDArray[np.float32], first: NDArray[np.float64]) -> Rows:
    """Entries of weights (pixels, views, reach) from detectors `first` (pixels, views) on."""
    views, reach = weights.shape[1:]
    detector = first.astype(np.int32)[..., None] + np.arange(reach, dtype=np.int32)
    hit = (weights > 1e-6 * geometry.pixel_size_mm) & (detector >= 0) & (detector < geometry.detectors)
    columns = detector + np.arange(views, dtype=np.int32)[:, None] * np.int32(geometry.detectors)
    return Rows(weights[hit], columns[hit], np.count_nonzero(hit, axis=(1, 2)))


class _Trapezoid(NamedTuple):
    """Shadow of a pixel across rays: half its upper and lower side, height, and half the slope of its flanks (mm)."""

    inner: NDArray[np.float32]
    outer: NDArray[np.float32]
    height: NDArray[np.float32]
    slope: NDArray[np.float32]


def _trapezoid(cos: NDArray[np.float64], sin: NDArray[np.float64], pixel: float) -> _Trapezoid:
    """Shadow across rays whose normal is (cos, sin)."""
    narrow, wide = np.sort(np.abs((cos, sin)), axis=0) * pixel
    height = pixel**2 / wide
    slope = np.divide(height / 2, narrow, out=np.zeros_like(height), where=narrow > 0)
    return _Trapezoid(*np.stack(((wide - narrow) / 2, (wide + narrow) / 2, height, slope)).astype(np.float32))


def _shadow(u: NDArray[np.float32], trapezoid: _Trapezoid) -> NDArray[np.float32]:
    """Area (mm^2) of a pixel between its centre and the line at distance u (pixels, views), with u's sign.

    A pixel's shadow on the detector is a trapezoid, so this is linear, then quadratic, then constant.
    """
    inner, outer, height, slope = trapezoid
    v = np.minimum(np.abs(u), outer)
    beyond = np.maximum(v - inner, 0)
    area: NDArray[np.float32] = np.copysign(height * v - slope * beyond**2, u)
    return area


def _reach(geometry: Geometry) -> int:
    """Most strips that one pixel's shadow can touch."""
    pixel, spacing = geometry.pixel_size_mm, geometry.detector_spacing_mm
    if geometry.beam == "parallel":
        return int(np.ceil(np.sqrt(2) * pixel / spacing)) + 1
    nearest = geometry.source_origin_mm - geometry.radius_mm
    widest = 2 * math.atan(pixel / math.sqrt(2) / nearest)
    if geometry.beam == "fan_flat":
        # A distance on the detector is D / cos^2 gamma times the angle.
        edge = math.asin(geometry.radius_mm / geometry.source_origin_mm)
        steepest = min(edge + widest, math.atan(geometry.detectors * spacing / geometry.source_detector_mm))
        widest /= math.cos(steepest) ** 2
    strips = widest * geometry.source_detector_mm / spacing
    return min(math.ceil(strips), geometry.detectors) + 1


def _csr(arrays: Mapping[str, Tensor], name: str, shape: tuple[int, int], device: torch.device) -> Tensor:
    starts, columns, weights = (arrays[f"{name}_{part}"] for part in ("starts", "columns", "weights"))
    return sparse_csr(starts, columns, weights, shape, device)

"""CT of parallel beams and fans: line integrals of attenuation, and filtered back-projection."""

import copy
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.acquisition import BeamGeometry, Modality
from udig_recon.core.operators.base import LinearOperator, Window
from udig_recon.core.operators.coverage import (
    ENDED,
    axis_offset,
    longer_sides,
    ray_gap,
    truncation,
)
from udig_recon.core.operators.fbp import back_project_rays, filter_rays
from udig_recon.core.operators.matrix_free import MatrixFreeProjector
from udig_recon.core.operators.pixel_response import PixelResponse
from udig_recon.core.operators.radon_auto import Projector, projector
from udig_recon.core.operators.short_arcs import complete_arc
from udig_recon.core.operators.solvers import operator_norm
from udig_recon.core.operators.truncated import NOTHING_ADDED, Added, continue_rays
from udig_recon.core.ray_weights import is_limited, ray_weights
from udig_recon.core.rebinning import parallel_rays
from udig_recon.core.scan_geometry import Geometry
from udig_recon.core.sinogram_statistics import fill_missing_rays

DENSITY_GROUPS = 16
NEAR = 2
"""Rays to either side that stand in for a missing one."""
REFILLED = 4
"""How often filtered back-projection puts its own image's rays in the place of missing ones."""
NORM_SIZE = 128
"""Pixels a side on which the norm of a scan is found whose projector is not stored."""
VIEWS_A_DETECTOR = 0.75
"""About pi / 4: the image of fewer views has projections that are worse than a straight line."""


class XRayTransform(LinearOperator):
    """X-ray transform of a slice: y = scale * line integrals of x, images (B, 1, n, n) in 1/mm.

    y is (B, 1, views, detectors), of parallel beams or of fans with a flat or a curved detector. The geometry's sense
    is that of `udig_recon.core.scan_geometry.Geometry`. Where rays have weights w, y is scale * sqrt(w) * line
    integrals. A pixel is the mean over its area (`udig_recon.core.operators.pixel_response`), as it is in filtered
    back-projection, in references and in the images of priors; with `pixel_response` off, images are the squares of
    constant attenuation that they look like.
    """

    modality = Modality.CT
    nonnegative = True

    def __init__(
        self,
        angles: NDArray[np.float64],
        image_size: int,
        detectors: int,
        pixel_size_mm: float,
        detector_spacing_mm: float,
        device: torch.device | str = "cpu",
        *,
        rotation_center: float | None = None,
        beam: BeamGeometry = "parallel",
        source_origin_mm: float | None = None,
        source_detector_mm: float | None = None,
        measured: NDArray[np.bool_] | None = None,
        weights: NDArray[np.float32] | None = None,
        added: Added = NOTHING_ADDED,
        pixel_response: bool = True,
    ) -> None:
        """Views at `angles` (radians) about `rotation_center`, a detector's index (None: the middle).

        Fans need the distances from the source to the axis and to the detector. Rays (views, detectors) where
        `measured` is False or `weights`, inverse variances of their noise, are 0 are left out. Rays of detectors
        that were `added` to a truncated scan count by their weights in the data term, and in filtered back-projection;
        they are no measurements and nothing else sees them. Raises UnsupportedScan.
        """
        parallel = beam == "parallel"
        self.geometry = Geometry(
            tuple(float(theta) for theta in angles),
            image_size,
            detectors,
            pixel_size_mm,
            detector_spacing_mm,
            (detectors - 1) / 2 if rotation_center is None else float(rotation_center),
            beam,
            math.inf if parallel or source_origin_mm is None else float(source_origin_mm),
            math.inf if parallel or source_detector_mm is None else float(source_detector_mm),
        )
        self.image_shape = (1, image_size, image_size)
        device = torch.device(device)
        self._projector, norm = _projector(self.geometry, device)
        self._response = PixelResponse(self.geometry) if pixel_response else None
        self.views = len(angles)
        self.measured = torch.ones(len(angles), 1, dtype=torch.bool, device=device)
        self._refills = False
        self._added = added
        self._continued: Tensor | None = None
        """rays (views, detectors) of added detectors that count"""
        if weights is not None:
            measured = weights > 0 if measured is None else measured & (weights > 0)
        if added != NOTHING_ADDED:
            known = np.ones((len(angles), detectors), bool) if measured is None else measured
            measured = known & added.within(detectors)
            self._continued = torch.from_numpy(known & ~measured).to(device)
        if measured is not None and not measured.all():
            # The projections of a truncated scan's image are no better than straight lines: it lacks what lies outside.
            whole = added == NOTHING_ADDED
            self._refills = whole and int(measured.any(1).sum()) >= VIEWS_A_DETECTOR * detectors
            self.measured = torch.from_numpy(np.ascontiguousarray(measured)).to(device)
        kept = b"" if bool(self.measured.all()) else self.measured.cpu().numpy().astype(np.float32).tobytes()
        self.scale = self._unweighted_scale = 1.0 / norm(pixel_response, kept)
        self._roots: Tensor | None = None
        """square roots of the weights (views, detectors)"""
        if weights is not None:
            weights = np.where(self._used.cpu().numpy(), weights, 0).astype(np.float32)
            self._roots = torch.from_numpy(np.sqrt(weights)).to(device)
            self.scale = 1.0 / norm(pixel_response, weights.tobytes())

    @property
    def measurement_plane(self) -> tuple[int, int]:
        """Views and detectors."""
        return len(self.geometry.angles), self.geometry.detectors

    def measurements_of(self, sinogram: Tensor) -> Tensor:
        """Y of line integrals (..., views, detectors)."""
        return sinogram * self._gain

    def unweighted(self, y: Tensor) -> tuple[Self, Tensor]:
        """The same measured rays without their weights, of a model that knows none, and their y."""
        if self._roots is None and self._continued is None:
            return self, y
        other = self._without_weights()
        other._continued = None
        return other, self._line_integrals(y) * other._gain

    def _without_weights(self) -> Self:
        other = copy.copy(self)
        other._roots = None
        other.scale = self._unweighted_scale
        return other

    def restrict(self, kept: Tensor) -> Self:
        """The same model of the views or rays where `kept`, (views, 1) or (views, detectors), is True."""
        other = copy.copy(self)
        other.measured = self.measured & kept
        if self._continued is not None:
            other._continued = self._continued & kept
        other._refills = False  # by rays that are left out to judge an image, that image must not be made
        return other

    @property
    def _used(self) -> Tensor:
        """Rays that count, (views, 1) or (views, detectors)."""
        return self.measured if self._continued is None else self.measured | self._continued

    @property
    def _gain(self) -> Tensor:
        """What y is to line integrals, (views, 1) or (views, detectors)."""
        gain = self.scale * self._used
        return gain if self._roots is None else gain * self._roots

    def _line_integrals(self, y: Tensor) -> Tensor:
        """Line integrals of weighted y, 0 where none is measured."""
        gain = self._gain
        return torch.where(gain > 0, y / gain.clamp(min=torch.finfo(torch.float32).tiny), 0)

    def noise_level(self, y: Tensor) -> float:
        """Standard deviation of the noise, in the mean over rays, from second differences along the detectors.

        Dense rays are noisier by far, so rays are taken in groups of like density.
        """
        measured = self.measured.expand(y.shape[-2:])
        whole = measured[:, :-2] & measured[:, 1:-1] & measured[:, 2:]
        rays = y if self._roots is None else self._line_integrals(y) * self.scale
        centre = rays[..., 1:-1]
        rough = rays[..., :-2] - 2 * centre + rays[..., 2:]
        if self._roots is not None:
            rough = rough * self._roots[:, 1:-1]
        rough = rough[..., whole].flatten()
        rough = rough[centre[..., whole].flatten().argsort()].abs()
        # Median: an edge is a large difference, but few differences are edges. 0.6745 and 6: of a normal distribution.
        groups = [group.median() / 0.6745 / 6**0.5 for group in rough.tensor_split(DENSITY_GROUPS) if group.numel()]
        return float(torch.stack(groups).square().mean().sqrt()) if groups else 0.0

    def coverage(self, y: Tensor) -> dict[str, float]:
        """Angular gap, truncated projections, the largest line integrals and an axis off its place.

        See `udig_recon.core.operators.coverage`.
        """
        plain, y = self.unweighted(y)
        within, geometry = self._added.within(self.geometry.detectors), self._added.scanned(self.geometry)
        measured = self.measured.expand(self.measurement_plane).cpu().numpy()
        sinogram, views = fill_missing_rays(y[0, 0].double().cpu().numpy()[:, within], measured[:, within])
        angles = np.asarray(geometry.angles)[views]
        found = {
            "angular_gap": ray_gap(angles, geometry),
            "truncation": truncation(sinogram, plain.noise_level(y), longer_sides(angles, geometry)),
            "line_integral": float(np.quantile(sinogram, 0.999)) / plain.scale,
        }
        parallel = parallel_rays(sinogram, geometry._replace(angles=tuple(angles.tolist())))
        if parallel is not None:
            found["axis_offset"] = parallel.magnification * axis_offset(
                parallel.sinogram, parallel.angles, parallel.axis
            )
        return found

    def _forward(self, x: Tensor) -> Tensor:
        rays = self._projector.forward(x.flatten(1))
        if self._response is not None:
            rays = self._response.apply(rays)
        return rays.reshape(len(x), 1, len(self.geometry.angles), self.geometry.detectors) * self._gain

    def _adjoint(self, y: Tensor) -> Tensor:
        rays = (y * self._gain).flatten(1)
        if self._response is not None:
            rays = self._response.apply(rays)
        return self._projector.adjoint(rays).reshape(len(y), *self.image_shape)

    def direct(self, y: Tensor, window: Window = "ramp") -> Tensor:
        """Filtered back-projection (B, 1, n, n) in 1/mm of y (B, 1, views, detectors) (Kak, Slaney 1988, chapter 3).

        Of short scans and of detectors off the middle each line counts once (`ray_weights`). Missing rays of a view are
        drawn from the nearest ones; those that a scan's mask leaves out are then taken from the image in a few rounds,
        where views are many (Medoff et al. 1983). The map stays linear. Weights of rays do not count.
        """
        used = self._used
        whole = self._without_weights()
        whole.measured, whole._continued = used.any(1, keepdim=True), None
        if self._roots is not None:
            y = self._line_integrals(y) * (whole.scale * used)
        weights = torch.from_numpy(ray_weights(self.geometry, whole.measured[:, 0].cpu().numpy())).to(y)
        if bool((used == whole.measured).all()):
            return whole._back_project(y, weights, window)
        image = whole._back_project(_fill_missing_rays(y, used), weights, window)
        # The image of a limited angle is no better, and its errors would grow.
        refills = self._refills and not is_limited(self.geometry, whole.measured[:, 0].cpu().numpy())
        for _ in range(REFILLED if refills else 0):
            image = whole._back_project(torch.where(used, y, whole.forward(image)), weights, window)
        return image

    def _back_project(self, y: Tensor, weights: Tensor, window: Window) -> Tensor:
        """Filtered back-projection of rays with their `weights`, (views, 1) or (views, detectors)."""
        rays, geometry = y / self.scale, self.geometry
        if geometry.beam != "parallel" or weights.shape[1] > 1:
            seen = self.measured[:, 0].cpu().numpy()
            if self._added != NOTHING_ADDED:
                sides = longer_sides(np.asarray(geometry.angles)[seen], geometry)
                rays, (before, after) = continue_rays(rays, geometry, ENDED, sides)
                geometry = Added(before, after, 0).enlarged(geometry)
            rays, geometry, seen = complete_arc(rays, geometry, seen)
            if geometry != self.geometry:
                weights = torch.from_numpy(ray_weights(geometry, seen)).to(rays)
            return back_project_rays(rays * weights, geometry, window)
        # Rays that end where the detector does would be a bright ring after the filter.
        whole, (before, _) = continue_rays(rays, geometry)
        filtered = filter_rays(whole, geometry.detector_spacing_mm, window)
        filtered = filtered[..., before : before + geometry.detectors] * weights
        # The strips' areas in a pixel sum to the pixel's, so this makes back-projection a mean over the pixel.
        image = self._projector.adjoint((filtered * self.measured).flatten(1)).reshape(len(y), *self.image_shape)
        return image * (geometry.detector_spacing_mm / geometry.pixel_size_mm**2)


def _fill_missing_rays(sinogram: Tensor, measured: Tensor) -> Tensor:
    """Sinogram (..., views, detectors), the mean of the nearest measured rays of its view in each missing one's place.

    Wider gaps are drawn straight from one side to the other. The ramp would make streaks of single missing rays.
    """
    near = torch.ones(1, 1, 1, 2 * NEAR + 1, device=sinogram.device)
    known = measured.to(sinogram).expand_as(sinogram)
    padding = (0, NEAR)
    around, count = F.conv2d(sinogram * known, near, padding=padding), F.conv2d(known, near, padding=padding)
    filled: Tensor = torch.where(known > 0, sinogram, around / count.clamp(min=1))
    return _bridge_gaps(filled, sinogram, measured.expand(sinogram.shape[-2:]), (count > 0).expand_as(sinogram)[0, 0])


def _bridge_gaps(filled: Tensor, sinogram: Tensor, measured: Tensor, near: Tensor) -> Tensor:
    """Filled sinogram (..., views, detectors), with straight lines where no measured ray is `near`."""
    if bool(near[measured.any(1)].all()):
        return filled
    places = torch.arange(measured.shape[1], device=measured.device).expand(measured.shape)
    nowhere = measured.shape[1]
    before = torch.where(measured, places, -1).cummax(1).values
    after = torch.where(measured, places, nowhere).flip(1).cummin(1).values.flip(1)
    # Beyond the outermost measured ray of a view its value goes on.
    left = torch.where(before < 0, after, before).clamp(max=nowhere - 1)
    right = torch.where(after == nowhere, before, after).clamp(min=0)
    share = (places - left).to(sinogram) / (right - left).clamp(min=1)
    ends = [sinogram.gather(-1, side.expand_as(sinogram)) for side in (left, right)]
    line = ends[0] + (ends[1] - ends[0]) * share
    bridged: Tensor = torch.where(near, filled, line)
    return bridged


NormOf = Callable[[bool, bytes], float]
"""Spectral norm (mm) with or without the pixel response, of rays with weights, float32; of empty ones all are 1."""


@lru_cache(maxsize=1)  # one may take gigabytes
def _projector(geometry: Geometry, device: torch.device) -> tuple[Projector, NormOf]:
    """Projector and its norms, shared by the slices of a volume."""
    pair = projector(geometry, device)

    @lru_cache(maxsize=4)
    def norm(pixel_response: bool, weights: bytes) -> float:
        kept = torch.frombuffer(bytearray(weights), dtype=torch.float32) if weights else torch.ones(())
        return _norm_of(pair, geometry, pixel_response, kept.to(device))

    return pair, norm


def _norm_of(pair: Projector, geometry: Geometry, pixel_response: bool, kept: Tensor) -> float:
    if isinstance(pair, MatrixFreeProjector) and geometry.image_size >= 2 * NORM_SIZE:
        return _norm_of_coarse(geometry, pixel_response, kept)
    response = PixelResponse(geometry).apply if pixel_response else lambda rays: rays

    def normal(x: Tensor) -> Tensor:
        return pair.adjoint(response(response(pair.forward(x.flatten(1))) * kept)).reshape(x.shape)

    size = geometry.image_size
    return operator_norm(normal, torch.ones(1, 1, size, size, device=kept.device))


def _norm_of_coarse(geometry: Geometry, pixel_response: bool, kept: Tensor) -> float:
    """The norm by a coarser scan of the same field: the image that the norm belongs to is smooth."""
    views, detectors, group = len(geometry.angles), geometry.detectors, geometry.image_size // NORM_SIZE
    rays = kept.expand(views * detectors).reshape(1, 1, views, detectors)
    rays = F.pad(rays, (0, -detectors % group, 0, -views % group))
    rays = F.avg_pool2d(rays, group)  # of groups that are not whole by what there is of them
    pixel = geometry.pixel_size_mm * geometry.image_size / NORM_SIZE
    coarse = geometry._replace(
        angles=geometry.angles[::group],
        image_size=NORM_SIZE,
        detectors=rays.shape[-1],
        pixel_size_mm=pixel,
        detector_spacing_mm=geometry.detector_spacing_mm * group,
        rotation_center=(geometry.axis - (group - 1) / 2) / group,
    )
    norm = _norm_of(MatrixFreeProjector(coarse, kept.device), coarse, pixel_response, rays.flatten())
    # A ray of the coarse scan stands for group^2 of these, and a pixel for (pixel / pixel_size_mm)^2.
    return norm * group * geometry.pixel_size_mm / pixel

"""Parallel-beam CT: line integrals of attenuation, and filtered back-projection."""

import copy
from functools import lru_cache
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.operators.angles import angular_weights
from udig_recon.core.operators.base import LinearOperator, Window
from udig_recon.core.operators.coverage import angular_gap, axis_offset, fill_missing_rays, truncation
from udig_recon.core.operators.radon import Geometry
from udig_recon.core.operators.radon_auto import Projector, projector
from udig_recon.core.operators.solvers import operator_norm

DENSITY_GROUPS = 16
NEAR = 2
"""Rays to either side that stand in for a missing one."""
REFILLED = 4
"""How often filtered back-projection puts its own image's rays in the place of missing ones."""
VIEWS_A_DETECTOR = 0.75
"""About pi / 4: the image of fewer views has projections that are worse than a straight line."""


class ParallelBeamCT(LinearOperator):
    """y = scale * line integrals of x: images (B, 1, n, n) in 1/mm, y (B, 1, views, detectors).

    The geometry's sense is that of `udig_recon.core.operators.radon.Geometry`.
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
        measured: NDArray[np.bool_] | None = None,
    ) -> None:
        """Views at `angles` (radians) about `rotation_center`, a detector's index (None: the middle).

        Rays (views, detectors) where `measured` is False are left out.
        """
        self.geometry = Geometry(
            tuple(float(theta) for theta in angles),
            image_size,
            detectors,
            pixel_size_mm,
            detector_spacing_mm,
            (detectors - 1) / 2 if rotation_center is None else float(rotation_center),
        )
        self.image_shape = (1, image_size, image_size)
        self._projector, norm = _projector(self.geometry, torch.device(device))
        self.views = len(angles)
        self.measured = torch.ones(len(angles), 1, dtype=torch.bool, device=device)
        self._refills = False
        if measured is not None and not measured.all():
            self._refills = int(measured.any(1).sum()) >= VIEWS_A_DETECTOR * detectors
            self.measured = torch.from_numpy(np.ascontiguousarray(measured)).to(device)
            norm = _norm_of_rays(self.geometry, torch.device(device), np.packbits(measured).tobytes())
        self.scale = 1.0 / norm

    @property
    def measurement_plane(self) -> tuple[int, int]:
        """Views and detectors."""
        return len(self.geometry.angles), self.geometry.detectors

    def restrict(self, kept: Tensor) -> Self:
        """The same model of the views or rays where `kept`, (views, 1) or (views, detectors), is True."""
        other = copy.copy(self)
        other.measured = self.measured & kept
        other._refills = False  # by rays that are left out to judge an image, that image must not be made
        return other

    def noise_level(self, y: Tensor) -> float:
        """Standard deviation of the noise, in the mean over rays, from second differences along the detectors.

        Dense rays are noisier by far, so rays are taken in groups of like density.
        """
        measured = self.measured.expand(y.shape[-2:])
        whole = measured[:, :-2] & measured[:, 1:-1] & measured[:, 2:]
        centre = y[..., 1:-1]
        rough = (y[..., :-2] - 2 * centre + y[..., 2:])[..., whole].flatten()
        rough = rough[centre[..., whole].flatten().argsort()].abs()
        # Median: an edge is a large difference, but few differences are edges. 0.6745 and 6: of a normal distribution.
        groups = [group.median() / 0.6745 / 6**0.5 for group in rough.tensor_split(DENSITY_GROUPS) if group.numel()]
        return float(torch.stack(groups).square().mean().sqrt()) if groups else 0.0

    def coverage(self, y: Tensor) -> dict[str, float]:
        """Angular gap, truncated projections and an axis off its place, see `udig_recon.core.operators.coverage`."""
        sinogram, views = fill_missing_rays(y[0, 0].double().cpu().numpy(), self.measured.cpu().numpy())
        angles = np.asarray(self.geometry.angles)[views]
        return {
            "angular_gap": angular_gap(angles),
            "truncation": truncation(sinogram, self.noise_level(y)),
            "axis_offset": axis_offset(sinogram, angles, self.geometry.axis),
        }

    def _forward(self, x: Tensor) -> Tensor:
        rays = self._projector.forward(x.flatten(1))
        rays = rays.reshape(len(x), 1, len(self.geometry.angles), self.geometry.detectors)
        return rays * (self.scale * self.measured)

    def _adjoint(self, y: Tensor) -> Tensor:
        rays = (y * (self.scale * self.measured)).flatten(1)
        return self._projector.adjoint(rays).reshape(len(y), *self.image_shape)

    def direct(self, y: Tensor, window: Window = "ramp") -> Tensor:
        """Filtered back-projection (B, 1, n, n) in 1/mm of y (B, 1, views, detectors) (Kak, Slaney 1988, 3.3).

        Missing rays of a view are drawn from the nearest ones; those that a scan's mask leaves out are then taken from
        the image in a few rounds, where views are many (Medoff et al. 1983). The map stays linear.
        """
        pixel, spacing = self.geometry.pixel_size_mm, self.geometry.detector_spacing_mm
        whole = copy.copy(self)
        whole.measured = self.measured.any(1, keepdim=True)
        views = whole.measured[:, 0].cpu().numpy()
        weights = np.zeros(len(views))
        weights[views] = angular_weights(np.asarray(self.geometry.angles)[views])

        def back_project(rays: Tensor) -> Tensor:
            filtered = _filter_rays(rays / self.scale, spacing, window) * torch.from_numpy(weights).to(y)[:, None]
            # The strips' areas in a pixel sum to the pixel's, so this makes back-projection a mean over the pixel.
            return whole.adjoint(filtered) * (spacing / pixel**2 / self.scale)

        if self.measured.shape == whole.measured.shape:
            return back_project(y)
        image = back_project(_fill_missing_rays(y, self.measured))
        for _ in range(REFILLED if self._refills else 0):
            image = back_project(torch.where(self.measured, y, whole.forward(image)))
        return image


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


def _filter_rays(sinogram: Tensor, spacing: float, window: Window) -> Tensor:
    """Sinogram (..., detectors) convolved with the band-limited ramp |f|, padded against wrap-around."""
    detectors = sinogram.shape[-1]
    length = 2 ** int(np.ceil(np.log2(2 * detectors)))
    n = torch.fft.fftfreq(length, 1 / length, dtype=torch.float64)
    # Sampled in space: sampling |f| itself would take the mean of the image away.
    kernel = torch.where(n.remainder(2) == 1, -1 / (np.pi * n * spacing) ** 2, torch.zeros_like(n))
    kernel[0] = 1 / (2 * spacing) ** 2
    response = torch.fft.rfft(kernel).real * spacing
    if window == "hann":
        response = response * (1 + torch.cos(2 * np.pi * torch.fft.rfftfreq(length, dtype=torch.float64))) / 2
    spectrum = torch.fft.rfft(sinogram, length) * response.to(sinogram)
    filtered: Tensor = torch.fft.irfft(spectrum, length)
    return filtered[..., :detectors]


@lru_cache(maxsize=1)  # one may take gigabytes
def _projector(geometry: Geometry, device: torch.device) -> tuple[Projector, float]:
    """Projector and its spectral norm (mm), shared by the slices of a volume."""
    pair = projector(geometry, device)
    return pair, _norm(pair, geometry, torch.ones((), device=device))


@lru_cache(maxsize=1)
def _norm_of_rays(geometry: Geometry, device: torch.device, measured: bytes) -> float:
    """Spectral norm (mm) of the rays whose bits are set."""
    rays = len(geometry.angles) * geometry.detectors
    bits = np.unpackbits(np.frombuffer(measured, np.uint8), count=rays)
    return _norm(_projector(geometry, device)[0], geometry, torch.from_numpy(bits).to(device, torch.float32))


def _norm(pair: Projector, geometry: Geometry, kept: Tensor) -> float:
    def normal(x: Tensor) -> Tensor:
        return pair.adjoint(pair.forward(x.flatten(1)) * kept).reshape(x.shape)

    size = geometry.image_size
    return operator_norm(normal, torch.ones(1, 1, size, size, device=kept.device))

"""Multi-coil Cartesian MRI: y = M F S x."""

import copy
import math
from typing import Self

import torch
from torch import Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.coils.calibration import full_centre
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.operators.base import CoilProblem, LinearOperator
from udig_recon.core.operators.coverage import unmeasured_share
from udig_recon.core.operators.fourier import PLANE, as_channels, as_complex, centre
from udig_recon.core.operators.norms import root_sum_of_squares
from udig_recon.core.operators.solvers import operator_norm

OUTER = 0.8
"""Noise is read off samples beyond this share of the largest frequency."""

LEAST_ERROR = 0.1
"""Share of the squared misfit with held-out samples that is an image's error, however strong the noise."""
LEAST_SENSITIVITY = 0.02
"""No coil measures a pixel whose sensitivity is below this share of the largest one."""


PIXELS_A_THREAD = 2**16
"""Complex pixels that a thread works on at once: half a MiB, and as much again for their spectrum."""


class MultiCoilMRI(LinearOperator):
    """y = scale M F S x: maps S (coils, H, W), centred orthonormal Fourier transform F, mask M (H, W).

    Images are (B, 2, H, W) with real and imaginary part as channels; measurements (B, coils, H, W) complex64, zero
    where the mask is False (Pruessmann et al. 1999).
    """

    modality = Modality.MRI
    maps: Tensor
    """Sensitivity maps (coils, H, W)"""
    holdout_run = 4
    column_lines = True

    def __init__(self, sensitivity_maps: Tensor, mask: Tensor) -> None:
        _check(sensitivity_maps, mask)
        self.image_shape = (2, *mask.shape)
        self.coils = sensitivity_maps.shape[0]
        self._set_maps(sensitivity_maps.to(torch.complex64))
        self._set_measured(mask.to(sensitivity_maps.device, torch.bool))
        sensitivity = root_sum_of_squares(sensitivity_maps, 0)
        self.support = (sensitivity > LEAST_SENSITIVITY * sensitivity.max()).float()
        self.scale = 1.0
        self.scale = 1.0 / self._norm()

    def _norm(self) -> float:
        rng = torch.Generator().manual_seed(0)
        # The centre of k-space is nearly always measured, so a flat image is near the answer; noise holds all others.
        start = 1 + 0.1 * torch.randn((1, *self.image_shape), generator=rng).to(self.maps.device)
        norm = operator_norm(self._normal, start)
        if norm == 0:
            raise UnsupportedScan(
                "mask and sensitivity maps leave nothing of the image; measured samples and coils that see are needed",
                field="mask",
                found="forward model of norm 0",
                expected="at least one sample and one coil",
            )
        return norm

    def _set_maps(self, maps: Tensor) -> None:
        self.maps = maps
        self._conjugate_maps = maps.conj().resolve_conj()

    def _set_measured(self, measured: Tensor) -> None:
        self.measured = measured
        mask = torch.fft.ifftshift(measured, PLANE).float()
        # To shift an image is to multiply its spectrum by phases, which costs nothing beside the mask.
        self._sampling = mask * _shift_phases(measured)
        # F^H M F leaves the phases out, and F along an axis that the mask does not depend on.
        self._normal_axes: tuple[int, ...] = PLANE
        self._normal_mask = mask
        if bool((mask == mask[:1]).all()):
            self._normal_axes, self._normal_mask = (-1,), mask[:1]
        elif bool((mask == mask[:, :1]).all()):
            self._normal_axes, self._normal_mask = (-2,), mask[:, :1]

    def with_maps(self, maps: Tensor) -> Self:
        """The same model with other maps (coils, H, W) of the same root-sum-of-squares; scale and support stay."""
        other = copy.copy(self)
        other._set_maps(maps)
        return other

    def per_coil(self, y: Tensor) -> CoilProblem:
        """Model of single coils' images, with y (1, coils, ky, kx) as a batch (coils, 1, ky, kx)."""
        single = MultiCoilMRI(torch.ones_like(self.maps[:1]), self.measured)
        return CoilProblem(single, y[0, :, None] * (single.scale / self.scale), self.maps)

    def coil_normal(self, images: Tensor) -> Tensor:
        """N^H N of single coils' images (coils, H, W), where N is the model with a map of one."""
        # As in the normal map, phases cancel, and transforms along an axis that is measured wholly.
        spectra = torch.fft.fftn(images, dim=self._normal_axes).mul_(self.scale**2 * self._normal_mask)
        result: Tensor = torch.fft.ifftn(spectra, dim=self._normal_axes)
        return result

    def coil_residual(self, images: Tensor, y: Tensor) -> Tensor:
        """N^H (y - N images) of single coils' images (coils, H, W) and measurements y (coils, ky, kx)."""
        spectra = self.scale * torch.fft.ifftshift(y, PLANE) * self._sampling.conj()
        adjoint: Tensor = torch.fft.ifft2(spectra, norm="ortho")
        return adjoint - self.coil_normal(images)

    def restrict(self, kept: Tensor) -> Self:
        """The same model of the samples where `kept` (ky, kx) is True."""
        other = copy.copy(self)
        other._set_measured(self.measured & kept)
        return other

    def holdout_groups(self, *, in_centre: bool = False) -> Tensor:
        """Phase-encoding lines, or single points where the mask is not of lines, outside the calibration centre.

        With `in_centre`, outside its inner half. They are numbered by their distance from the centre of k-space.
        """
        measured = self.measured.cpu()
        eligible = _outside_centre(measured, in_centre=in_centre)
        if bool((measured == measured[:1]).all()):
            return _ranks(eligible[:1] & measured[:1]).expand(measured.shape)
        if bool((measured == measured[:, :1]).all()):
            return _ranks(eligible[:, :1] & measured[:, :1]).expand(measured.shape)
        return _ranks(eligible & measured)

    def can_hold_out(self, kept: Tensor) -> bool:
        """Whether a mask leaves out a line or point outside the calibration centre, and keeps one."""
        eligible = (self.holdout_groups() >= 0).to(kept.device)
        return bool((eligible & ~kept).any()) and bool((eligible & kept).any())

    def noise_level(self, y: Tensor) -> float:
        """Standard deviation of complex noise: the median magnitude (Rayleigh) of the outermost measured samples."""
        height, width = self.image_shape[1:]
        rows = torch.linspace(-1, 1, height, device=y.device).abs()
        columns = torch.linspace(-1, 1, width, device=y.device).abs()
        outer = torch.maximum(rows[:, None], columns) > OUTER
        samples = y[..., outer & self.measured]
        return float(samples.abs().median()) / math.sqrt(math.log(2)) if samples.numel() else 0.0

    def image_norm(self, y: Tensor) -> float:
        """Approximate norm of the image of measurements y, by Parseval's theorem."""
        sensitivity = root_sum_of_squares(self.maps, 0)
        return float(y.norm()) / self.scale / float(sensitivity[self.support > 0].median())

    def expected_error(self, y: Tensor, residual: float) -> float | None:
        """As the base says: unmeasured samples are taken to be like the measured ones that can be held out.

        They hold as much energy, and the image predicts them as badly. By Parseval's theorem their error is that of
        the image, whose coil maps have a root-sum-of-squares of 1.
        """
        outside = (self.holdout_groups() >= 0).to(y.device)
        if not bool(outside.any()):
            return None
        missed = residual**2 * float(y[..., outside].abs().square().mean())
        # What is left of strong noise is uncertain, so some of it counts.
        error = max(missed - self.noise_level(y) ** 2, LEAST_ERROR * missed) * self.coils / self.scale**2
        unmeasured = 1 - float(self.measured.float().mean())
        return math.sqrt(error * unmeasured)

    def coverage(self, y: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Unmeasured share of the way to an end of k-space (`udig_recon.core.operators.coverage`), and acceleration."""
        share = float(self.measured.float().mean())
        return {"unmeasured": unmeasured_share(self.measured.cpu().numpy()), "acceleration": 1 / share}

    def _forward(self, x: Tensor) -> Tensor:
        spectra = torch.fft.fft2(self.maps * as_complex(x)[:, None], norm="ortho")
        kspace: Tensor = torch.fft.fftshift(spectra.mul_(self.scale * self._sampling), PLANE)
        return kspace

    def _adjoint(self, y: Tensor) -> Tensor:
        spectra = torch.fft.ifftshift(y, PLANE) * (self.scale * self._sampling).conj()
        return as_channels((self._conjugate_maps * torch.fft.ifft2(spectra, norm="ortho")).sum(1))

    def _normal(self, x: Tensor) -> Tensor:
        image = as_complex(self.scale**2 * x)
        result = torch.zeros_like(image)
        for one, sums in zip(image, result, strict=True):
            self._add_normal(one, sums)
        return as_channels(result)

    def _add_normal(self, image: Tensor, sums: Tensor) -> None:
        """Add the sum over coils of S^H F^H M F S image (H, W) to `sums`, some coils at once."""
        count = _coils_at_once(image, self.coils)
        parts = zip(torch.split(self.maps, count), torch.split(self._conjugate_maps, count), strict=True)
        for maps, conjugate in parts:
            spectra = torch.fft.fftn(maps * image, dim=self._normal_axes).mul_(self._normal_mask)
            images = torch.fft.ifftn(spectra, dim=self._normal_axes)
            if count == 1:
                sums.addcmul_(conjugate[0], images[0])
            else:
                sums.add_(images.mul_(conjugate).sum(0))


def _coils_at_once(image: Tensor, coils: int) -> int:
    """So many that each thread of a CPU has a part that fits into its cache; all on a GPU."""
    if image.device.type != "cpu":
        return coils
    return min(coils, max(1, torch.get_num_threads() * PIXELS_A_THREAD // image.numel()))


def _shift_phases(measured: Tensor) -> Tensor:
    """What the spectrum of `ifftshift(image)` (H, W) is, over that of the image; in the transform's order."""
    rows, columns = (
        torch.exp(2j * math.pi * (size // 2) * torch.arange(size, dtype=torch.float64) / size)
        for size in measured.shape
    )
    return (rows[:, None] * columns).to(measured.device, torch.complex64)


def _outside_centre(measured: Tensor, *, in_centre: bool) -> Tensor:
    """Places outside the calibration centre, or its inner half, along every axis that is not measured as a whole."""
    height, width = (side // 2 if in_centre else side for side in full_centre(measured.numpy()))
    lines = bool((measured == measured[:1]).all())
    rows = bool((measured == measured[:, :1]).all()) and not (lines and in_centre)
    outside = torch.ones_like(measured)
    vertical = slice(None) if lines else centre(measured.shape[0], height)
    horizontal = slice(None) if rows else centre(measured.shape[1], width)
    outside[vertical, horizontal] = False
    return outside


def _ranks(eligible: Tensor) -> Tensor:
    """Rank of each eligible place by its distance from the centre, -1 elsewhere."""
    rows, columns = (torch.arange(size) - size // 2 for size in eligible.shape)
    distance = torch.hypot(rows[:, None] / len(rows), columns / len(columns))
    places = torch.where(eligible, distance, torch.inf).flatten()
    ranks = torch.full(places.shape, -1)
    order = places.argsort(stable=True)[: int(eligible.sum())]
    ranks[order] = torch.arange(len(order))
    return ranks.reshape(eligible.shape)


def _check(maps: Tensor, mask: Tensor) -> None:
    if maps.ndim != 3 or mask.shape != maps.shape[1:]:
        raise UnsupportedScan(
            f"sensitivity maps are {tuple(maps.shape)} and the mask {tuple(mask.shape)}; "
            "(coils, ky, kx) and (ky, kx) of one matrix are needed",
            field="sensitivity_maps",
            found=f"{tuple(maps.shape)} and {tuple(mask.shape)}",
            expected="(coils, ky, kx) and (ky, kx)",
        )

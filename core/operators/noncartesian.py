"""Multi-coil non-Cartesian MRI: y = W^(1/2) N S x along a radial, spiral or any other trajectory."""

import copy
import math
import weakref
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.operators.base import CoilProblem, HoldoutKind, LinearOperator
from udig_recon.core.operators.coverage import unmeasured_share
from udig_recon.core.operators.fourier import as_channels, as_complex
from udig_recon.core.operators.mri import LEAST_SENSITIVITY, OUTER
from udig_recon.core.operators.norms import root_sum_of_squares
from udig_recon.core.operators.nufft import GriddedFourier, density_compensation, nonuniform_fourier, point_spread
from udig_recon.core.operators.solvers import operator_norm

FEW_READOUTS = 6
"""Of fewer readouts none can be spared: runs of samples are held out instead."""
CENTRE = 0.1
"""Share of the largest frequency within which no run is held out."""
RUN = 32
"""Samples of such a run."""
NOISE_RUN = 64
"""Samples of a run that noise is read off, outside the field of view."""
WINDOW_REACH = 4
"""Frequencies to either side over which the runs' window spreads a pixel (Harris 1978)."""
RUNS_FROM = 0.4
"""Share of the largest frequency beyond which they lie."""
UNIT_RUNS = 8
"""Simulated noise for each run, by which the estimate is scaled."""
LEAST_RUNS = 16
"""Of fewer runs nothing is read off."""
CANCELS = 1e-3
"""A misfit below this share of |y|^2 is summed directly: as a difference of large numbers it would be rounding."""


class NonCartesianMRI(LinearOperator):
    """y = scale W^(1/2) N S x: maps S (coils, H, W), nonuniform Fourier transform N, density compensation W.

    The trajectory (readouts, samples, 2) holds (ky, kx) in cycles per field of view; `measured` (readouts, samples) is
    False where a sample is missing. Images are (B, 2, H, W), real and imaginary part as channels; measurements (B,
    coils, readouts, samples) complex64. W makes the problem as well conditioned as a Cartesian one, so that methods
    need as few iterations; it is never above 1, so sparse samples count as they were measured. A^H A is a convolution,
    done by fast Fourier transforms alone (Fessler et al. 2005). `gridded` picks the transform in torch alone, which
    other devices than the CPU need.
    """

    modality = Modality.MRI
    holdout_run = 8
    consistency_factor = 2.0

    def __init__(
        self,
        sensitivity_maps: Tensor,
        trajectory: NDArray[np.floating[Any]],
        measured: NDArray[np.bool_] | None = None,
        *,
        gridded: bool = False,
    ) -> None:
        _check(sensitivity_maps, trajectory, measured)
        device, shape = sensitivity_maps.device, (sensitivity_maps.shape[1], sensitivity_maps.shape[2])
        self.image_shape = (2, *shape)
        self.coils = len(sensitivity_maps)
        self.maps = sensitivity_maps.to(torch.complex64)
        self._conjugate_maps = self.maps.conj().resolve_conj()
        self.trajectory = np.asarray(trajectory, np.float64)
        there = np.ones(trajectory.shape[:2], bool) if measured is None else measured
        self.measured = torch.from_numpy(np.ascontiguousarray(there)).to(device)
        self._density = np.zeros(there.shape)
        self._density[there] = density_compensation(self.trajectory[there], shape)
        self.weights = torch.from_numpy(np.sqrt(self._density)).to(device, torch.float32)
        """(readouts, samples): square roots of the density compensation, 0 where not measured"""
        points = self.trajectory.reshape(-1, 2)
        self._fourier = nonuniform_fourier(points, shape, self.coils, device, gridded=gridded)
        sensitivity = root_sum_of_squares(sensitivity_maps, 0)
        self.support = (sensitivity > LEAST_SENSITIVITY * sensitivity.max()).float()
        self._turns = _half_steps(shape, device)
        self._projected: tuple[weakref.ref[Tensor], int, Tensor, float] | None = None
        self.scale = 1.0
        self._spectra = self._convolution()
        self.scale = 1.0 / self._norm()
        self._spectra = self._spectra * self.scale**2

    def _norm(self) -> float:
        rng = torch.Generator().manual_seed(0)
        start = 1 + 0.1 * torch.randn((1, *self.image_shape), generator=rng).to(self.maps.device)
        norm = operator_norm(self._normal, start)
        if norm == 0:
            raise UnsupportedScan(
                "trajectory and sensitivity maps leave nothing of the image; samples and coils that see are needed",
                field="trajectory",
                found="forward model of norm 0",
                expected="at least one sample and one coil",
            )
        return norm

    def measurements(self, kspace: Tensor) -> Tensor:
        """The y (1, coils, readouts, samples) of measured k-space (coils, readouts, samples)."""
        return (self.scale * self.weights * self.measured) * kspace[None]

    def with_maps(self, maps: Tensor) -> Self:
        """The same model with other maps (coils, H, W) of the same root-sum-of-squares; scale and support stay."""
        other = copy.copy(self)
        other.maps, other._conjugate_maps = maps, maps.conj().resolve_conj()
        other._projected = None
        return other

    def per_coil(self, y: Tensor) -> CoilProblem:
        """Model of single coils' images, with y (1, coils, readouts, samples) as a batch (coils, 1, ...)."""
        gridded = isinstance(self._fourier, GriddedFourier)
        ones, there = torch.ones_like(self.maps[:1]), self.measured.cpu().numpy()
        single = NonCartesianMRI(ones, self.trajectory, there, gridded=gridded)
        return CoilProblem(single, y[0, :, None] * (single.scale / self.scale), self.maps)

    def coil_normal(self, images: Tensor) -> Tensor:
        """N^H N of single coils' images (coils, H, W), where N is the model with a map of one."""
        total = torch.zeros_like(images)
        for turn, spectrum in zip(self._turns, self._spectra, strict=True):
            total += torch.fft.ifft2(torch.fft.fft2(images * turn).mul_(spectrum)) * turn.conj()
        return total

    def coil_residual(self, images: Tensor, y: Tensor) -> Tensor:
        """N^H (y - N images) of single coils' images (coils, H, W) and measurements y (coils, readouts, samples)."""
        return self._coil_images(y) - self.coil_normal(images)

    def restrict(self, kept: Tensor) -> Self:
        """The same model of the samples where `kept` (readouts, samples) is True; their weights stay."""
        other = copy.copy(self)
        other.measured = self.measured & kept
        other._projected = None
        other._spectra = other._convolution()
        return other

    def direct(self, y: Tensor, window: str = "ramp") -> Tensor:  # noqa: ARG002
        """The density-compensated adjoint: A^H y in the image's units, as W is in y already."""
        return self.adjoint(y) / self.scale**2

    def holdout_groups(self, *, in_centre: bool = False) -> Tensor:  # noqa: ARG002
        """Readouts by the angle at which they leave the centre; of a few long ones, runs of samples outside it.

        Runs are numbered by their distance from the centre of k-space.
        """
        readouts, samples = self.measured.shape
        if readouts >= FEW_READOUTS:
            order = _angles(self.trajectory).argsort(kind="stable")
            ranks = np.empty(readouts, np.int64)
            ranks[order] = np.arange(readouts)
            return torch.from_numpy(np.broadcast_to(ranks[:, None], (readouts, samples)).copy())
        runs = np.arange(samples) // RUN + np.arange(readouts)[:, None] * -(-samples // RUN)
        radius = np.hypot(*np.moveaxis(self.trajectory, -1, 0))
        distance = np.bincount(runs.ravel(), radius.ravel()) / np.bincount(runs.ravel())
        nearest = np.full(len(distance), np.inf)
        np.minimum.at(nearest, runs.ravel(), radius.ravel())
        outside = nearest > CENTRE * radius.max()
        ranks = np.full(len(distance), -1)
        ranks[np.flatnonzero(outside)[distance[outside].argsort(kind="stable")]] = np.arange(np.count_nonzero(outside))
        return torch.from_numpy(ranks[runs])

    def can_hold_out(self, kept: Tensor) -> bool:
        """Whether a mask leaves something out that can be held out, and keeps some of it."""
        eligible = (self.holdout_groups() >= 0).to(kept.device) & self.measured.to(kept.device)
        return bool((eligible & ~kept).any()) and bool((eligible & kept).any())

    def partition(self, share: float, kind: HoldoutKind, rng: Generator) -> Tensor:
        """Mask of the samples to train on: see `LinearOperator.partition`; of a few long readouts always of runs."""
        return super().partition(share, "lines" if len(self.measured) < FEW_READOUTS else kind, rng)

    def noise_level(self, y: Tensor) -> float:
        """Standard deviation of complex noise in outer samples of y, of the outer ones' usual weight.

        It is the lesser of two estimates, each of which is too high where it sees signal: the median magnitude of the
        outermost samples (Rayleigh), and the energy outside the field of view where readouts are oversampled.
        """
        samples = y[..., self._outer()]
        outer = float(samples.abs().median()) / math.sqrt(math.log(2)) if samples.numel() else 0.0
        outside = self._noise_outside(y)
        return outer if outside is None else min(outer, outside * self._usual_weight())

    def _noise_outside(self, y: Tensor) -> float | None:
        """Standard deviation of noise in y / W^(1/2), from what runs of samples see outside the field of view.

        Along a nearly straight run the Fourier transform of the samples is a projection of the image. None: samples
        nowhere lie dense enough for it to have an outside.
        """
        runs = self._outer_runs()
        if runs is None:
            return None
        readout, first, outside = runs
        places = first[:, None] + torch.arange(NOISE_RUN, device=first.device)
        samples = y[:, :, readout[:, None], places] / self.weights[readout[:, None], places].clamp(min=1e-6)
        window = _blackman_harris(NOISE_RUN)
        rng = torch.Generator().manual_seed(0)
        unit = torch.randn(UNIT_RUNS, len(readout), NOISE_RUN, dtype=torch.complex64, generator=rng)

        def median(of: Tensor) -> float:
            energy = torch.fft.fft(of * window.to(of.device)).abs().square() * outside.to(of.device)
            return float((energy.sum(-1) / outside.to(of.device).sum(-1)).median())

        # The median over runs keeps out those with signal; it lies below the mean, by as much as that of unit noise.
        return math.sqrt(median(samples) / median(unit))

    def _outer_runs(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Readout and first sample of each run (runs,), and the frequencies outside the field of view (runs, length).

        Runs are measured throughout and lie in the outer part of k-space.
        """
        shape = np.array(self.image_shape[1:])
        there = self.measured.cpu().numpy()
        steps = np.diff(self.trajectory / shape, axis=1)
        radius = np.hypot(*np.moveaxis(self.trajectory / shape, -1, 0))
        if not there.any() or there.shape[1] < NOISE_RUN:
            return None
        frequencies = np.abs(np.fft.fftfreq(NOISE_RUN))
        found = []
        for first in range(0, there.shape[1] - NOISE_RUN + 1, NOISE_RUN // 2):
            part, ahead = slice(first, first + NOISE_RUN), slice(first, first + NOISE_RUN - 1)
            usable = there[:, part].all(1) & (radius[:, part].min(1) > RUNS_FROM * radius[there].max())
            # A step of s cells turns the phase of a pixel at the edge by s / 2 turns: the field's reach.
            reach = (np.abs(steps[:, ahead]) * shape / 2).sum(-1).max(1) + WINDOW_REACH / NOISE_RUN
            found += [
                (n, first, frequencies > reach[n]) for n in np.flatnonzero(usable & (reach < 0.5 - 2 / NOISE_RUN))
            ]
        if len(found) < LEAST_RUNS:
            return None
        readout, start, outside = (np.array(each) for each in zip(*found, strict=True))
        device = self.measured.device
        return (
            torch.from_numpy(readout).to(device),
            torch.from_numpy(start).to(device),
            torch.from_numpy(outside.astype(np.float32)).to(device),
        )

    def _usual_weight(self) -> float:
        """Median weight W^(1/2) of the outermost samples."""
        outer = self._outer()
        return float((self.weights * self.measured)[outer].median()) if bool(outer.any()) else 1.0

    def noise_norm(self, y: Tensor) -> float:
        """|A x - y| of a perfect image: that of noise which is alike in all samples before their weights."""
        norm = float((self.weights * self.measured).norm())
        return self.noise_level(y) / max(self._usual_weight(), 1e-12) * norm * math.sqrt(len(y[0]))

    def coverage(self, y: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Unmeasured share of the way to an end of k-space, of the cells of the Cartesian grid that hold samples."""
        shape = self.image_shape[1:]
        places = np.rint(self.trajectory[self.measured.cpu().numpy()]).astype(np.int64) + [side // 2 for side in shape]
        inside = ((places >= 0) & (places < shape)).all(axis=1)
        cells = np.zeros(shape, bool)
        cells[tuple(places[inside].T)] = True
        return {"unmeasured": unmeasured_share(cells)}

    def misfit(self, x: Tensor, y: Tensor) -> Tensor:
        """|A x - y|^2, a scalar, whose gradient 2 (A^H A x - A^H y) needs no nonuniform transform of x."""
        back, energy = self._projection(y)
        with torch.no_grad():
            normal = self._normal(x)
            value = float((x.double() * (normal - 2 * back).double()).sum()) + energy * len(x) / len(y)
            if value < CANCELS * energy * len(x) / len(y):
                value = float((self._forward(x) - y).abs().square().sum(dtype=torch.float64))
        result: Tensor = _WithGradient.apply(x, value, 2 * (normal - back))  # type: ignore[no-untyped-call]
        return result

    def _projection(self, y: Tensor) -> tuple[Tensor, float]:
        """A^H y and |y|^2 of measurements, which a method asks for again and again."""
        known = self._projected
        if known is None or known[0]() is not y or known[1] != y._version:
            with torch.no_grad():
                known = weakref.ref(y), y._version, self._adjoint(y), float(y.abs().square().sum(dtype=torch.float64))
            self._projected = known
        return known[2], known[3]

    def _outer(self) -> Tensor:
        radius = np.abs(self.trajectory / np.array(self.image_shape[1:])).max(axis=-1)
        there = self.measured.cpu().numpy()
        largest = radius[there].max() if there.any() else 0.0
        return torch.from_numpy(there & (radius > OUTER * largest)).to(self.measured.device)

    def _forward(self, x: Tensor) -> Tensor:
        images = (self.maps * as_complex(x)[:, None]).flatten(0, 1)
        samples = self._fourier.forward(images).reshape(len(x), self.coils, *self.measured.shape)
        return samples * (self.scale * self.weights) * self.measured

    def _adjoint(self, y: Tensor) -> Tensor:
        images = self._coil_images(y.flatten(0, 1)).reshape(len(y), self.coils, *self.image_shape[1:])
        return as_channels((images * self._conjugate_maps).sum(1))

    def _coil_images(self, y: Tensor) -> Tensor:
        """N^H y of measurements (n, readouts, samples), n a multiple of the number of coils."""
        samples = (y * self.measured * (self.scale * self.weights)).reshape(-1, self.measured.numel())
        return self._fourier.adjoint(samples)

    def _normal(self, x: Tensor) -> Tensor:
        # A transform of twice the length is two of the length, of the image and of the image turned by half a step.
        image = as_complex(x)
        total = torch.zeros_like(image)
        for turn, spectrum in zip(self._turns, self._spectra, strict=True):
            coils = torch.fft.ifft2(torch.fft.fft2(self.maps * (image * turn)[:, None]).mul_(spectrum))
            total += coils.mul_(self._conjugate_maps).sum(1) * turn.conj()
        return as_channels(total)

    def _convolution(self) -> Tensor:
        """Spectra (4, H, W) of the convolution that N^H W N is: at even and odd frequencies of a doubled grid."""
        height, width = self.image_shape[1:]
        there = self.measured.cpu().numpy()
        spread = point_spread(self.trajectory[there], self._density[there], (height, width))
        spectrum = np.fft.fft2(np.fft.ifftshift(spread)).real * (self.scale**2 / (4 * height * width))
        parts = np.stack([spectrum[row::2, column::2] for row in (0, 1) for column in (0, 1)])
        return torch.from_numpy(parts).to(self.maps.device, torch.float32)


class _WithGradient(torch.autograd.Function):
    """A number with a known gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return x.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradients[0] * gradient, None, None


def _blackman_harris(length: int) -> Tensor:
    """Window (length,) of four terms, whose side lobes lie 92 dB below the main one."""
    turn = 2 * math.pi * (torch.arange(length) + 0.5) / length
    terms = (0.35875, -0.48829, 0.14128, -0.01168)
    return torch.stack([weight * torch.cos(order * turn) for order, weight in enumerate(terms)]).sum(0)


def _half_steps(shape: tuple[int, int], device: torch.device) -> Tensor:
    """Waves (4, H, W) by which frequencies of the doubled grid lie off those of the grid: none, or half a step."""
    rows, columns = (
        torch.stack((torch.ones(side, dtype=torch.complex128), torch.polar(torch.ones(side).double(), -turn)))
        for side in shape
        for turn in [torch.arange(side, dtype=torch.float64) * (math.pi / side)]
    )
    turns = torch.einsum("ah,bw->abhw", rows, columns).flatten(0, 1)
    return turns.to(device, torch.complex64)


def _angles(trajectory: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle (readouts,) of the farthest sample of each readout; of lines through the centre, of their direction."""
    radius = np.hypot(trajectory[..., 0], trajectory[..., 1])
    far = np.take_along_axis(trajectory, radius.argmax(1)[:, None, None], axis=1)[:, 0]
    middle = trajectory[:, [0, -1]].mean(axis=1)
    angles = np.arctan2(far[:, 0], far[:, 1])
    through = np.hypot(middle[:, 0], middle[:, 1]) < 0.25 * radius.max(axis=1)
    result: NDArray[np.float64] = np.where(through, angles % np.pi, angles % (2 * np.pi))
    return result


def _check(maps: Tensor, trajectory: NDArray[Any], measured: NDArray[np.bool_] | None) -> None:
    fits = maps.ndim == 3 and trajectory.ndim == 3 and trajectory.shape[-1] == 2
    if fits and (measured is None or measured.shape == trajectory.shape[:2]):
        return
    shapes = f"{tuple(maps.shape)} and {trajectory.shape}"
    raise UnsupportedScan(
        f"sensitivity maps and trajectory are {shapes}; (coils, y, x) and (readouts, samples, 2) are needed, and "
        "measured as (readouts, samples)",
        field="trajectory",
        found=shapes,
        expected="(coils, y, x) and (readouts, samples, 2)",
    )

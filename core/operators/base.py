"""Linear operator of a forward model: unit norm, exact adjoint, gradients made of both, and what differs by model."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Generator, Tensor

from udig_recon.core.acquisition import Modality

Map = Callable[[Tensor], Tensor]
HoldoutKind = Literal["lines", "samples"]
"""Held-out measurements are whole lines (views, phase-encoding lines) or samples of all lines."""
Window = Literal["ramp", "hann"]
"""Window of the ramp filter of filtered back-projection."""


class CoilProblem(NamedTuple):
    """Problem of single coils' images: its model, its measurements (coils, 1, ...), and the maps (coils, H, W)."""

    operator: "LinearOperator"
    measurements: Tensor
    maps: Tensor


class _Linear(torch.autograd.Function):
    """A linear map whose gradient is the adjoint that it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: Map, adjoint: Map) -> Tensor:
        ctx.linear, ctx.adjoint = linear, adjoint
        return linear(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _differentiable(gradients[0], ctx.adjoint, ctx.linear), None, None


def _differentiable(x: Tensor, linear: Map, adjoint: Map) -> Tensor:
    result: Tensor = _Linear.apply(x, linear, adjoint)  # type: ignore[no-untyped-call]
    return result


ENOUGH_GROUPS = 10
"""Lines or views from which on at least two are held out: one alone may be predicted well by chance."""


class LinearOperator(ABC):
    """A linear forward model y = A x with |A| = 1, between real images and measurements.

    A is `scale` times the physical model, so physical measurements become y by `y = scale * measured`, and images keep
    their physical units. An operator never changes once it is made.
    """

    modality: Modality
    image_shape: tuple[int, int, int]
    """(channels, height, width)"""
    nonnegative: bool = False
    """whether images are attenuations, which cannot be negative"""
    support: Tensor | float = 1.0
    """(H, W): 0 where nothing is ever measured of the image, which is 0 there by definition; else 1"""
    measured: Tensor
    """which measurements there are, bool, broadcastable to the last two axes of y"""
    scale: float
    """1 / spectral norm of the physical model"""
    views: int | None = None
    """number of projections of a tomographic scan; None for other scans"""
    holdout_run: int = 1
    """neighbouring samples of a line that are held out together"""
    consistency_factor: float = 1.0
    """factor of uDiG-DIP's weight of the purified input against the data, found by measurement"""
    column_lines: bool = False
    """whether lines of measurements may run along the first of the last two axes of y too"""

    def forward(self, x: Tensor) -> Tensor:
        """A x for images (B, C, H, W) float32."""
        return _differentiable(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y, (B, C, H, W) float32: the transpose under Re<Ax, y> = <x, A^H y>."""
        return _differentiable(y, self._adjoint, self._forward)

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x for images (B, C, H, W)."""
        return _differentiable(x, self._normal, self._normal)

    def misfit(self, x: Tensor, y: Tensor) -> Tensor:
        """Squared distance |A x - y|^2 of images (B, C, H, W) from measurements, a scalar."""
        return (self.forward(x) - y).abs().square().sum()

    @property
    def complex_images(self) -> bool:
        """Whether images are complex, with real and imaginary part as their two channels."""
        return self.image_shape[0] == 2

    def magnitude(self, x: Tensor) -> Tensor:
        """Magnitude of images (B, C, H, W), (B, 1, H, W): the length over channels; of one channel its value."""
        return x.norm(dim=1, keepdim=True) if self.complex_images else x

    def direct(self, y: Tensor, window: Window = "ramp") -> Tensor:  # noqa: ARG002
        """Direct (non-iterative) reconstruction (B, C, H, W) of measurements y: A^H y unless a model has a better one.

        `window` is of the ramp filter, where the model filters.
        """
        return self.adjoint(y)

    def image_norm(self, y: Tensor) -> float:
        """Approximate norm of the image of measurements y (1, ...): that of the direct reconstruction."""
        return float(self.direct(y).norm())

    def unweighted(self, y: Tensor) -> tuple[Self, Tensor]:
        """The model and measurements y without weights of measurements, where it has any: as quality judges them."""
        return self, y

    @abstractmethod
    def restrict(self, kept: Tensor) -> Self:
        """The same model of only those measurements where `kept` is True (shaped as `measured`); the scale stays."""

    def coverage(self, y: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Signals of `udig_recon.core.quality.rating.Signals` about what measurements y (1, ...) leave unmeasured."""
        return {}

    def expected_error(self, y: Tensor, residual: float) -> float | None:  # noqa: ARG002
        """Root mean square error of a pixel that a relative residual on held-out measurements lets expect.

        `y` (1, ...) are all measurements. None: the model cannot tell.
        """
        return None

    def per_coil(self, y: Tensor) -> "CoilProblem | None":  # noqa: ARG002
        """The problem of single coils' images; None for scans without coils."""
        return None

    @property
    def measurement_plane(self) -> tuple[int, int]:
        """Lengths of the last two axes of y."""
        height, width = self.measured.shape
        return height, width

    def holdout_groups(self, *, in_centre: bool = False) -> Tensor:  # noqa: ARG002
        """Groups of measurements to hold out together, as numbers in the shape of `measured`; -1: never held out.

        Neighbouring numbers are alike, by angle or by distance from the centre of k-space. By default each row of the
        last two axes is a group. `in_centre` asks for groups of the calibration centre too, where a scan has one.
        """
        return torch.arange(len(self.measured))[:, None].expand(self.measured.shape)

    def can_hold_out(self, kept: Tensor) -> bool:
        """Whether a mask of training measurements leaves some out and keeps enough: by default two rows."""
        return not bool(kept.all()) and int(kept.any(1).sum()) >= 2

    def partition(self, share: float, kind: HoldoutKind, rng: Generator) -> Tensor:
        """Mask of the measurements to train on, bool, broadcastable to the last two axes of y; the rest is held out.

        About `share` of the measurements that can be held out is: of `lines` whole groups, one of each run of like
        ones, so that all frequencies and directions are tested; of `samples` short runs at random places of each line,
        or single points where the measured ones form no lines. The draws of `rng` decide.
        """
        return self._hold_out_lines(share, rng) if kind == "lines" else self._hold_out_samples(share, rng)

    def _hold_out_lines(self, share: float, rng: Generator) -> Tensor:
        groups = self.holdout_groups()
        if not bool((groups >= 0).any()):
            groups = self.holdout_groups(in_centre=True)
        count = int(groups.max()) + 1
        least = 2 if count >= ENOUGH_GROUPS else 1
        wanted = min(count, max(least, round(share * count)))
        kept = torch.ones(count + 1, dtype=torch.bool)  # the last one, number -1, is never held out
        places = torch.rand(wanted, generator=rng, device=rng.device).cpu()
        starts = torch.linspace(0, count, wanted + 1)
        held_out = (starts[:-1] + places * (starts[1:] - starts[:-1])).long().clamp(max=count - 1)
        kept[held_out] = False
        return kept[groups].to(self.measured.device)

    def _hold_out_samples(self, share: float, rng: Generator) -> Tensor:
        eligible = (self.holdout_groups() >= 0).expand(self.measurement_plane)
        columns = self.column_lines and bool((eligible == eligible[:1]).all())
        if not columns and not bool((eligible == eligible[:, :1]).all()):
            return self._hold_out_lines(share, rng)
        eligible = eligible.T if columns else eligible
        lines, length = eligible.shape
        runs = -(-length // self.holdout_run)
        order = torch.rand(lines, runs, generator=rng, device=rng.device).cpu().argsort(dim=1)
        held_out = order < max(1, round(share * runs))
        kept = ~(eligible & held_out.repeat_interleave(self.holdout_run, dim=1)[:, :length])
        return (kept.T if columns else kept).to(self.measured.device)

    @abstractmethod
    def noise_level(self, y: Tensor) -> float:
        """Standard deviation of the noise in measurements y, estimated from where there is hardly any signal."""

    def noise_norm(self, y: Tensor) -> float:
        """|A x - y| of a perfect image of measurements y (1, ...): that of the noise, by its level."""
        count = float(self.measured.expand(y.shape[-2:]).sum()) * y[..., 0, 0].numel()
        return self.noise_level(y) * math.sqrt(count)

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self._forward(x))

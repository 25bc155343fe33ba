"""What every forward model promises: a linear map of unit norm, its exact adjoint, and gradients made of the two."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor

from udig_recon.core.acquisition import Modality

Map = Callable[[Tensor], Tensor]
Window = Literal["ramp", "hann"]
"""Window of the ramp filter of filtered back-projection."""


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

    @abstractmethod
    def restricted(self, kept: Tensor) -> Self:
        """The same model of only those measurements where `kept` is True (shaped as `measured`); the scale stays."""

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

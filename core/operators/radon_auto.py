"""Picks the projector: torch-radon where CUDA and the package are there, else the sparse pair."""

from typing import Protocol

import torch
from torch import Tensor

from core.operators.radon import Geometry, StripProjector

try:
    from core.operators.radon_cuda import TorchRadonProjector
except ImportError:
    TorchRadonProjector = None  # type: ignore[assignment, misc]


class Projector(Protocol):
    """A projector and its transpose on flat batches."""

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (B, views * detectors) in pixel values times mm of images (B, pixels)."""

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `forward`: (B, views * detectors) to (B, pixels)."""


def projector(geometry: Geometry, device: torch.device) -> Projector:
    """The fastest projector that this machine has for a geometry."""
    if device.type == "cuda" and TorchRadonProjector is not None:
        return TorchRadonProjector(geometry, device)
    return StripProjector(geometry, device)

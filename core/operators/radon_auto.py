"""Picks the projector: torch-radon where CUDA and the package are there, else the sparse pair where it is not huge."""

from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from udig_recon.core.operators.matrix_free import MatrixFreeProjector
from udig_recon.core.operators.radon import StripProjector, is_too_large
from udig_recon.core.scan_geometry import Geometry


class Projector(Protocol):
    """A projector and its transpose on flat batches."""

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (B, views * detectors) in mm times the unit of images (B, pixels)."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose of `forward`: (B, views * detectors) to (B, pixels)."""
        ...


def projector(geometry: Geometry, device: torch.device) -> Projector:
    """The fastest projector that this machine has for a geometry on a device."""
    # What torch-radon's detectors, padded, can be; of fans the sparse pair is exact, and on the device it is fast too.
    fits = geometry.beam == "parallel" and 2 * geometry.axis == round(2 * geometry.axis)
    if device.type == "cuda" and fits and find_spec("torch_radon") is not None:
        from udig_recon.core.operators.radon_cuda import TorchRadonProjector

        return TorchRadonProjector(geometry, device)
    return MatrixFreeProjector(geometry, device) if is_too_large(geometry) else StripProjector(geometry, device)

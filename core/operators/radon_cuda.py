"""The parallel-beam projector by torch-radon, for CUDA devices; importing it needs the package."""

import torch
from torch import Tensor
from torch_radon import ParallelBeam
from torch_radon.volumes import Volume2D

from core.operators.radon import Geometry


class TorchRadonProjector:
    """Line integrals along rays through the linearly interpolated image, and back-projection of the same geometry.

    Its back-projection interpolates the sinogram and so is the transpose up to discretisation only, not to the bit as
    that of `StripProjector` is; in exchange nothing is built and nothing stored.
    """

    def __init__(self, geometry: Geometry, device: torch.device) -> None:
        self._geometry = geometry
        volume = Volume2D()
        volume.set_size(geometry.image_size, geometry.image_size)
        # Lengths in pixels: torch-radon's back-projection is off the centre for voxels of any other size than 1.
        self._radon = ParallelBeam(
            det_count=geometry.detectors,
            angles=torch.tensor(geometry.angles, dtype=torch.float32, device=device),
            det_spacing=geometry.detector_spacing_mm / geometry.pixel_size_mm,
            volume=volume,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (B, views * detectors) in mm times the unit of images (B, pixels)."""
        size = self._geometry.image_size
        rays: Tensor = self._radon.forward(x.reshape(-1, size, size).contiguous())
        return rays.flatten(1) * self._geometry.pixel_size_mm

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-projection (B, views * detectors) to (B, pixels)."""
        shape = (-1, len(self._geometry.angles), self._geometry.detectors)
        image: Tensor = self._radon.backward(y.reshape(shape).contiguous())
        return image.flatten(1) * self._geometry.pixel_size_mm

"""The parallel-beam projector by torch-radon, for CUDA devices; importing it needs the package."""

import torch
from torch import Tensor
from torch_radon import ParallelBeam
from torch_radon.volumes import Volume2D

from udig_recon.core.scan_geometry import Geometry


class TorchRadonProjector:
    """Line integrals along rays through the linearly interpolated image, and back-projection of the same geometry.

    Its back-projection interpolates the sinogram and so is the transpose up to discretisation only, not to the bit as
    that of `StripProjector` is; in exchange nothing is built and nothing stored. Its detectors lie evenly about the
    axis of rotation, so an axis off the middle, on a detector or half-way between two, is met by further detectors.
    """

    def __init__(self, geometry: Geometry, device: torch.device) -> None:
        self._geometry = geometry
        reach = max(geometry.axis, geometry.detectors - 1 - geometry.axis)
        before = round(reach - geometry.axis)
        self._all_detectors = round(2 * reach) + 1
        self._ours = slice(before, before + geometry.detectors)
        volume = Volume2D()
        volume.set_size(geometry.image_size, geometry.image_size)
        # Lengths in pixels: torch-radon's back-projection is off the centre for voxels of any other size than 1.
        self._radon = ParallelBeam(
            det_count=self._all_detectors,
            angles=torch.tensor(geometry.angles, dtype=torch.float32, device=device),
            det_spacing=geometry.detector_spacing_mm / geometry.pixel_size_mm,
            volume=volume,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Line integrals (B, views * detectors) in mm times the unit of images (B, pixels)."""
        size = self._geometry.image_size
        rays: Tensor = self._radon.forward(x.reshape(-1, size, size).contiguous())[..., self._ours]
        return rays.flatten(1) * self._geometry.pixel_size_mm

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-projection (B, views * detectors) to (B, pixels)."""
        shape = (-1, len(self._geometry.angles), self._geometry.detectors)
        after = self._all_detectors - self._ours.stop
        padded = torch.nn.functional.pad(y.reshape(shape), (self._ours.start, after))
        image: Tensor = self._radon.backward(padded.contiguous())
        return image.flatten(1) * self._geometry.pixel_size_mm

"""Geometry of a CT scan: parallel beams, and fans to a flat or a curved detector. Torch-free."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import BeamGeometry
from udig_recon.core.errors import UnsupportedScan

LARGEST_PAIR_BYTES = 12 * 2**30
"""Of a projector's matrices; of larger ones nothing is stored, see `udig_recon.core.operators.matrix_free`."""
NEAREST_SOURCE = 1.02
"""Least distance from the source to the axis, in radii of the circle around the image."""

CONTINUED = "projections that end beyond the detector are continued there; the added rays count as no measurements"
"""The correction, in a scan's header, of an object that reaches beyond the detector."""


class Geometry(NamedTuple):
    """Scan of a square image, centred on the axis of rotation, by parallel rays or a fan of rays.

    Pixel (row r, column c) lies at x = (c - (n-1)/2) d, y = ((n-1)/2 - r) d. Detector k of view theta lies at
    u = (k - c) p along (cos theta, sin theta), where c is the detector index that the axis of rotation falls on. A
    parallel ray is x cos(theta) + y sin(theta) = u. The source of a fan lies at (R sin theta, -R cos theta), and its
    ray to detector k is at the angle gamma from the one through the axis: atan(u / D) of a flat detector, u / D of a
    curved one, with u along the arc. It is x cos(theta - gamma) + y sin(theta - gamma) = R sin(gamma).
    """

    angles: tuple[float, ...]
    """theta (views,), radians"""
    image_size: int
    """n, pixels a side"""
    detectors: int
    pixel_size_mm: float
    """d"""
    detector_spacing_mm: float
    """p, at the detector"""
    rotation_center: float | None = None
    """c; None: the middle, (detectors - 1) / 2"""
    beam: BeamGeometry = "parallel"
    source_origin_mm: float = math.inf
    """R, from the source to the axis of rotation; infinite for parallel beams"""
    source_detector_mm: float = math.inf
    """D, from the source to the detector; infinite for parallel beams"""

    @property
    def axis(self) -> float:
        """c, detectors from the first one's centre to the axis of rotation."""
        return (self.detectors - 1) / 2 if self.rotation_center is None else self.rotation_center

    @property
    def magnification(self) -> float:
        """Lengths at the detector over lengths at the axis, D / R; 1 for parallel beams."""
        return 1.0 if self.beam == "parallel" else self.source_detector_mm / self.source_origin_mm

    @property
    def radius_mm(self) -> float:
        """Radius of the circle around the image."""
        return self.image_size * self.pixel_size_mm / math.sqrt(2)

    def fan_angles(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gamma (radians) of places on the detector, as detector indices; zeros for parallel beams."""
        if self.beam == "parallel":
            return np.zeros_like(places)
        slopes = (places - self.axis) * (self.detector_spacing_mm / self.source_detector_mm)
        return np.arctan(slopes) if self.beam == "fan_flat" else slopes

    def check(self) -> None:
        """Raise UnsupportedScan for a fan whose source lies within the image's circle, or that has no such detector."""
        if self.beam == "parallel":
            return
        least = NEAREST_SOURCE * self.radius_mm
        if not least <= self.source_origin_mm < math.inf:
            raise UnsupportedScan.at(
                "source_origin_mm",
                f"{self.source_origin_mm:g} mm from the axis, with an image of {self.image_size} x {self.image_size} "
                f"pixels of {self.pixel_size_mm:g} mm",
                f"a source outside the image's circle, {least:.4g} mm or more from the axis; or a smaller image_size",
            )
        if not self.source_origin_mm <= self.source_detector_mm < math.inf:
            raise UnsupportedScan.at(
                "source_detector_mm",
                f"{self.source_detector_mm:g} mm",
                f"the source's distance from the detector, source_origin_mm ({self.source_origin_mm:g}) or more",
            )
        widest = float(np.abs(self.fan_angles(np.array([-0.5, self.detectors - 0.5]))).max())
        if widest >= np.pi / 2:
            raise UnsupportedScan.at(
                "detector_spacing_mm",
                f"{self.detector_spacing_mm:g} mm: a fan of {np.rad2deg(widest):.4g} degrees to one side",
                "a fan of less than 90 degrees to either side of the axis",
            )

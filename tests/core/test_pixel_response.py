"""The pixel response H of CT: what makes projections of pixel means those of the object."""

import numpy as np
import pytest
import torch

from tests.support.ellipses import ellipse_image, ellipse_rays
from udig_recon.core.operators import XRayTransform
from udig_recon.core.operators.pixel_response import PixelResponse
from udig_recon.core.scan_geometry import Geometry

ANGLES = tuple(0.05 + np.arange(10) * np.pi / 10)
GEOMETRIES = {
    "parallel": Geometry(ANGLES, 64, 91, 1.0, 1.0),
    "narrow detectors": Geometry(ANGLES, 64, 131, 1.0, 0.7),
    "wide detectors": Geometry(ANGLES, 64, 50, 1.0, 1.9),
    "flat fan": Geometry(ANGLES, 64, 101, 1.0, 1.6, 48.3, "fan_flat", 125.0, 200.0),
    "curved fan": Geometry(ANGLES, 64, 101, 1.0, 1.6, None, "fan_curved", 125.0, 200.0),
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def projected(geometry: Geometry, image: np.ndarray, *, pixel_response: bool) -> np.ndarray:
    fan = {"source_origin_mm": geometry.source_origin_mm, "source_detector_mm": geometry.source_detector_mm}
    operator = XRayTransform(
        np.asarray(geometry.angles),
        geometry.image_size,
        geometry.detectors,
        geometry.pixel_size_mm,
        geometry.detector_spacing_mm,
        rotation_center=geometry.rotation_center,
        beam=geometry.beam,
        pixel_response=pixel_response,
        **({} if geometry.beam == "parallel" else fan),
    )
    return (operator.forward(torch.from_numpy(image)[None, None]) / operator.scale)[0, 0].numpy()


@every_geometry
def test_the_response_makes_projections_of_pixel_means_those_of_the_object(geometry: Geometry) -> None:
    exact, means = ellipse_rays(geometry), ellipse_image(64)
    without, with_response = (
        np.fft.rfft(projected(geometry, means, pixel_response=on) - exact) for on in (False, True)
    )
    energies = [np.square(np.abs(each)).sum() for each in (without, with_response)]
    assert energies[1] < 0.8 * energies[0]
    # Frequencies that pixels resolve well: all but what second differences leave is gone.
    cycles = np.fft.rfftfreq(geometry.detectors, geometry.detector_spacing_mm / geometry.magnification)
    low = cycles < 0.2
    energies = [np.square(np.abs(each[:, low])).sum() for each in (without, with_response)]
    assert energies[1] < 0.4 * energies[0]


@every_geometry
def test_the_response_is_symmetric_and_keeps_constants(geometry: Geometry) -> None:
    count = len(geometry.angles) * geometry.detectors
    response = PixelResponse(geometry._replace(angles=ANGLES[:1]))
    matrix = response.apply(torch.eye(geometry.detectors, dtype=torch.float64))
    assert torch.allclose(matrix, matrix.T)
    assert torch.allclose(PixelResponse(geometry).apply(torch.ones(2, count)), torch.ones(2, count))


def test_the_response_is_one_at_low_frequencies_and_four_thirds_at_the_pixels_highest() -> None:
    response = PixelResponse(Geometry((0.0,), 64, 128, 1.0, 1.0))
    place = torch.arange(128, dtype=torch.float64)
    for cycles, expected in ((4 / 256, 1.0008), (64 / 256, 1 + 1 / 6), (126 / 256, 4 / 3)):
        wave = torch.cos(2 * torch.pi * cycles * (place + 0.5))[None]
        assert torch.allclose(response.apply(wave), expected * wave, atol=1e-3)


def test_a_response_of_pixels_wider_than_the_detector_is_none() -> None:
    rays = torch.rand(1, 3)
    assert torch.equal(PixelResponse(Geometry((0.0,), 4, 3, 20.0, 1.0)).apply(rays), rays)

"""Project a small lopsided phantom with the ASTRA toolbox and save it for tests/core/test_radon.py.

ASTRA is no dependency of the project. In an environment of its own:

    python -m venv astra && astra/bin/pip install astra-toolbox numpy
    astra/bin/python benchmarks/peers/astra_reference.py tests/data/astra_parallel.npz
"""

import argparse

import astra
import numpy as np

PIXEL_MM, SPACING_MM, SIZE, DETECTORS = 1.5, 1.2, 32, 61
ANGLES = np.array([0.0, 0.4, np.pi / 4, 1.2, np.pi / 2, 2.0, 2.9, 4.0])


def phantom() -> np.ndarray:
    """Attenuation (y, x) in 1/mm with no symmetry that could hide a flip."""
    image = np.zeros((SIZE, SIZE), np.float32)
    image[5:14, 8:26] = 0.02
    image[14:27, 8:12] = 0.03
    image[20:23, 20:24] = 0.05
    return image


def project(image: np.ndarray, angles: np.ndarray, detectors: int, pixel_mm: float, spacing_mm: float) -> np.ndarray:
    """Line integrals (views, detectors) of an image (y, x) in 1/mm by ASTRA's strip kernel on the CPU."""
    half = image.shape[0] * pixel_mm / 2
    volume = astra.create_vol_geom(*image.shape, -half, half, -half, half)
    projector = astra.create_projector(
        "strip", astra.create_proj_geom("parallel", spacing_mm, detectors, angles), volume
    )
    identifier, sinogram = astra.create_sino(image, projector)
    astra.data2d.delete(identifier)
    astra.projector.delete(projector)
    return sinogram


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("output", help="file to write (.npz)")
    image = phantom()
    np.savez_compressed(
        arguments.parse_args().output,
        image=image,
        sinogram=project(image, ANGLES, DETECTORS, PIXEL_MM, SPACING_MM).astype(np.float32),
        angles=ANGLES,
        pixel_size_mm=PIXEL_MM,
        detector_spacing_mm=SPACING_MM,
    )

"""What several checks of sinograms ask of their rays: missing ones interpolated, ends of views, noise. Torch-free."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

STEEPEST = 50.0
"""Line integrals of patients stay below about 15, and no detector measures a beam that is weaker by e^-50."""


def fill_view(row: Values, known: NDArray[np.bool_]) -> Values:
    """A view (detectors,) whose unknown rays are interpolated from the nearest known one on either side.

    Beyond the outermost known ray its value is repeated, because there the detector ends.
    """
    places = np.arange(len(row))
    filled: Values = np.interp(places, places[known], row[known])
    return filled


def fill_missing_rays(sinogram: Values, measured: NDArray[np.bool_]) -> tuple[Values, NDArray[np.bool_]]:
    """Views with a measured ray, their missing rays filled by `fill_view`, and the mask (views,) of these views.

    Sinogram (views, detectors), measured likewise or (views, 1).
    """
    known = np.broadcast_to(measured, sinogram.shape)
    views: NDArray[np.bool_] = np.any(known, axis=1)
    return np.stack([fill_view(*pair) for pair in zip(sinogram[views], known[views], strict=True)]), views


def end_margin(sinogram: Values) -> int:
    """Detectors at an end that `end_means` takes together: a fiftieth of all."""
    return max(1, int(sinogram.shape[1]) // 50)


def end_means(sinogram: Values) -> Values:
    """Mean of the outermost detectors of each view (views, detectors), (2, views)."""
    margin = end_margin(sinogram)
    return np.stack((sinogram[:, :margin].mean(axis=1), sinogram[:, -margin:].mean(axis=1)))


def ray_noise(sinogram: Values) -> float:
    """Standard deviation of a ray's noise, from second differences along the detectors (views, detectors)."""
    rough = sinogram[:, :-2] - 2 * sinogram[:, 1:-1] + sinogram[:, 2:]
    return float(np.sqrt(np.mean(np.percentile(np.abs(rough), 75, axis=1) ** 2)) / 1.15 / 6**0.5)

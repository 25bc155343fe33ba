"""How close a reconstruction is to a reference: on magnitudes, with the reference's maximum as the range."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

Image = NDArray[Any]


def psnr(image: Image, reference: Image, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio 10 log10(range^2 / mean(|image| - |reference|)^2) in dB, of (y, x) images.

    The range is max |reference| unless given, for example a volume's maximum. Infinite for equal images, NaN where the
    reference is zero.
    """
    x, truth = _magnitudes(image, reference)
    peak = float(truth.max()) if data_range is None else data_range
    error = float(np.mean((x - truth) ** 2))
    if peak == 0:
        return float("nan")
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ssim(image: Image, reference: Image, data_range: float | None = None) -> float:
    """Structural similarity with 7x7 uniform windows, as fastMRI has it (Wang et al. 2004), of (y, x) images.

    NaN where the reference is zero.
    """
    x, truth = _magnitudes(image, reference)
    peak = float(truth.max()) if data_range is None else data_range
    return float(structural_similarity(truth, x, win_size=7, data_range=peak)) if peak > 0 else float("nan")


def nmse(image: Image, reference: Image) -> float:
    """Normalised squared error sum(|image| - |reference|)^2 / sum |reference|^2; NaN where the reference is zero."""
    x, truth = _magnitudes(image, reference)
    energy = float(np.sum(truth**2))
    return float(np.sum((x - truth) ** 2)) / energy if energy > 0 else float("nan")


def _magnitudes(image: Image, reference: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if image.shape != reference.shape:
        raise ValueError(f"the image is {image.shape}, the reference {reference.shape}")
    return np.abs(image).astype(np.float64), np.abs(reference).astype(np.float64)

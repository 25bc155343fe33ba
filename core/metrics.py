"""Metrics of a reconstruction: their names, units and descriptions, and PSNR, SSIM and NMSE against a reference.

Metrics against a reference are of magnitudes, with the reference's maximum as the range.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """One number that is reported about a reconstruction."""

    name: str  # in JSON, rows, CSV files and tables
    title: str  # heading of a column
    unit: str  # empty: a number without unit
    description: str
    digits: int  # decimals in a table

    @property
    def heading(self) -> str:
        """Heading of a column, with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


_METRICS = (
    Metric("psnr", "PSNR", "dB", "peak signal-to-noise ratio; null without a reference", 2),
    Metric("ssim", "SSIM", "", "structural similarity; null without a reference", 3),
    Metric("nmse", "NMSE", "", "normalised mean squared error; null without a reference", 4),
    Metric("data_residual", "data residual", "", "|A x - y| / |y|", 4),
    Metric(
        "validation_residual",
        "validation residual",
        "",
        "|A x - y| / |y| on held-out measurements, of the best candidate; null unless measurements were held out in "
        "every slice",
        4,
    ),
    Metric(
        "noise_discrepancy",
        "noise discrepancy",
        "",
        "|A x - y| over that of the noise alone: about 1 is right, less fits noise, more leaves data unexplained; null "
        "where no noise is found",
        3,
    ),
    Metric(
        "iterate_variance",
        "iterate variance",
        "",
        "running variance of the iterates over the mean square of the image (ES-EMV): high where they have not "
        "settled; null unless the method iterates",
        6,
    ),
    Metric(
        "hallucination_share",
        "hallucination share",
        "",
        "share of the object where the image departs from the prior-free one and the measurements do not tell why; "
        "null without a prior",
        3,
    ),
    Metric(
        "seed_std",
        "seed deviation",
        "",
        "standard deviation between seeds over the object, as a share of its brightness; null with one seed",
        3,
    ),
    Metric("seconds", "time", "s", "computing time", 1),
    Metric(
        "prior_evaluations",
        "prior evaluations",
        "",
        "evaluations of the diffusion prior, one for each image; null: not counted",
        0,
    ),
    Metric(
        "optimizer_steps", "optimizer steps", "", "optimizer steps of a network that is fitted; null: not counted", 0
    ),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}
"""All metrics by name. Rows, result files, tables, comparisons and the API take names and descriptions from here."""

_OLD_NAMES = {
    "spread": "seed_std",
    "updates": "optimizer_steps",
    "prior_calls": "prior_evaluations",
    "output_variance": "iterate_variance",
}


def with_current_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored metrics or curves by today's names: versions before 0.2 named some differently."""
    return {_OLD_NAMES.get(name, name): value for name, value in stored.items()}


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
    # Imported here because the names of metrics are also needed where scikit-image is not.
    from skimage.metrics import structural_similarity

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

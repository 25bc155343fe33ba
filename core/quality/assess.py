"""A finished slice without a reference: its signals, its hallucination map, and the rating that follows."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.iterates import Iterate
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.parameters import Parameters
from udig_recon.core.problem import SliceProblem, is_empty
from udig_recon.core.quality.hallucination import hallucination_map
from udig_recon.core.quality.rating import HALLUCINATION_THRESHOLD, Rating, Signals, rate

OBJECT = 0.1
"""What is darker than this share of the object's brightness is air."""
MODEL_ERROR = 0.005
"""No model explains measurements better than to this share of them, so less noise does not count."""


@dataclass(frozen=True, eq=False)
class Assessment:
    """What a slice is worth, and the map (y, x) of where its prior may have invented, where one had a say."""

    rating: Rating
    hallucination: NDArray[np.float32] | None
    metrics: dict[str, float | None]


def assess(problem: SliceProblem, method: Parameters, last: Iterate) -> Assessment:
    """Of the last iterate of an ensemble."""
    image, heat = last.image, None
    inside = _object(problem, image)
    if method.needs_prior and last.prior_free_baseline is not None:
        heat = hallucination_map(image, last.prior_free_baseline, problem.operator)
    hallucination = None if heat is None else _mean((heat > HALLUCINATION_THRESHOLD)[inside].float())
    spread = None
    if last.deviation is not None:
        spread = (
            math.sqrt(_mean(last.deviation[inside].square())) / intensity_scale(image) if bool(inside.any()) else 0.0
        )
    prior_check = last.prior_check
    misfit, noise = _misfit(problem, image)
    empty = is_empty(problem.measurements)
    signals = Signals(
        empty=empty,
        misfit=misfit,
        noise=noise,
        holdout_residual=last.validation_residual,
        prior_excess=None if prior_check is None else prior_check.excess,
        ood_score=None if prior_check is None else prior_check.ood_score,
        hallucination=hallucination,
        seed_std=spread,
        **({} if empty else problem.operator.coverage(problem.measurements)),
    )
    shown = None if heat is None else problem.crop(heat)
    measured = {"hallucination_share": hallucination, "seed_std": spread}
    return Assessment(rate(signals, problem.modality), shown, measured)


def _object(problem: SliceProblem, image: Tensor) -> Tensor:
    """Where the object is, (1, 1, H, W); metal far brighter than it does not hide it."""
    brightness = problem.operator.magnitude(image)
    return (
        brightness > OBJECT * intensity_scale(image)
        if bool((brightness > 0).any())
        else torch.zeros_like(brightness).bool()
    )


def _misfit(problem: SliceProblem, image: Tensor) -> tuple[float | None, float | None]:
    """Root mean square of A x - y in deviations of the noise, and the noise as a share of the measurements."""
    norm = float(problem.measurements.norm())
    if norm == 0:
        return None, None
    noise = problem.noise_norm / norm
    with torch.no_grad():
        residual = math.sqrt(float(problem.operator.misfit(image, problem.measurements))) / norm
    return residual / max(noise, MODEL_ERROR), noise


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0

"""Assessment of a finished slice without a reference: its signals, its hallucination map and its rating."""

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

AIR_THRESHOLD = 0.1
"""Pixels darker than this share of the object's brightness are air."""
MODEL_ERROR = 0.005
"""Relative error of every forward model: a noise level below it is raised to it."""


@dataclass(frozen=True, eq=False)
class Assessment:
    """Rating of a slice, its hallucination map (y, x) where it has a prior-free baseline, and metrics of both."""

    rating: Rating
    hallucination: NDArray[np.float32] | None
    metrics: dict[str, float | None]


def assess(problem: SliceProblem, method: Parameters, last: Iterate) -> Assessment:
    """Assess the last iterate of `udig_recon.core.reconstruct.ensemble`."""
    problem, image, heat = problem.with_operator(last.operator), last.image, None
    inside = _object_mask(problem, image)
    if method.needs_prior and last.prior_free_baseline is not None:
        heat = hallucination_map(image, last.prior_free_baseline, problem.operator)
    hallucination = None if heat is None else _mean((heat > HALLUCINATION_THRESHOLD)[inside].float())
    seed_std = None
    if last.deviation is not None:
        seed_std = 0.0
        if bool(inside.any()):
            seed_std = math.sqrt(_mean(last.deviation[inside].square())) / intensity_scale(image)
    prior_check = last.prior_check
    misfit, noise = _misfit(problem.unweighted, image)
    empty = is_empty(problem.measurements)
    signals = Signals(
        empty=empty,
        misfit=misfit,
        noise=noise,
        holdout_residual=last.validation_residual,
        expected_error=_expected_error(problem, last),
        prior_excess=None if prior_check is None else prior_check.excess,
        ood_score=None if prior_check is None else prior_check.ood_score,
        hallucination=hallucination,
        seed_std=seed_std,
        **({} if empty else problem.operator.coverage(problem.measurements)),
    )
    cropped = None if heat is None else problem.crop(heat)
    metrics = {"hallucination_share": hallucination, "seed_std": seed_std}
    return Assessment(rate(signals, problem.modality), cropped, metrics)


def _object_mask(problem: SliceProblem, image: Tensor) -> Tensor:
    """Mask (1, 1, H, W) of the object, robust against metal that is far brighter than the rest."""
    magnitude = problem.operator.magnitude(image)
    if not bool((magnitude > 0).any()):
        return torch.zeros_like(magnitude).bool()
    return magnitude > AIR_THRESHOLD * intensity_scale(image)


def _misfit(problem: SliceProblem, image: Tensor) -> tuple[float | None, float | None]:
    """Root mean square of A x - y in standard deviations of the noise, and the noise as a share of the measurements."""
    norm = float(problem.measurements.norm())
    if norm == 0:
        return None, None
    noise = problem.noise_norm / norm
    with torch.no_grad():
        residual = math.sqrt(float(problem.operator.misfit(image, problem.measurements))) / norm
    return residual / max(noise, MODEL_ERROR), noise


def _expected_error(problem: SliceProblem, last: Iterate) -> float | None:
    """Error that the residual on held-out measurements lets expect, as a share of the object's brightness."""
    if last.validation_residual is None or is_empty(problem.measurements):
        return None
    error = problem.operator.expected_error(problem.measurements, last.validation_residual)
    return None if error is None else error / intensity_scale(last.image)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0

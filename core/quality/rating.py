"""Rating of a reconstruction without a reference: `good`, `unrated`, `check` or `poor`, with reasons and limits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from udig_recon.core.acquisition import Modality
from udig_recon.core.prior_check import OOD_EXCESS
from udig_recon.core.sinogram_statistics import STEEPEST

RatingLevel = Literal["good", "unrated", "check", "poor"]
LEVELS: tuple[RatingLevel, ...] = ("good", "unrated", "check", "poor")
"""From best to worst.

- `good`: all signals are within their limits, and the image predicts measurements that it was not made from.
- `unrated`: all signals are within their limits, but no held-out measurement tested the image.
- `check`: someone should look at the image; the reasons say why.
- `poor`: the image is wrong, or most of it is guessed.
"""
ROUNDING = 5e-4
"""A value must exceed its limit by more than this share of the limit: a smaller excess may be rounding."""

HALLUCINATION_THRESHOLD = 0.1
"""A pixel of the hallucination map counts from this value on, as a share of the object's brightness."""


@dataclass(frozen=True)
class Signals:
    """Quantities that tell how good an image is without a reference; None: unknown for this image."""

    empty: bool = False  # all measurements are zero
    misfit: float | None = None  # root mean square of A x - y, in standard deviations of the noise
    noise: float | None = None  # root mean square of the noise, as a share of the measurements' root mean square
    holdout_residual: float | None = None  # |A x - y| / |y| on held-out measurements; None: there are none
    expected_error: float | None = None  # root mean square of the image's error, as a share of its brightness
    prior_excess: float | None = None  # squared error on held-out measurements, as a share of total variation's
    ood_score: float | None = None  # distance from the prior's training images, see core/priors/ood.py
    hallucination: float | None = None  # share of the object above the threshold of the hallucination map
    seed_std: float | None = None  # root mean square deviation between seeds, as a share of the object's brightness
    unmeasured: float | None = None  # unmeasured share of the way to an end of k-space, see core/operators/coverage.py
    acceleration: float | None = None  # samples of k-space for each measured one
    angular_gap: float | None = None  # degrees without views, beyond the usual step
    truncation: float | None = None  # projection value at the detector's edges, as a share of the largest value
    line_integral: float | None = None  # the largest line integrals of attenuation
    axis_offset: float | None = None  # offset of the rotation axis from the geometry's axis, detectors, signed


class Limit(NamedTuple):
    """Limits of one signal: above `check` an image should be looked at, above `poor` it cannot be used."""

    check: float
    poor: float
    name: str
    reason: str

    def level(self, value: float) -> RatingLevel:
        """Rating level of an image whose signal has this value, by its magnitude."""
        size = abs(value) / (1 + ROUNDING)
        if size > self.poor:
            return "poor"
        return "check" if size > self.check else "good"


POOR_PREDICTION = "the image predicts held-out measurements poorly"
EXPECTED_ERROR = 0.042
"""Above this expected error images of 28 dB and less have been found, below it hardly any."""
UNTESTED = "no held-out measurements tested the image: none were held out, or the method makes no statement about them"
NOISY = "the data are noisy"
# Limits were chosen on simulated scans of people kept out of training, intact and corrupted, by
# `benchmarks.accuracy.ratings`. k-space falls off steeply and sinograms hardly do, so each has limits of its own.
DATA_LIMITS: Mapping[Modality, Mapping[str, Limit]] = {
    Modality.MRI: {
        "noise": Limit(0.2, 0.5, "share of noise in k-space", NOISY),
        "holdout_residual": Limit(0.85, 1.0, "residual on held-out k-space", POOR_PREDICTION),
        "expected_error": Limit(
            EXPECTED_ERROR,
            5 * EXPECTED_ERROR,
            "error to be expected as a share of the object's brightness",
            "the error on held-out k-space lets expect a large error of the image",
        ),
        "unmeasured": Limit(
            0.2,
            0.6,
            "unmeasured share of the way to the end of k-space",
            "detail is lost: the outer k-space was not measured",
        ),
        "acceleration": Limit(
            10.0,
            math.inf,
            "samples of k-space for each measured one",
            "so little of k-space was measured that hardly any held-out measurement tests the image",
        ),
    },
    Modality.CT: {
        "noise": Limit(0.015, 0.06, "share of noise in the sinogram", NOISY),
        "holdout_residual": Limit(0.025, 0.05, "residual on held-out views", POOR_PREDICTION),
        "angular_gap": Limit(
            15.0, 90.0, "degrees without views beyond the usual step", "edges along unmeasured directions are lost"
        ),
        "truncation": Limit(
            0.05,
            0.5,
            "value at the detector's edges as a share of the largest value",
            "the object is cut off: projections do not reach zero at the detector's edges",
        ),
        "line_integral": Limit(
            STEEPEST,
            math.inf,
            "the largest line integrals",
            "no beam is left after so much attenuation: the values may be counts, or multiplied by a number",
        ),
        "axis_offset": Limit(
            0.25,
            2.0,
            "offset of the rotation axis in detectors",
            "the views are inconsistent: the rotation axis does not seem to be at rotation_center",
        ),
    },
}
IMAGE_LIMITS: Mapping[str, Limit] = {
    "misfit": Limit(1.5, 3.0, "misfit in standard deviations of the noise", "the image does not fit its measurements"),
    "prior_excess": Limit(
        OOD_EXCESS,
        math.inf,
        "error on held-out measurements relative to total variation's",
        "the prior hardly improves on total variation",
    ),
    "ood_score": Limit(1.0, math.inf, "out-of-distribution score", "the image is unlike the prior's training images"),
    "hallucination": Limit(
        0.2,
        0.4,
        "share of the object that the prior may have invented",
        "the prior filled in what the measurements leave open",
    ),
    "seed_std": Limit(0.05, 0.15, "standard deviation between seeds", "results differ between seeds"),
}


def limits(modality: Modality) -> Mapping[str, Limit]:
    """Limits by the name of the signal, in the order in which reasons are given."""
    return {**DATA_LIMITS[modality], **IMAGE_LIMITS}


class Rating(NamedTuple):
    """A rating level and its reasons, each with the number that led to it and its limit."""

    level: RatingLevel
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """JSON for clients, rows and result files."""
        return {"rating": self.level, "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Rating":
        """Rating that `as_json` made, of this version or of one before 0.2 (`verdict`, with `unjudged`)."""
        level = stored["rating"] if "rating" in stored else stored["verdict"]
        return cls("unrated" if level == "unjudged" else level, tuple(stored["reasons"]))

    def __str__(self) -> str:
        return f"{self.level}: {'; '.join(self.reasons)}"


def rate(signals: Signals, modality: Modality) -> Rating:
    """Rate an image by its worst signal; the reasons of a good one are the numbers that are within their limits."""
    if signals.empty:
        return Rating("check", ("all measurements of this slice are zero, so its image is empty",))
    values = asdict(signals)
    known = [(limit, values[name]) for name, limit in limits(modality).items() if values[name] is not None]
    levels = [limit.level(value) for limit, value in known]
    level = worst_level(levels)
    if level == "good":
        within = ", ".join(f"{limit.name} {value:.3g} of {limit.check:g}" for limit, value in known)
        reason = f"within limits: {within or 'no signal is known that could exceed its limit'}"
        tested = signals.holdout_residual is not None
        return Rating("good", (reason,)) if tested else Rating("unrated", (UNTESTED, reason))
    reasons = []
    for (limit, value), exceeded in zip(known, levels, strict=True):
        if exceeded != "good":
            bound = limit.poor if exceeded == "poor" else limit.check
            reasons.append(f"{limit.reason}: {limit.name} is {value:.3g}, limit {bound:g}")
    return Rating(level, tuple(reasons))


def worst(ratings: Mapping[int, Rating]) -> Rating:
    """Rating of a volume from its slices' ratings by number: the worst level, with the reasons of the slices at it."""
    level = worst_level(rating.level for rating in ratings.values())
    at_level = {number: rating.reasons for number, rating in ratings.items() if rating.level == level}
    return of_volume(level, at_level, len(at_level))


def of_volume(level: RatingLevel, reasons: Mapping[int, Sequence[str]], count: int) -> Rating:
    """Rating of a volume that has `count` slices at its level, with the reasons of some of these by number."""
    if level == "good":
        return Rating("good", (f"{count} of {count} slices are good",))
    told = [f"slice {number}: {'; '.join(each)}" for number, each in reasons.items()]
    left = count - len(told)
    return Rating(level, (*told, *([f"{left} more slices are {level}"] if told and left else [])))


def worst_level(levels: Iterable[RatingLevel]) -> RatingLevel:
    """The worst of several levels; `good` of none."""
    return max(levels, key=LEVELS.index, default="good")

"""How good a slice is, told without a reference: `good`, `unjudged`, `check` or `poor`, and the numbers that say so."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from udig_recon.core.acquisition import Modality
from udig_recon.core.prior_check import FOREIGN

Mark = Literal["good", "unjudged", "check", "poor"]
MARKS: tuple[Mark, ...] = ("good", "unjudged", "check", "poor")
"""From best to worst. Nothing speaks against the image, which foretells measurements that it was not made from; nothing
does, but no measurement left out tested it; someone should look at it, knowing the reasons; it is wrong or guessed."""
ROUNDING = 5e-4
"""Share of a limit by which a value must exceed it: less is how it is rounded."""

HALLUCINATED = 0.1
"""From this value on, as a share of the object's brightness, a pixel of the hallucination map counts."""


@dataclass(frozen=True)
class Signals:
    """What tells of an image without a reference; None: not known of this one."""

    empty: bool = False  # nothing but zeros was measured
    misfit: float | None = None  # root mean square of A x - y, in deviations of the noise
    noise: float | None = None  # root mean square of the noise, as a share of the measurements'
    left_out: float | None = None  # |A x - y| / |y| on measurements left out; None: there are none, or it tells nothing
    prior_excess: float | None = None  # squared error on measurements left out, as a share of total variation's
    strangeness: float | None = None  # distance from the prior's training images, see core/priors/ood.py
    hallucination: float | None = None  # share of the object that counts in the hallucination map
    spread: float | None = None  # root mean square deviation between seeds, as a share of the object's brightness
    unmeasured: float | None = (
        None  # share of the way to an end of k-space that is not measured, see core/quality/coverage.py
    )
    angular_gap: float | None = None  # degrees without views, beyond the usual step
    truncation: float | None = None  # what projections are at the detector's edges, as a share of the largest value
    axis_offset: float | None = None  # of the axis of rotation from where the geometry has it, detectors, signed


class Limit(NamedTuple):
    """Beyond which values a signal speaks against an image, and what it says then."""

    check: float
    poor: float
    name: str
    means: str

    def mark(self, value: float) -> Mark:
        """What an image with this value deserves."""
        size = abs(value) / (1 + ROUNDING)
        return "poor" if size > self.poor else "check" if size > self.check else "good"


UNSEEN = "the image foretells little of unseen data"
UNTESTED = "no measurement left out tested the image: none was, or the method says nothing of what it is not given"
# Chosen on simulated scans of people kept out of training, whole and spoilt: benchmarks/RESULTS.md, "Grades". k-space
# falls off so steeply, and sinograms so little, that shares of them cannot be compared.
OF_DATA: Mapping[Modality, Mapping[str, Limit]] = {
    Modality.MRI: {
        "noise": Limit(0.2, 0.5, "share of noise in k-space", "the data are noisy"),
        "left_out": Limit(0.85, 1.0, "residual on k-space left out", UNSEEN),
        "unmeasured": Limit(
            0.2,
            0.6,
            "share of the way to k-space's end that is not measured",
            "detail is lost: the outer k-space is not measured",
        ),
    },
    Modality.CT: {
        "noise": Limit(0.015, 0.06, "share of noise in the sinogram", "the data are noisy"),
        "left_out": Limit(0.025, 0.05, "residual on views left out", UNSEEN),
        "angular_gap": Limit(
            15.0, 90.0, "degrees without views beyond the usual step", "edges along unmeasured directions are lost"
        ),
        "truncation": Limit(
            0.05,
            0.5,
            "value at the detector's edges as a share of the largest",
            "the object is cut off: projections do not reach zero at the detector's edges",
        ),
        "axis_offset": Limit(
            0.25,
            2.0,
            "offset of the axis in detectors",
            "the views disagree: the rotation axis seems to lie elsewhere than rotation_center",
        ),
    },
}
OF_IMAGES: Mapping[str, Limit] = {
    "misfit": Limit(1.5, 3.0, "misfit in deviations of the noise", "the image does not explain its data"),
    "prior_excess": Limit(
        FOREIGN, math.inf, "error on measurements left out against total variation's", "the prior hardly helps"
    ),
    "strangeness": Limit(1.0, math.inf, "strangeness to the prior", "the image is unlike those that the prior knows"),
    "hallucination": Limit(
        0.2, 0.4, "share of the object that the prior may have invented", "the prior filled what the data left open"
    ),
    "spread": Limit(0.05, 0.15, "spread between seeds", "the seeds disagree"),
}


def limits(modality: Modality) -> Mapping[str, Limit]:
    """The limit of each signal."""
    return {**OF_DATA[modality], **OF_IMAGES}


class Grade(NamedTuple):
    """A mark and the reasons for it, each with the number that led to it and its limit."""

    verdict: Mark
    reasons: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """What a client or a result file is told."""
        return {"verdict": self.verdict, "reasons": list(self.reasons)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Grade":
        """From `as_json`."""
        return cls(told["verdict"], tuple(told["reasons"]))

    def __str__(self) -> str:
        return f"{self.verdict}: {'; '.join(self.reasons)}"


def graded(signals: Signals, modality: Modality) -> Grade:
    """The worst mark of any signal; for a good image the reasons are the numbers that are within their limits."""
    if signals.empty:
        return Grade("check", ("nothing was measured of this slice, so its image is empty",))
    values = asdict(signals)
    known = {limit: values[name] for name, limit in limits(modality).items() if values[name] is not None}
    mark = _worst(limit.mark(value) for limit, value in known.items())
    if mark == "good":
        within = ", ".join(f"{limit.name} {value:.3g} of {limit.check:g}" for limit, value in known.items())
        reason = f"within limits: {within or 'nothing is known that could exceed any'}"
        return Grade("good", (reason,)) if signals.left_out is not None else Grade("unjudged", (UNTESTED, reason))
    exceeded = {limit: value for limit, value in known.items() if limit.mark(value) != "good"}
    reasons = (
        f"{limit.means}: {limit.name} is {value:.3g}, limit "
        f"{limit.poor if limit.mark(value) == 'poor' else limit.check:g}"
        for limit, value in exceeded.items()
    )
    return Grade(mark, tuple(reasons))


def worst(grades: Mapping[int, Grade]) -> Grade:
    """The grade of a volume from its slices' by number: the worst mark, and of each slice that has it the reasons."""
    mark = _worst(grade.verdict for grade in grades.values())
    if mark == "good":
        return Grade("good", (f"{len(grades)} of {len(grades)} slices are good",))
    return Grade(mark, tuple(f"slice {n}: {'; '.join(g.reasons)}" for n, g in grades.items() if g.verdict == mark))


def _worst(marks: Iterable[Mark]) -> Mark:
    return max(marks, key=MARKS.index, default="good")

"""Prior check: held-out measurements compare a prior's image with total variation's, and weigh the two. Torch-free."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

OOD_EXCESS = 0.8
"""From this excess error on the scan counts as out of the prior's distribution.

Excess is the prior's squared error on held-out measurements beyond the noise, as a share of total variation's. Above
0.8 the two differ by less than the scatter of so few measurements."""
OOD_SCORE = 1.0
"""From this OOD score on an image counts as out of the prior's distribution; see core/priors/ood.py."""

_FORMER_NAMES = {"prior_share": "prior_weight", "strangeness": "ood_score", "leader": "reference_slice"}
"""of fields, in results that versions before 0.2 stored."""


@dataclass(frozen=True)
class PriorCheck:
    """Relative residuals |A x - y| / |y| on held-out measurements, by candidate, and the weight that follows."""

    prior_weight: float  # a of x_tv + a (x_prior - x_tv), 0 .. 1
    best_at: float  # the prior's best iterate, as a share of its run
    residuals: Mapping[str, float]  # of "udig_dip" (its best iterate), "tv", and "start" where that is neither
    noise: float = 0.0  # residual that a perfect image would have
    ood_score: float | None = None  # of the prior's image, see core/priors/ood.py; None: the prior has no statistics
    tv_weight: float = 0.0  # weight of total variation
    reference_slice: int | None = None  # slice that tv_weight was taken over from

    @classmethod
    def from_stored(cls, fields: Mapping[str, Any]) -> "PriorCheck":
        """From the stored fields (`dataclasses.asdict`) of this version or of one before 0.2."""
        return cls(**{_FORMER_NAMES.get(name, name): value for name, value in fields.items()})

    @classmethod
    def combine(cls, checks: Sequence["PriorCheck"]) -> "PriorCheck":
        """One check of several seeds, each of which held out other measurements."""
        first = checks[0]
        ood_scores = [each.ood_score for each in checks if each.ood_score is not None]
        return cls(
            prior_weight=fmean(each.prior_weight for each in checks),
            best_at=fmean(each.best_at for each in checks),
            residuals={name: _root_mean_square(each.residuals[name] for each in checks) for name in first.residuals},
            noise=_root_mean_square(each.noise for each in checks),
            ood_score=fmean(ood_scores) if ood_scores else None,
            tv_weight=median(each.tv_weight for each in checks),
            reference_slice=first.reference_slice,
        )

    @property
    def validation_residual(self) -> float:
        """The least residual of the candidates."""
        return min(self.residuals.values())

    @property
    def excess(self) -> float:
        """Squared error beyond the noise that the prior's image leaves, as a share of total variation's."""
        with_prior, without = (max(self.residuals[name] ** 2 - self.noise**2, 0.0) for name in ("udig_dip", "tv"))
        return with_prior / without if without > 0 else float(with_prior > 0)

    @property
    def trust(self) -> float:
        """Factor of the prior's weight: 1 up to an excess of `OOD_EXCESS`, falling linearly to 0 at an excess of 1."""
        return min(max((1 - self.excess) / (1 - OOD_EXCESS), 0.0), 1.0)

    @property
    def out_of_distribution(self) -> bool:
        """Whether the scan is unlike the prior's training data, by the OOD score or by the excess error."""
        return self.excess > OOD_EXCESS or (self.ood_score is not None and self.ood_score > OOD_SCORE)

    @property
    def selected(self) -> str:
        """`udig_dip`, `tv`, or `blend`."""
        if self.prior_weight == 0:
            return "tv"
        return "udig_dip" if self.prior_weight == 1 else "blend"

    @property
    def reason(self) -> str:
        """The check in one sentence."""
        residuals = ", ".join(f"{name} {value:.4f}" for name, value in sorted(self.residuals.items()))
        outcome = {
            "udig_dip": "the prior's image is taken",
            "tv": "total variation is taken, without the prior",
            "blend": f"{self.prior_weight:.0%} of the prior's image and the rest of total variation's is taken",
        }[self.selected]
        score = "" if self.ood_score is None else f", OOD score {self.ood_score:.2f}, limit {OOD_SCORE:g}"
        warning = f"; the scan is unlike the prior's training data{score}" if self.out_of_distribution else ""
        return f"residual on held-out measurements: {residuals}; {outcome}{warning}"

    def as_json(self) -> dict[str, Any]:
        """The check as clients and result files receive it."""
        return {
            "selected": self.selected,
            "out_of_distribution": self.out_of_distribution,
            "prior_weight": self.prior_weight,
            "ood_score": self.ood_score,
            "residuals": dict(self.residuals),
            "tv_weight": self.tv_weight,
            "reference_slice": self.reference_slice,
            "reason": self.reason,
        }


def _root_mean_square(values: Iterable[float]) -> float:
    return math.sqrt(fmean(value**2 for value in values))


def ood_warning(slices: Sequence[int]) -> str:
    """The warning about slices whose scan is out of distribution, in one sentence."""
    return (
        f"slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices))}: the scan is unlike the prior's training "
        "data; check the image for structure that the prior may have added or removed"
    )

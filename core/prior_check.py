"""What a reconstruction was judged by, and what came of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

FOREIGN = 0.8
"""A prior whose image explains little more of unseen measurements than total variation does not know the scan.

Of the error squared, less what is noise."""


@dataclass(frozen=True)
class Verdict:
    """Relative residuals |A x - y| / |y| on measurements left out, by candidate, and the choice that they led to."""

    prior_share: float  # a of x_tv + a (x_prior - x_tv), 0 .. 1
    best_at: float  # which iterate of the prior's run was best, as a share of the run
    residuals: Mapping[str, float]  # of "udig_dip" (its best iterate), "tv", and "start" where that is neither
    noise: float = 0.0  # what the residual of a perfect image would be
    ood_score: float | None = None  # of the prior's image, see core/priors/ood.py; None: the prior cannot tell
    tv_weight: float = 0.0  # weight of total variation
    leader: int | None = None  # slice that this weight was taken over from

    @classmethod
    def together(cls, verdicts: Sequence["Verdict"]) -> "Verdict":
        """What runs of several seeds, each judged by measurements of its own, were judged by together."""
        first = verdicts[0]
        ood_score = [each.ood_score for each in verdicts if each.ood_score is not None]
        return cls(
            prior_share=fmean(each.prior_share for each in verdicts),
            best_at=fmean(each.best_at for each in verdicts),
            residuals={name: _root_mean_square(each.residuals[name] for each in verdicts) for name in first.residuals},
            noise=_root_mean_square(each.noise for each in verdicts),
            ood_score=fmean(ood_score) if ood_score else None,
            tv_weight=median(each.tv_weight for each in verdicts),
            leader=first.leader,
        )

    @property
    def validation_residual(self) -> float:
        """The least of them."""
        return min(self.residuals.values())

    @property
    def excess(self) -> float:
        """Squared error beyond the noise that the prior's image leaves, as a share of what total variation leaves."""
        with_prior, without = (max(self.residuals[name] ** 2 - self.noise**2, 0.0) for name in ("udig_dip", "tv"))
        return with_prior / without if without > 0 else float(with_prior > 0)

    @property
    def trust(self) -> float:
        """1 where the prior helps clearly, falling to 0 where it does not help."""
        return min(max((1 - self.excess) / (1 - FOREIGN), 0.0), 1.0)

    @property
    def out_of_distribution(self) -> bool:
        """Whether the scan is unlike what the prior was trained on: it looks it, or the prior hardly helps."""
        return self.excess > FOREIGN or (self.ood_score is not None and self.ood_score > 1)

    @property
    def chosen(self) -> str:
        """`udig_dip`, `tv`, or `mixed`."""
        return {0.0: "tv", 1.0: "udig_dip"}.get(self.prior_share, "mixed")

    @property
    def reason(self) -> str:
        """One sentence for a person."""
        measured = ", ".join(f"{name} {value:.4f}" for name, value in sorted(self.residuals.items()))
        what = {
            "udig_dip": "the prior's image is taken",
            "tv": "total variation is taken, without the prior",
            "mixed": f"the prior's image is taken by {self.prior_share:.0%}, total variation for the rest",
        }[self.chosen]
        looks = "" if self.ood_score is None else f", OOD score {self.ood_score:.2f} of 1"
        warning = f"; the scan is unlike what the prior was trained on{looks}" if self.out_of_distribution else ""
        return f"residual on measurements left out: {measured}; {what}{warning}"

    def as_json(self) -> dict[str, Any]:
        """What a client or a result file is told."""
        return {
            "chosen": self.chosen,
            "out_of_distribution": self.out_of_distribution,
            "prior_share": self.prior_share,
            "ood_score": self.ood_score,
            "residuals": dict(self.residuals),
            "tv_weight": self.tv_weight,
            "leader": self.leader,
            "reason": self.reason,
        }


def _root_mean_square(values: Iterable[float]) -> float:
    return math.sqrt(fmean(value**2 for value in values))


def foreign(slices: Sequence[int]) -> str:
    """The warning of slices whose scan is out of distribution, in one sentence."""
    return (
        f"slice{'s' if len(slices) > 1 else ''} {', '.join(map(str, slices))}: the scan is unlike what the prior was "
        "trained on; look for structure that it may have invented or removed"
    )

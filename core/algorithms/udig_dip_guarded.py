"""uDiG-DIP that is never worse than no prior: measurements it has not seen judge it against total variation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.algorithms.tv import WEIGHTS, total_variation
from udig_recon.core.algorithms.udig_dip import noise_level, udig_dip
from udig_recon.core.iterates import Iterate, Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.priors.purify import Denoiser
from udig_recon.core.selection.holdout import validation_error, validation_part
from udig_recon.core.selection.weight_search import regularised
from udig_recon.core.slice_order import WarmStart

TRIAL_SHARE = 0.5
"""Length of the run that is judged, as a share of `outer_iterations`."""
REENTRY = 1 / 3
"""of the noise levels are left out of a follower's run on all data, since it starts from the trial's image."""


class Lengths(NamedTuple):
    """Of the stages before and after the trial."""

    tv: tuple[int, int]  # iterations with each weight that is tried on part of the data, and with the best on all
    classical: float  # what total variation counts for in the progress: about its share of the time, as one of K
    final: float  # of the run on all data, as a share of `outer_iterations`


ALONE = Lengths(tv=(20, 60), classical=0.3, final=1.0)
FOLLOWING = Lengths(tv=(50, 15), classical=0.25, final=0.3)
"""The weight is known, and the run on all data starts from the trial's image."""
JUDGED_EVERY = 0.1
"""of a run, from one judged iterate to the next."""
WHOLE = 0.95
"""From this share of the prior's image on it is taken alone."""


def judged(
    y: Tensor,
    A: LinearOperator,
    start: Callable[[Tensor, LinearOperator], Tensor],
    network: Callable[[], nn.Module],
    prior: Denoiser,
    ood_score: Callable[[Tensor], float] | None,
    p: UDiGDIP,
    rng: Generator,
    state: State | None = None,
    warm_start: WarmStart | None = None,
) -> Iterates:
    """Total variation, then uDiG-DIP on part of the data, judged on the rest, then on all data if it was found to help.

    A share `holdout_share` of the measurements is left out, never of the calibration centre. On them the error of the
    iterates, of their start and of total variation is measured, all made without them (Yaman et al. 2022). The image is
    x_tv + a (x_prior - x_tv), both made anew from all data, with the a in [0, 1] of least error on what was left out:
    what prior and no prior agree on stays. Where the prior helps so little that few measurements can hardly tell it
    from chance, a is made smaller, down to 0 where it does not help. The run on all data ends at the noise level whose
    iterate was judged best. The last iterate's prior check says what was selected, and why, and by `ood_score` whether
    the trial's best image is of the kind that the prior knows.

    With a `warm_start` the weight of total variation is that of the reference slice, and the run on all
    data is a short one that goes on from the trial's best image. The judge's work stays.
    """
    memory = state or {"stage": 0, "kept": A.partition(p.holdout_share, "lines", rng)}
    memory = {name: part.to(y.device) if isinstance(part, Tensor) else part for name, part in memory.items()}
    stages = _Stages(y, A, start, network, prior, ood_score, p, rng, memory, warm_start)
    if memory["stage"] == 0:
        yield from stages.classical()
    if memory["stage"] == 1:
        yield from stages.trial()
    yield from stages.final()


@dataclass
class _Stages:
    """The three stages; `memory` is what each leaves for the next, and all that there is to resume from."""

    y: Tensor
    A: LinearOperator
    start: Callable[[Tensor, LinearOperator], Tensor]
    network: Callable[[], nn.Module]
    prior: Denoiser
    ood_score: Callable[[Tensor], float] | None
    p: UDiGDIP
    rng: Generator
    memory: State
    warm_start: WarmStart | None

    def classical(self) -> Iterates:
        """Total variation of all data, its weight found by the measurements left out."""
        kept, inner = self.memory["kept"], self.memory.get("inner")
        weights = WEIGHTS if self.warm_start is None else (self.warm_start.tv_weight,)
        for it in regularised(total_variation, self.y, self.A, weights, self._lengths.tv, self.rng, inner, kept):
            if it.state is not None:
                found = it.state()
            yield self._seen(it, math.ceil(self._classical_steps * it.step / it.steps))
        tv = {"tv": it.image, "tv_kept": found["best"], "tv_error": min(found["errors"]), "tv_weight": found["weight"]}
        self._next(tv)

    def trial(self) -> Iterates:
        """UDiG-DIP of the data kept, its iterates judged by the rest."""
        kept, steps = self.memory["kept"], self._trial_steps
        seen, y = self.A.restricted(kept), self.y * kept
        z = self.memory["tv_kept"] if self.p.start == "tv" else self.start(y, seen)
        if "best" not in self.memory:
            error = self._error(z)
            self.memory |= {"start_error": error, "best_error": error, "best": z, "best_at": 0.0}
        every = max(1, round(JUDGED_EVERY * steps))
        p = self.p.model_copy(update={"outer_iterations": steps})
        inner = self.memory.get("inner")
        for it in udig_dip(y, seen, z, self.network(), self.prior, p, self.rng, inner):
            if it.state is not None and (it.step % every == 0 or it.step == steps):
                error = self._error(it.image)
                if error < self.memory["best_error"]:
                    self.memory |= {"best_error": error, "best": it.image, "best_at": it.step / steps}
            yield self._seen(it, self._classical_steps + it.step)
        self._next({"ood_score": self.ood_score(self.memory["best"]) if self.ood_score else None})

    def final(self) -> Iterates:
        """The run on all data as far as the trial was good, mixed with total variation as the trial says."""
        share, inner = self._share(), self.memory.get("inner")
        image: Tensor = self.memory["tv"]
        last = round(self.memory["best_at"] * self.p.outer_iterations)
        if share > 0:
            z, p = self._start(last)
            for it in udig_dip(self.y, self.A, z, self.network(), self.prior, p, self.rng, inner):
                image = torch.lerp(self.memory["tv"], it.image, share)
                if it.step >= min(last, it.steps):
                    break
                yield self._seen(it._replace(image=image), self._classical_steps + self._trial_steps + it.step)
        check, misfit = self._prior_check(share), self.A.misfit(image, self.y)
        yield Iterate(
            self._steps,
            self._steps,
            image,
            misfit,
            prior_check=check,
            validation_residual=check.validation_residual,
            prior_free_baseline=self.memory["tv"],
        )

    def _start(self, last: int) -> tuple[Tensor, UDiGDIP]:
        """Where the run on all data, good up to its iteration `last`, begins, and its noise levels."""
        if self.warm_start is not None and last > 0:
            levels = {
                "outer_iterations": max(1, round(self._lengths.final * last)),
                "noise_level": noise_level(round(REENTRY * last), self.p),
                "final_noise_level": noise_level(last - 1, self.p),
            }
            return self.memory["best"], self.p.model_copy(update=levels)
        return self.memory["tv"] if self.p.start == "tv" else self.start(self.y, self.A), self.p

    @property
    def _lengths(self) -> Lengths:
        return ALONE if self.warm_start is None else FOLLOWING

    @property
    def _trial_steps(self) -> int:
        return max(1, round(TRIAL_SHARE * self.p.outer_iterations))

    @property
    def _classical_steps(self) -> int:
        return max(1, round(self._lengths.classical * self.p.outer_iterations))

    @property
    def _final_steps(self) -> int:
        return max(1, round(self._lengths.final * self.p.outer_iterations))

    @property
    def _steps(self) -> int:
        return self._classical_steps + self._trial_steps + self._final_steps

    def _next(self, found: State) -> None:
        self.memory.pop("inner", None)
        self.memory |= {**found, "stage": self.memory["stage"] + 1}

    def _seen(self, it: Iterate, step: int) -> Iterate:
        """An iterate of a stage as one of the whole; a stage's last one is no point to resume from."""
        if (inner := it.state) is None or it.step == it.steps:
            return it._replace(step=step, steps=self._steps, state=None)
        return it._replace(step=step, steps=self._steps, state=lambda: {**self.memory, "inner": inner(), "step": step})

    def _error(self, image: Tensor) -> float:
        return float(validation_error(self.A, self.y, self.memory["kept"], image))

    def _left_out(self, y: Tensor) -> Tensor:
        return validation_part(self.A, y, self.memory["kept"])

    def _share(self) -> float:
        """The a of least |A (x_tv + a (x - x_tv)) - y|^2 over the measurements left out, in [0, 1]."""
        classical, best = self.memory["tv_kept"], self.memory["best"]
        with torch.no_grad():
            wanted = self._left_out(self.y - self.A.forward(classical))
            offered = self._left_out(self.A.forward(best - classical))
        energy = float(offered.abs().square().sum())
        share = float((offered.conj() * wanted).real.sum()) / energy if energy > 0 else 0.0
        share = min(max(share, 0.0), 1.0) * self._prior_check(share).trust
        return 1.0 if share >= WHOLE else share

    def _prior_check(self, share: float) -> PriorCheck:
        errors = {"tv": self.memory["tv_error"], "udig_dip": self.memory["best_error"]}
        if self.p.start != "tv":
            errors["start"] = self.memory["start_error"]
        # Tiny, so that nothing is divided by zero where all that was left out is zero.
        energy = float(self._left_out(self.y).abs().square().mean()) + torch.finfo(torch.float32).tiny
        residuals = {name: math.sqrt(error / energy) for name, error in errors.items()}
        noise = self.A.noise_level(self.y) / math.sqrt(energy)
        return PriorCheck(
            prior_weight=share,
            best_at=self.memory["best_at"],
            residuals=residuals,
            noise=noise,
            ood_score=self.memory["ood_score"],
            tv_weight=self.memory["tv_weight"],
            reference_slice=None if self.warm_start is None else self.warm_start.slice,
        )

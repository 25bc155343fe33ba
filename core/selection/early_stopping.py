"""Any method's iterates judged as they come, by measurements that it does not see; the best one is the image."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.fitting import held_in
from udig_recon.core.iterates import Iterate, Iterates, State, restore
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import EarlyStoppingParameters, HoldoutParameters
from udig_recon.core.selection.holdout import train_mask, validation_part

LOOKS = 100
"""At the iterates of a run, evenly spread; at all of them where they are fewer."""
GAIN = 0.1
"""By which share the squared residual must fall to be waited for again; less is not worth the time."""
SILENT = 1e-3
"""Share of what was left out below which an image says nothing of it, as that of one coil whose k-space is not filled.

Its residual there is 1 by construction."""
EXPLAINED = 1.0
"""From this discrepancy down iterates count: until then a method still learns from the data it has."""

Method = Callable[[Tensor, LinearOperator, State | None], Iterates]
"""Makes iterates from measurements, their model, and a state to go on from."""

Model = TypeVar("Model", bound=LinearOperator)


class Opinion(NamedTuple):
    """What an image says of the measurements."""

    residual: float  # |A x - y| / |y| on what was left out
    discrepancy: float  # |A x - y| over the noise's, on the rest
    speaks: bool  # whether it says anything of what was left out

    @property
    def told(self) -> float | None:
        """The residual where it tells anything."""
        return self.residual if self.speaks else None


class Judge:
    """What an image says of the measurements left out, those of y that are not in `kept`."""

    def __init__(self, y: Tensor, A: LinearOperator, kept: Tensor) -> None:
        self._y, self._A, self._kept = y, A, kept
        self.seen, self.part = A.restricted(kept), y * kept
        self._size = float(validation_part(A, y, kept).norm()) + torch.finfo(torch.float32).tiny
        self._noise = self.seen.noise_norm(self.part)

    def __call__(self, image: Tensor) -> Opinion:
        """What the image says of both parts."""
        with torch.no_grad():
            foretold = self._A.forward(image)
            misfit = (foretold - self._y).abs().square()
        unseen = float(validation_part(self._A, misfit, self._kept).sum())
        rest = max(float(misfit.sum()) - unseen, 0.0)
        return Opinion(
            math.sqrt(unseen) / self._size,
            math.sqrt(rest) / self._noise if self._noise > 0 else math.inf,
            float(validation_part(self._A, foretold, self._kept).norm()) > SILENT * self._size,
        )


def watched(
    method: Method, y: Tensor, A: LinearOperator, p: EarlyStoppingParameters, rng: Generator, state: State | None
) -> Iterates:
    """Iterates of a run that leaves out some measurements; the last one is that of least error on them.

    From `min_progress` on iterates are compared, anew once noise explains their misfit, and from then on the run ends
    as `patience` and `discrepancy` say. With `refit` it is made again from all measurements and the same random
    numbers, up to the iterate that was best (Yaman et al. 2022). Where nothing is left out, they are the method's own
    iterates.
    """
    kept = train_mask(A, p, rng)  # the same in a run that goes on, whose seed is the same
    if kept is None:
        yield from method(y, A, state)
        return
    judge, beginning, stages = Judge(y, A, kept), rng.get_state(), 2 if p.refit else 1
    before = {"stage": 0, "explained": False} if state is None else state
    memory: State = {name: _on(y.device, part) for name, part in before.items()}
    inner = memory.pop("inner", None)
    if memory["stage"] == 0:
        for it in method(judge.part, judge.seen, inner):
            last = it.step == it.steps
            if last or it.step % max(1, it.steps // LOOKS) == 0:
                opinion = judge(it.image)
                memory = {**memory, "latest": opinion.told}
                if last or it.step >= p.min_progress * it.steps:
                    memory, enough = _compared(memory, it, opinion, p)
                    last = last or enough
            if last:
                break
            yield _of_all(it, stages, memory)._replace(validation_residual=memory.get("latest"))
        inner, memory = None, {**memory, "stage": 1}
    image, loss = memory["best"], memory["loss"]
    if p.refit:
        restore(rng, beginning)
        for it in method(y, A, inner):
            image, loss = it.image, it.loss
            if it.step >= memory["best_step"]:
                break
            yield _of_all(it, stages, memory)
    steps = stages * it.steps
    told = memory["residual"] if memory.get("speaks", True) else None
    yield Iterate(steps, steps, image, loss, validation_residual=told)


def _compared(memory: State, it: Iterate, opinion: Opinion, p: EarlyStoppingParameters) -> tuple[State, bool]:
    """The memory after an iterate, and whether the run ends with it."""
    residual, discrepancy, speaks = opinion
    explained = memory["explained"] or discrepancy <= EXPLAINED
    anew = "best" not in memory or explained != memory["explained"]
    memory = {**memory, "explained": explained}
    if anew or residual < memory["residual"]:
        memory |= {"best": it.image, "loss": it.loss, "best_step": it.step, "residual": residual, "speaks": speaks}
    if anew or residual**2 < (1 - GAIN) * memory["mark"]:
        memory |= {"mark": residual**2, "mark_step": it.step}
    in_vain = it.step - memory["mark_step"] >= p.patience * it.steps
    # Where the data are put into the image, as score_mri does, no misfit is left at all; that ends no run by itself.
    fitted = 0 < p.discrepancy >= discrepancy
    return memory, fitted or (explained and in_vain)


def at_once(
    solve: Callable[[Tensor, Model], Iterates], y: Tensor, A: Model, p: HoldoutParameters, rng: Generator
) -> Iterates:
    """The one image of a method that does not iterate, judged by that of a part of the measurements."""
    kept = train_mask(A, p, rng)
    for it in solve(y, A):
        if kept is None:
            yield it
        else:
            *_, of_part = solve(y * kept, A.restricted(kept))
            yield it._replace(validation_residual=Judge(y, A, kept)(of_part.image).told)


def _of_all(it: Iterate, stages: int, memory: State) -> Iterate:
    """An iterate of a stage as one of the whole."""
    step = memory["stage"] * it.steps + it.step
    return it._replace(step=step, steps=stages * it.steps, state=held_in(it, step, memory))


def _on(device: torch.device, part: object) -> object:
    return part.to(device) if isinstance(part, Tensor) else part

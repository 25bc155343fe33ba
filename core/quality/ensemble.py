"""What a job runs on a slice: its seeds one after the other, and beside a prior's image what the data alone give."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from udig_recon.core.iterates import Iterate, Iterates, State
from udig_recon.core.parameters import TV, Parameters
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.priors.card import Folders
from udig_recon.core.reconstruct import SliceProblem, reconstruct
from udig_recon.core.slice_order import WarmStart

DATA_ONLY = TV(weight=1e-3, iterations=20)
"""What a prior's image is compared with where no judge has made total variation: cheap, and near enough."""


def ensemble(
    problem: SliceProblem,
    method: Parameters,
    *,
    seed: int,
    seeds: int = 1,
    priors: Folders = None,
    state: State | None = None,
    warm_start: WarmStart | None = None,
) -> Iterates:
    """Iterates of `reconstruct` with seed, seed + 1, ...; the last one is the mean of the seeds' images.

    Until then an image is the mean of those that are done and of the running one, which counts by its progress. The
    last iterate of several seeds has their standard deviation, and a prior check of them together; of a method with
    a prior it has what the data give without it.
    """
    unseen = method.needs_prior and not method.judged
    for last in _seeds(problem, method, seed, seeds, priors, state, warm_start):
        yield last._replace(steps=last.steps + 1) if unseen else last
    if not unseen:
        return
    end = last._replace(step=last.steps + 1, steps=last.steps + 1)
    for plain in reconstruct(problem, DATA_ONLY, seed=seed):
        end = end._replace(data_only=plain.image)
        yield end._replace(step=last.step)
    yield end


@dataclass(frozen=True, eq=False)
class Seen:
    """What the seeds that are done leave: as many, the mean of their images, and mean and spread of the magnitudes."""

    done: int
    mean: Tensor  # (1, C, H, W)
    centre: Tensor  # (1, 1, H, W)
    squares: Tensor  # (1, 1, H, W), squared distances from the centre, summed as Welford (1962) does
    checks: list[dict[str, Any]]
    residuals: list[float]  # on measurements left out

    def with_(self, last: Iterate, brightness: Tensor) -> "Seen":
        """With the last iterate of another seed."""
        done, off = self.done + 1, brightness - self.centre
        centre = self.centre + off / done
        return Seen(
            done,
            self.mean + (last.image - self.mean) / done,
            centre,
            self.squares + off * (brightness - centre),
            self.checks if last.prior_check is None else [*self.checks, asdict(last.prior_check)],
            self.residuals if last.validation_residual is None else [*self.residuals, last.validation_residual],
        )

    def beside(self, it: Iterate) -> Tensor:
        """The image to show while a seed runs."""
        share = it.step / max(1, it.steps)
        return it.image if self.done == 0 else (self.done * self.mean + share * it.image) / (self.done + share)

    @property
    def deviation(self) -> Tensor | None:
        """Standard deviation of the magnitudes; None of a single one."""
        return (self.squares / (self.done - 1)).sqrt() if self.done > 1 else None

    def state(self, inner: Callable[[], State] | None) -> State:
        """To go on from, within a seed or, without an inner state, before the next."""
        return {**vars(self), "inner": None if inner is None else inner()}


def _seeds(
    problem: SliceProblem,
    method: Parameters,
    seed: int,
    seeds: int,
    priors: Folders,
    state: State | None,
    warm_start: WarmStart | None,
) -> Iterates:
    if seeds == 1:
        yield from reconstruct(problem, method, seed=seed, priors=priors, state=state, warm_start=warm_start)
        return
    seen, inner = _begun(problem, state)
    for number in range(seen.done, seeds):
        for it in reconstruct(problem, method, seed=seed + number, priors=priors, state=inner, warm_start=warm_start):
            if it.step < it.steps:
                image, resume = seen.beside(it), None if it.state is None else partial(seen.state, it.state)
                step, steps = number * it.steps + it.step, seeds * it.steps
                yield it._replace(step=step, steps=steps, image=image, state=resume, deviation=seen.deviation)
        seen, inner = seen.with_(it, problem.brightness(it.image)), None
        it = it._replace(image=seen.mean, deviation=seen.deviation, step=seen.done * it.steps, steps=seeds * it.steps)
        if seen.done < seeds:
            yield it._replace(state=partial(seen.state, None), prior_check=None)
    prior_check = PriorCheck.combine([PriorCheck.from_stored(each) for each in seen.checks]) if seen.checks else None
    residual = math.fsum(seen.residuals) / len(seen.residuals) if seen.residuals else None
    yield it._replace(state=None, prior_check=prior_check, validation_residual=residual)


def _begun(problem: SliceProblem, state: State | None) -> tuple[Seen, State | None]:
    """What is done already, and where the running seed is."""
    device = problem.measurements.device
    if state is None:
        zero = torch.zeros(1, *problem.operator.image_shape, device=device)
        return Seen(0, zero, zero[:, :1], zero[:, :1], [], []), None
    kept: dict[str, Any] = {name: part.to(device) if isinstance(part, Tensor) else part for name, part in state.items()}
    inner = kept.pop("inner")
    return Seen(**kept), inner

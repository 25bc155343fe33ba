"""Early stopping of iterative methods by held-out measurements: the best iterate is taken, and the run ends after it.

The method runs without the held-out measurements first; with `refit` it then runs on all, up to the iterate that was
best (Yaman et al. 2022).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from udig_recon.core.inputs import Implementation, Inputs
from udig_recon.core.iterates import UNSET, Iterate, Iterates, Stage, State, restore_generator, run_stages
from udig_recon.core.parameters import EarlyStoppingParameters, HoldoutParameters
from udig_recon.core.selection.holdout import train_mask, validation_part

VALIDATIONS = 100
"""Iterates of a run that are validated, evenly spread; all where they are fewer."""
MIN_GAIN = 0.1
"""Share by which the squared residual must fall for patience to begin anew; less is not worth the time."""
UNINFORMATIVE = 1e-3
"""Share of the held-out measurements below which an image predicts none of them, as zero-filled k-space of one coil.

Its residual there is 1 by construction."""
EXPLAINED_DISCREPANCY = 1.0
"""Candidates count from this discrepancy down: above it a method still learns from the data that it has."""


class HoldoutScore(NamedTuple):
    """Misfit of an image with the measurements."""

    residual: float  # |A x - y| / |y| on the held-out measurements
    discrepancy: float  # |A x - y| over the noise's, on the training part
    informative: bool  # whether the image predicts any of the held-out measurements

    @property
    def validation_residual(self) -> float | None:
        """The residual, where it is informative."""
        return self.residual if self.informative else None


class HoldoutValidation:
    """Scores images by the measurements that are not in a training mask; `training` has those that are."""

    def __init__(self, inputs: Inputs, train: Tensor) -> None:
        self._A, self._y = inputs.A.unweighted(inputs.y)
        self._train = train
        self.training = inputs.restrict(train)
        self._norm = float(validation_part(self._A, self._y, train).norm()) + torch.finfo(torch.float32).tiny
        part, y = self.training.A.unweighted(self.training.y)
        self._noise = part.noise_norm(y)

    def score(self, image: Tensor) -> HoldoutScore:
        """Residual and discrepancy of an image (1, C, H, W)."""
        with torch.no_grad():
            predicted = self._A.forward(image)
            misfit = (predicted - self._y).abs().square()
        held_out = float(validation_part(self._A, misfit, self._train).sum())
        training = max(float(misfit.sum()) - held_out, 0.0)
        return HoldoutScore(
            math.sqrt(held_out) / self._norm,
            math.sqrt(training) / self._noise if self._noise > 0 else math.inf,
            float(validation_part(self._A, predicted, self._train).norm()) > UNINFORMATIVE * self._norm,
        )


@dataclass
class EarlyStopping:
    """The best iterate of a run so far, and the reference for patience."""

    validation_residual: float | None = None  # of the iterate validated last, where informative
    explained: bool = False  # whether noise has explained the misfit with the training part
    image: Tensor = UNSET  # the best iterate
    loss: float = math.nan
    step: int = 0
    residual: float = math.inf
    informative: bool = True
    reference_error: float = math.inf  # squared residual that patience began with
    reference_step: int = 0

    def update(self, iterate: Iterate, score: HoldoutScore, p: EarlyStoppingParameters) -> bool:
        """Compare an iterate with the best one; returns whether the run is to stop.

        Candidates before noise explains the misfit are dropped once it does.
        """
        explained = self.explained or score.discrepancy <= EXPLAINED_DISCREPANCY
        is_first = self.image.numel() == 0 or explained != self.explained
        self.explained = explained
        if is_first or score.residual < self.residual:
            self.image, self.loss, self.step = iterate.image, float(iterate.loss), iterate.step
            self.residual, self.informative = score.residual, score.informative
        if is_first or score.residual**2 < (1 - MIN_GAIN) * self.reference_error:
            self.reference_error, self.reference_step = score.residual**2, iterate.step
        patience_exhausted = iterate.step - self.reference_step >= p.patience * iterate.steps
        # A method that puts the data into the image, as score_mri does, has no misfit at all; that alone ends no run.
        fits_noise = 0 < p.discrepancy >= score.discrepancy
        return fits_noise or (explained and patience_exhausted)

    def best(self, steps: int) -> Iterate:
        """The best iterate as the last one of a run."""
        return Iterate(steps, steps, self.image, self.loss, validation_residual=self.best_residual)

    @property
    def best_residual(self) -> float | None:
        """Validation residual of the best iterate, where informative."""
        return self.residual if self.informative else None


def stop_early(
    method: Implementation, inputs: Inputs, p: EarlyStoppingParameters, rng: Generator, state: State | None
) -> Iterates:
    """Iterates of a method without the held-out measurements, until the best one is found; it is the last iterate.

    Candidates count from `min_progress` on. The run ends as `patience` and `discrepancy` say. With `refit` the method
    runs again, on all measurements and with the same random numbers, up to the best iterate's step. Where nothing is
    held out, the iterates are the method's own.
    """
    train = train_mask(inputs.A, p, rng)  # the same in a resumed run, whose seed is the same
    if train is None:
        return method(inputs, p, rng, state)
    validation, stopping, beginning = HoldoutValidation(inputs, train), EarlyStopping(), rng.get_state()

    def search(inner: State | None) -> Iterates:
        for iterate in method(validation.training, p, rng, inner):
            stop = iterate.step == iterate.steps
            if stop or iterate.step % max(1, iterate.steps // VALIDATIONS) == 0:
                score = validation.score(iterate.image)
                stopping.validation_residual = score.validation_residual
                if stop or iterate.step >= p.min_progress * iterate.steps:
                    stop = stopping.update(iterate, score, p) or stop
            if stop:
                break
            yield iterate._replace(validation_residual=stopping.validation_residual)
        if not p.refit:
            yield stopping.best(iterate.steps)

    def refit(inner: State | None) -> Iterates:
        restore_generator(rng, beginning)
        for iterate in method(inputs, p, rng, inner):
            if iterate.step >= stopping.step:
                break
            yield iterate
        yield Iterate(
            iterate.steps,
            iterate.steps,
            iterate.image,
            iterate.loss,
            validation_residual=stopping.best_residual,
        )

    stages = [Stage(search), Stage(refit)] if p.refit else [Stage(search)]
    return run_stages(stages, stopping, state, inputs.y.device)


def validate_direct(method: Implementation, inputs: Inputs, p: HoldoutParameters, rng: Generator) -> Iterates:
    """The image of a method without iterations, with the validation residual of one of the training part."""
    train = train_mask(inputs.A, p, rng)
    if train is None:
        yield from method(inputs, p, rng, None)
        return
    validation = HoldoutValidation(inputs, train)
    *_, last = method(inputs, p, rng, None)
    *_, trained = method(validation.training, p, rng, None)
    score = validation.score(trained.image)
    yield last._replace(validation_residual=score.validation_residual)

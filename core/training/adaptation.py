"""Adaptation of a prior to undersampled scans: it is tuned on the images that it makes of them itself.

This is a round of expectation maximisation for a prior whose training images nobody has (Rozet et al. 2024, learning
diffusion priors from observations), with a reconstruction of each slice in place of posterior samples. No reference is
used. A share of each slice's measurements is left out of everything, and judges whether the tuned prior is better.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.acquisition import Modality
from udig_recon.core.algorithms.tv import total_variation
from udig_recon.core.algorithms.udig_dip import udig_dip
from udig_recon.core.algorithms.udig_dip_guarded import build_network
from udig_recon.core.inputs import Inputs
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.priors.architectures import EDMNetwork
from udig_recon.core.priors.edm import load_edm
from udig_recon.core.problem import SliceProblem, is_empty
from udig_recon.core.selection.holdout import validation_part
from udig_recon.core.training.augmentation import batch
from udig_recon.core.training.dataset import TrainingImage
from udig_recon.core.training.state import Training, step_generator

SHARE_LEFT_OUT = 0.1
LEAST_GAIN = 0.005
"""A tuned prior is taken where it lowers the squared error on the measurements left out by this share or more."""
PURIFICATIONS = 25
TV_WEIGHT, TV_ITERATIONS = 1e-3, 30
WARM_UP_SHARE = 0.1
"""Share of the steps over which the learning rate rises."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings of the tuning."""

    steps: int = 200
    batch: int = 4
    patch: int = 96
    learning_rate: float = 3e-4
    decay: float = 0.99
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TrainingSlice:
    """A slice whose measurements are split into those to reconstruct from and those left out, in the prior's unit."""

    problem: SliceProblem
    inputs: Inputs
    """of all measurements"""
    train: Tensor
    """mask of the measurements to reconstruct from"""
    start: Tensor
    """(1, C, H, W) total variation of these"""
    scale: float
    """what 1 is in the prior's unit"""

    @classmethod
    def split(cls, problem: SliceProblem, rng: Generator) -> Self | None:
        """Split a slice by the draws of `rng`. None where it is empty or nothing can be left out of it."""
        A, y = problem.operator, problem.measurements
        if is_empty(y):
            return None
        train = A.partition(SHARE_LEFT_OUT, "lines", rng)
        if not A.can_hold_out(train):
            return None
        scale = intensity_scale(Inputs(y, A).restrict(train).cg_estimate())
        inputs = Inputs(y / scale, A)
        training = inputs.restrict(train)
        iterates = total_variation(training.y, training.A, TV_WEIGHT, rng, None)
        start: Tensor = list(islice(iterates, TV_ITERATIONS))[-1]["image"]
        return cls(problem, inputs, train, start, scale)

    def reconstruct(self, prior: nn.Module, seed: int) -> Tensor:
        """Image (1, C, H, W) by purification with a prior, without the measurements left out."""
        training = self.inputs.restrict(self.train)
        rng = torch.Generator(self.train.device).manual_seed(seed)
        p = UDiGDIP(outer_iterations=PURIFICATIONS, holdout_share=0.0, samples=1).complete(self.problem.modality)
        unused = build_network(training, p, rng)
        *_, last = udig_dip(training.y, training.A, self.start, unused, prior, p, rng)
        return last.image

    def squared_error(self, image: Tensor) -> float:
        """|A x - y|^2 of an image (1, C, H, W) over the measurements left out."""
        with torch.no_grad():
            misfit = validation_part(self.inputs.A, self.inputs.A.forward(image) - self.inputs.y, self.train)
        return float(misfit.abs().square().sum())

    @property
    def energy(self) -> float:
        """|y|^2 over the measurements left out."""
        return float(validation_part(self.inputs.A, self.inputs.y, self.train).abs().square().sum())

    def training_image(self, image: Tensor, weight: float) -> TrainingImage:
        """The magnitude of an image as one to train on."""
        plane = torch.from_numpy(self.problem.magnitude(image))
        return TrainingImage(plane[None].half(), weight, "")


class Adaptation(NamedTuple):
    """A tuned prior, and relative residuals |A x - y| / |y| on the measurements left out, without and with tuning."""

    weights: dict[str, Tensor]
    before: float
    after: float

    @property
    def is_better(self) -> bool:
        """Whether the tuned prior tells the measurements left out clearly better."""
        return self.after**2 <= (1 - LEAST_GAIN) * self.before**2


OnProgress = Callable[[str, int, int], None]
"""Takes what is done, how many of it are done, and how many there are."""


def adapt_prior(
    prior: nn.Module,
    network: EDMNetwork,
    slices: Sequence[TrainingSlice],
    modality: Modality,
    tuning: Tuning,
    on_progress: OnProgress = lambda *_: None,
) -> Adaptation:
    """Tune a prior, whose network is described, on its reconstructions of slices; the given prior stays as it is.

    Same slices, settings and device: same bits, with one CPU thread.
    """
    device = slices[0].train.device
    images, before = _reconstruct_all(slices, prior, tuning.seed, "reconstructing", on_progress)
    training_images = [each.training_image(x, 1 / len(slices)) for each, x in zip(slices, images, strict=True)]
    training = Training(
        network.channels,
        tuning.steps,
        tuning.learning_rate,
        tuning.decay,
        widths=network.widths,
        blocks=network.blocks,
        device=device,
        warm_up=max(1, round(WARM_UP_SHARE * tuning.steps)),
    )
    training.start_from(prior)
    while training.step < tuning.steps:
        rng = step_generator(tuning.seed, training.step)
        training.update(batch(training_images, modality, tuning.patch, tuning.batch, rng), rng)
        on_progress("tuning", training.step, tuning.steps)
    weights = training.weights()
    tuned = load_edm(network, {name: value.float() for name, value in weights.items()})
    tuned = tuned.requires_grad_(False).eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    _, after = _reconstruct_all(slices, tuned, tuning.seed, "judging", on_progress)
    return Adaptation(weights, before, after)


def _reconstruct_all(
    slices: Sequence[TrainingSlice], prior: nn.Module, seed: int, label: str, on_progress: OnProgress
) -> tuple[list[Tensor], float]:
    """The images, and their relative residual on the measurements left out."""
    images: list[Tensor] = []
    for each in slices:
        images.append(each.reconstruct(prior, seed))
        on_progress(label, len(images), len(slices))
    error = sum(each.squared_error(image) for each, image in zip(slices, images, strict=True))
    energy = sum(each.energy for each in slices)
    return images, math.sqrt(error / energy) if energy > 0 else 0.0

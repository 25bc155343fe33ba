"""Early-stopped DIP: the output that varies least is taken, before noise is fitted (ES-EMV of Wang et al. 2023)."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from udig_recon.core.algorithms.dip import dip
from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import UNSET, Iterate, Iterates, Stage, State, run_stages
from udig_recon.core.parameters import ESDIP
from udig_recon.core.selection.output_variance import RunningMoments


@dataclass
class LeastVariance:
    """The output of least running variance so far, and for how many updates it has been."""

    mean: Tensor = UNSET
    variance: Tensor = UNSET
    least: float = math.inf
    updates_since: int = 0
    image: Tensor = UNSET

    def update(self, image: Tensor, step: int, p: ESDIP) -> None:
        """Compare the output of an update. The best one is the newest while the variance warms up."""
        if step == 1:
            self.mean, self.variance = RunningMoments.of_first(image, torch.float64)
        self.mean, self.variance = RunningMoments(self.mean, self.variance).with_image(image, p.memory)
        variance = float(self.variance)
        if step <= p.warm_up:
            self.image = image
        elif variance < self.least:
            self.least, self.updates_since, self.image = variance, 0, image
        else:
            self.updates_since += 1


def es_dip(inputs: Inputs, p: ESDIP, rng: Generator, state: State | None = None) -> Iterates:
    """DIP that ends when its running variance has had no new minimum for `variance_patience` updates.

    The variance is that of `selection.output_variance`; the image is that of the least variance.
    """
    least = LeastVariance()

    def run(inner: State | None) -> Iterates:
        for iterate in dip(inputs, p, rng, inner):
            least.update(iterate.image, iterate.step, p)
            if least.updates_since >= p.variance_patience and iterate.step < iterate.steps:
                yield Iterate(iterate.steps, iterate.steps, least.image, iterate.loss)
                return
            yield iterate._replace(image=least.image)

    return run_stages([Stage(run)], least, state, inputs.y.device)

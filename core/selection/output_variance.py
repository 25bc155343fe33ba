"""Running variance of a run's images (ES-EMV of Wang et al. 2023): high while a method still learns or fits noise.

With the image x: d = x - m, m <- m + alpha d, V <- (1 - alpha) (V + alpha |d|^2 / n).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from udig_recon.core.iterates import Iterates, State, to_device

ALPHA = 0.1
"""Weight of the newest image in mean and variance."""
MOMENTS = "moments"
"""Key of mean and variance in the state of an iterate."""
TINY = torch.finfo(torch.float32).tiny


class RunningMoments(NamedTuple):
    """Running mean (1, C, H, W) and variance, a scalar tensor, of images."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of_first(cls, image: Tensor, dtype: torch.dtype = torch.float32) -> "RunningMoments":
        """Moments of one image, whose variance is 0 and of that type."""
        return cls(image, torch.zeros((), dtype=dtype, device=image.device))

    def with_image(self, image: Tensor, alpha: float) -> "RunningMoments":
        """Moments with one more image."""
        difference = image - self.mean
        energy = difference.square().mean().to(self.variance.dtype)
        return RunningMoments(self.mean + alpha * difference, (1 - alpha) * (self.variance + alpha * energy))


def with_variance(iterates: Iterates, state: State | None) -> Iterates:
    """The iterates, each with the running variance of the images over the mean square of the newest.

    The moments are part of the state. An iterate without a state, such as the best one at the end of a
    run, is no step of the run: it gets the variance of the last one that has a state.
    """
    moments: RunningMoments | None = None
    for iterate in iterates:
        inner, image = iterate.state, iterate.image
        if moments is None and state is not None and MOMENTS in state:
            moments = RunningMoments(*to_device(state[MOMENTS], image.device))
        if inner is not None:
            moments = (moments or RunningMoments.of_first(image)).with_image(image, ALPHA)
            iterate = iterate._replace(state=_with_moments(inner, moments))
        if moments is not None:
            energy = image.square().mean().clamp(min=TINY)
            iterate = iterate._replace(iterate_variance=moments.variance / energy)
        yield iterate


def _with_moments(inner: Callable[[], State], moments: RunningMoments) -> Callable[[], State]:
    return lambda: {**inner(), MOMENTS: list(moments)}

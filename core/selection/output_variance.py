"""How much the images of a run still vary, told without any reference: high while it learns or fits noise."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from udig_recon.core.iterates import Iterates, State

MEMORY = 0.1
"""Weight alpha of the newest image in mean and variance."""
SEEN = "seen"
"""Under which mean and variance are kept in the state of an iterate."""
TINY = torch.finfo(torch.float32).tiny


class Seen(NamedTuple):
    """Running mean (1, C, H, W) and variance, a scalar tensor, of images."""

    mean: Tensor
    variance: Tensor

    def and_of(self, image: Tensor) -> "Seen":
        """With one more image."""
        away = image - self.mean
        return Seen(self.mean + MEMORY * away, (1 - MEMORY) * (self.variance + MEMORY * away.square().mean()))


def with_variance(iterates: Iterates, state: State | None) -> Iterates:
    """The iterates, each with the running variance of the images over the mean square of the newest.

    ES-EMV of Wang et al. (2023): d = x - m, m <- m + alpha d, V <- (1 - alpha) (V + alpha |d|^2 / n). Images that
    cannot be gone on from, as one chosen at the end of a run among those before it, are told the variance of the last
    that can; a run that goes on from a state goes on with its variance.
    """
    seen = None if state is None or SEEN not in state else Seen(*state[SEEN])
    for it in iterates:
        if (inner := it.state) is not None:
            begun = Seen(it.image, torch.zeros((), device=it.image.device)) if seen is None else seen
            seen = Seen(*(part.to(it.image.device) for part in begun)).and_of(it.image)
            it = it._replace(state=_with(inner, seen))
        energy = it.image.square().mean()
        yield it if seen is None else it._replace(iterate_variance=seen.variance / energy.clamp(min=TINY))


def _with(inner: Callable[[], State], seen: Seen) -> Callable[[], State]:
    return lambda: {**inner(), SEEN: list(seen)}

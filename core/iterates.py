"""An algorithm is a generator of iterates; what a callback would do is a consumer of the stream."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Generator, Tensor

from udig_recon.core.prior_check import PriorCheck

State = dict[str, Any]
"""Everything an algorithm needs to go on as if never stopped: tensors, generator state, counters."""


class Iterate(NamedTuple):
    """One point of a reconstruction's path. The last iterate is the reconstruction; leaving early is always allowed."""

    step: int  # outer iterations done, 0 .. steps
    steps: int
    image: Tensor  # (1, C, H, W) float32, detached, on the device
    loss: Tensor  # scalar, on the device
    state: Callable[[], State] | None = None  # makes the state to resume from; None: not a point to resume from
    prior_check: PriorCheck | None = None  # of the last iterate, where it was judged
    validation_residual: float | None = None  # |A x - y| / |y| on measurements that the run left out, where it did
    iterate_variance: Tensor | None = None  # of the images so far, over their mean square, a scalar on the device
    prior_free_baseline: Tensor | None = None  # (1, C, H, W), of the last iterate: what all data give without the prior
    deviation: Tensor | None = None  # (1, 1, H, W), from two seeds on: of magnitude or attenuation between them


Iterates = Iterator[Iterate]


def restore(rng: Generator, kept: Tensor) -> None:
    """Have a generator go on from `rng.get_state()` of a run before, wherever that tensor was loaded to."""
    rng.set_state(kept.cpu())  # of a generator on any device, a tensor on the CPU

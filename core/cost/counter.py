"""What a run costs, counted while it goes on."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from udig_recon.core.iterates import Iterate


class Meter:
    """What a run has cost so far: seconds, evaluations of the prior (an image each), steps of an optimiser."""

    def __init__(self, device: torch.device) -> None:
        self.seconds, self.prior_calls, self.updates = 0.0, 0, 0
        self._device = device
        # Of one thread the processor's time is taken, so that other work on the machine does not count.
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self._clock = time.process_time if alone else time.perf_counter

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time."""
        began = self._clock()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += self._clock() - began

    def timed(self, iterates: Iterable[Iterate]) -> Iterator[Iterate]:
        """The iterates; the time that it takes to make them counts, not that of their use."""
        source = iter(iterates)
        while True:
            with self.running():
                iterate = next(source, None)
            if iterate is None:
                return
            yield iterate

    @contextmanager
    def counting(self, prior: nn.Module | None) -> Iterator[None]:
        """Count what is evaluated of the prior, and every step of an optimiser."""

        def evaluated(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.prior_calls += len(inputs[0])

        def updated(*_: Any) -> None:
            self.updates += 1

        handles = [register_optimizer_step_post_hook(updated)]
        if prior is not None:
            handles.append(prior.register_forward_pre_hook(evaluated))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def counts(self) -> dict[str, float]:
        """All three by their names."""
        return {"seconds": self.seconds, "prior_calls": self.prior_calls, "updates": self.updates}

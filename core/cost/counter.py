"""Cost of a run, counted while it goes on: seconds, prior evaluations and optimizer steps."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from udig_recon.core.iterates import Iterate


class CostCounter:
    """Seconds, evaluations of the prior (one for each image) and optimizer steps of a run so far."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self.prior_evaluations = 0
        self.optimizer_steps = 0
        self._device = device
        # With a single CPU thread the process's CPU time counts, so that other work on the machine does not.
        single_threaded = device.type == "cpu" and torch.get_num_threads() == 1
        self._clock = time.process_time if single_threaded else time.perf_counter

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Add the time of this block to `seconds`, with the device's unfinished work."""
        began = self._clock()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds += self._clock() - began

    def measure_time(self, iterates: Iterable[Iterate]) -> Iterator[Iterate]:
        """The iterates; the time that it takes to compute them counts, the time that a consumer takes does not."""
        source = iter(iterates)
        while True:
            with self.timing():
                iterate = next(source, None)
            if iterate is None:
                return
            yield iterate

    @contextmanager
    def counting(self, prior: nn.Module | None) -> Iterator[None]:
        """Count the prior's evaluations and every optimizer step of the process within this block."""

        def count_evaluations(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.prior_evaluations += len(inputs[0])

        def count_step(*_: Any) -> None:
            self.optimizer_steps += 1

        handles = [register_optimizer_step_post_hook(count_step)]
        if prior is not None:
            handles.append(prior.register_forward_pre_hook(count_evaluations))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def counts(self) -> dict[str, int]:
        """Prior evaluations and optimizer steps, by the names of their metrics."""
        return {"prior_evaluations": self.prior_evaluations, "optimizer_steps": self.optimizer_steps}

    def resume(self, counts: Mapping[str, int], seconds: float) -> None:
        """Continue from what an earlier part of the same run has cost."""
        self.seconds = seconds
        self.prior_evaluations = counts["prior_evaluations"]
        self.optimizer_steps = counts["optimizer_steps"]

"""Iterates of a reconstruction, the states that a run resumes from, and runs made of several stages.

An algorithm is a generator of iterates. Progress, curves and checkpoints are made by the loop that takes the iterates.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, SupportsFloat, TypeVar

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.operators.base import LinearOperator
from udig_recon.core.prior_check import PriorCheck

State = dict[str, Any]
"""Everything that a run needs to resume with the same bits: tensors, numbers, text, and lists and dicts of them."""


class Iterate(NamedTuple):
    """One point of a run. The last iterate is the reconstruction. A caller may stop after any iterate."""

    step: int  # outer iterations done, 0 .. steps
    steps: int
    image: Tensor  # (1, C, H, W) float32, detached, on the device
    loss: SupportsFloat  # a scalar on the device, or one that is computed when it is asked for
    state: Callable[[], State] | None = None  # makes the state to resume from; None: a run cannot resume here
    prior_check: PriorCheck | None = None  # of the last iterate, where the method checks its prior
    validation_residual: float | None = None  # |A x - y| / |y| on held-out measurements, where the run has any
    iterate_variance: Tensor | None = None  # of the images so far, over their mean square, a scalar on the device
    prior_free_baseline: Tensor | None = None  # (1, C, H, W), of the last iterate, of all data, without the prior
    operator: LinearOperator | None = None  # the model with the coil maps fitted to this image; None: the problem's
    deviation: Tensor | None = None  # (1, 1, H, W), from two seeds on: of magnitude or attenuation between them


Iterates = Iterator[Iterate]


@dataclass(frozen=True, eq=False)
class Misfit:
    """Data misfit |A x - y|^2 of an iterate, times a factor, computed by `float`: few iterates are looked at.

    No later step may change x (B, C, H, W) in place.
    """

    A: LinearOperator
    x: Tensor
    y: Tensor
    factor: float = 1.0

    @classmethod
    def mean(cls, A: LinearOperator, x: Tensor, y: Tensor) -> "Misfit":
        """The mean over all measurements."""
        return cls(A, x, y, 1 / y.numel())

    def __float__(self) -> float:
        return self._value

    @cached_property
    def _value(self) -> float:
        with torch.no_grad():
            return self.factor * float(self.A.misfit(self.x, self.y))


Value = TypeVar("Value")

UNSET = torch.empty(0)
"""A tensor of a carry that no stage has set yet."""


def to_device(value: Value, device: torch.device) -> Value:
    """A value of a state with its tensors on a device: a checkpoint may have been loaded onto another."""
    if isinstance(value, Tensor):
        return value.to(device)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {name: to_device(part, device) for name, part in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [to_device(part, device) for part in value]  # type: ignore[return-value]
    return value


def restore_generator(rng: Generator, state: Tensor) -> None:
    """Set a generator to a state of `rng.get_state()`, whatever device that was loaded onto."""
    rng.set_state(state.cpu())  # a tensor on the CPU, for generators of all devices


def snapshot(**values: Any) -> Callable[[], State]:
    """The state of an iterate, of values that no later step changes in place."""
    return lambda: values


class Resumable:
    """A generator, modules and optimisers that are saved and restored together."""

    def __init__(self, rng: Generator, **parts: nn.Module | torch.optim.Optimizer) -> None:
        self._rng, self._parts = rng, parts

    def restore(self, state: State, device: torch.device) -> State:
        """Set generator, modules and optimisers to a state of `snapshot`; returns its other values, on the device."""
        restore_generator(self._rng, state["rng"])
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        return {
            name: to_device(value, device) for name, value in state.items() if name != "rng" and name not in self._parts
        }

    def snapshot(self, **values: Any) -> Callable[[], State]:
        """Makes the state of all parts as they are when it is called, which is before the next step, and the values."""

        def make() -> State:
            parts = {name: part.state_dict() for name, part in self._parts.items()}
            return {**values, **parts, "rng": self._rng.get_state()}

        return make


@dataclass(frozen=True)
class Stage:
    """One part of a run. `run(state)` gives its iterates, from its beginning or after a state of its own."""

    run: Callable[[State | None], Iterates]
    steps: int | None = None  # what it counts for in the progress; None, of all stages: as many as each iterate says


def run_stages(stages: Sequence[Stage], carry: object, state: State | None, device: torch.device) -> Iterates:
    """Iterates of stages, one after the other, as those of one run on a device.

    `carry` is an object, often a dataclass, whose attributes the stages leave one another; they are saved with the
    state of the running stage. A stage that sets them after its last iterate gives that one no state, so that no run
    resumes there without them.
    """
    first, inner = 0, None
    if state is not None:
        first, inner = state["stage"], state["inner"]
        vars(carry).update(to_device(state["carry"], device))
    for number in range(first, len(stages)):
        for iterate in stages[number].run(inner):
            yield _within(iterate, stages, number, carry)
        inner = None


def _within(iterate: Iterate, stages: Sequence[Stage], number: int, carry: object) -> Iterate:
    """An iterate of a stage as one of the whole run."""
    lengths = [iterate.steps if stage.steps is None else stage.steps for stage in stages]
    step = sum(lengths[:number]) + math.ceil(lengths[number] * iterate.step / iterate.steps)
    inner = iterate.state
    if inner is None:
        return iterate._replace(step=step, steps=sum(lengths))

    def make() -> State:
        return {"stage": number, "inner": inner(), "carry": dict(vars(carry)), "step": step}

    return iterate._replace(step=step, steps=sum(lengths), state=make)

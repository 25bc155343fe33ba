"""Laws of runs that are made of stages, and of states that restore modules, optimisers and generators together."""

import io
from dataclasses import dataclass
from itertools import islice

import pytest
import torch

from udig_recon.core.iterates import Iterate, Iterates, Resumable, Stage, State, run_stages, snapshot

CPU = torch.device("cpu")


@dataclass
class Carry:
    """What the first stage leaves the second."""

    total: float = 0.0


def two_stages(state: State | None = None) -> Iterates:
    """Counts to 4, then 3 times adds the sum of that; the first stage counts for 8 steps of 11."""
    carry = Carry()

    def count(inner: State | None) -> Iterates:
        first = 0 if inner is None else inner["done"]
        for done in range(first + 1, 5):
            is_last = done == 4
            yield Iterate(done, 4, torch.tensor(done), torch.zeros(()), None if is_last else snapshot(done=done))
        carry.total = 10.0

    def add(inner: State | None) -> Iterates:
        done, x = (0, torch.zeros(())) if inner is None else (inner["done"], inner["x"])
        while done < 3:
            done, x = done + 1, x + carry.total
            yield Iterate(done, 3, x, torch.zeros(()), snapshot(done=done, x=x))

    return run_stages([Stage(count, 8), Stage(add, 3)], carry, state, CPU)


def loaded(state: State) -> State:
    """The state as a checkpoint file keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored: State = torch.load(file, weights_only=True)
    return restored


def test_stages_are_one_run_whose_progress_never_falls() -> None:
    assert [(it.step, it.steps) for it in two_stages()] == [(step, 11) for step in (2, 4, 6, 8, 9, 10, 11)]


def test_a_run_resumes_after_every_iterate_with_a_state_as_if_it_had_not_stopped() -> None:
    whole = [(it.step, float(it.image)) for it in two_stages()]
    assert whole[-1] == (11, 30.0)
    for number, iterate in enumerate(two_stages(), 1):
        if iterate.state is not None:
            rest = two_stages(loaded(iterate.state()))
            assert [(it.step, float(it.image)) for it in rest] == whole[number:]


def test_a_stage_that_leaves_its_results_at_its_end_is_no_point_to_resume_from() -> None:
    assert [it.state is not None for it in two_stages()] == [True, True, True, False, True, True, True]


def fitted(state: State | None = None) -> Iterates:
    """Gradient steps with momentum towards random targets."""
    rng = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    optimiser = torch.optim.Adam(model.parameters(), 0.1)
    resumable = Resumable(rng, model=model, optimiser=optimiser)
    first = 0 if state is None else resumable.restore(state, CPU)["step"]
    for step in range(first, 6):
        loss = (model(torch.ones(1, 3)) - torch.randn(1, generator=rng)).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        image = torch.cat([each.detach().flatten() for each in model.parameters()])
        yield Iterate(step + 1, 6, image, loss.detach(), resumable.snapshot(step=step + 1))


@pytest.mark.parametrize("stop", range(1, 6))
def test_modules_optimisers_and_generators_are_restored_to_the_same_bits(stop: int) -> None:
    *_, last = fitted()
    *_, stopped = islice(fitted(), stop)
    assert stopped.state is not None
    *_, resumed = fitted(loaded(stopped.state()))
    assert torch.equal(resumed.image, last.image)

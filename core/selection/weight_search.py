"""Regularisation weight: given, or found by the error on held-out measurements, from the strongest weight on.

min_x |A x - y|^2 / 2 + weight R(x) is solved for each candidate from part of the measurements, then for the best one
from all of them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from torch import Generator, Tensor

from udig_recon.core.iterates import UNSET, Iterate, Iterates, Misfit, Resumable, Stage, State, run_stages
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters.holdout import WEIGHT_SEARCH_SHARE
from udig_recon.core.selection.holdout import validation_error, validation_part

OF_THIS_PROBLEM = "of_this_problem"
"""Entry of a solver's state that holds for its weight and measurements alone; other ones start without it."""
TOLERANCE = 1.02
"""Errors within this factor of the least are as good."""


class Solver(Protocol):
    """Endless states {"image": (1, C, H, W), ...} of min_x |A x - y|^2 / 2 + weight R(x).

    It starts from the state given, which may be of another weight or of other measurements; then it is without the
    entry `OF_THIS_PROBLEM`.
    """

    def __call__(
        self, y: Tensor, A: LinearOperator, weight: float, rng: Generator, state: State | None, /
    ) -> Iterator[State]:
        """States after one iteration, two, ..."""
        ...


@dataclass
class WeightSearch:
    """A search over weights, strongest first, each solved from where the one before it ended."""

    weights: list[float]  # a falling geometric series
    train: Tensor  # mask of the measurements that candidates are solved from
    errors: list[float] = field(default_factory=list)  # of each weight on the held-out measurements
    image: Tensor = UNSET  # (1, C, H, W) of least error so far
    weight: float = 0.0  # the one that is solved, or was last
    point: State | None = None  # the solver's state after the last candidate, where the final solution starts


def draw_search(
    y: Tensor, A: LinearOperator, weights: Sequence[float], rng: Generator, state: State | None
) -> WeightSearch:
    """A search with a training mask drawn at random. A state that the search is restored from has the mask."""
    train = A.partition(WEIGHT_SEARCH_SHARE, "lines", rng) if state is None else state["carry"]["train"].to(y.device)
    return WeightSearch(list(weights), train)


def solve_regularised(
    solver: Solver,
    y: Tensor,
    A: LinearOperator,
    search: WeightSearch,
    iterations: tuple[int, int],
    rng: Generator,
    state: State | None,
) -> Iterates:
    """Iterates with each weight on the training part, then with the best on all measurements.

    `iterations` are those with each candidate and those with the best. The results are left in `search`.
    """
    trial, final = iterations
    stages = [
        Stage(lambda inner: search_weight(solver, y, A, search, trial, rng, inner), len(search.weights) * trial),
        Stage(lambda inner: solve_final(solver, y, A, search, final, rng, inner), final),
    ]
    return run_stages(stages, search, state, y.device)


def solve_with_weight(
    solver: Solver,
    y: Tensor,
    A: LinearOperator,
    weight: float,
    iterations: tuple[int, int],
    rng: Generator,
    state: State | None,
) -> Iterates:
    """Iterates with a given weight on all measurements, from the solver's own start.

    Before them, where measurements can be held out, those on the training part, for the validation residual alone.
    """
    search = draw_search(y, A, [weight], rng, state)
    trial, final = iterations
    search.weight = weight

    def validate(inner: State | None) -> Iterates:
        yield from search_weight(solver, y, A, search, trial, rng, inner)

    def solve(inner: State | None) -> Iterates:
        search.point = None
        yield from solve_final(solver, y, A, search, final, rng, inner)

    stages = [Stage(validate, trial)] if A.can_hold_out(search.train) else []
    return run_stages([*stages, Stage(solve, final)], search, state, y.device)


def search_weight(
    solver: Solver,
    y: Tensor,
    A: LinearOperator,
    search: WeightSearch,
    iterations: int,
    rng: Generator,
    state: State | None = None,
) -> Iterates:
    """So many iterations with each weight on the training part; then its error on the held-out measurements."""
    resumable = Resumable(rng)
    done, start = 0, None
    if state is not None:
        values = resumable.restore(state, y.device)
        done, start = values["done"], values["point"]
    steps = len(search.weights) * iterations
    operator = A.restrict(search.train)
    while done < steps:
        search.weight = search.weights[done // iterations]
        remaining = iterations - done % iterations
        start = _of_another_problem(start) if remaining == iterations else start
        for point in islice(solver(y, operator, search.weight, rng, start), remaining):
            start, done = point, done + 1
            image = point["image"] * A.support
            if done % iterations == 0:
                search.errors = [*search.errors, float(validation_error(A, y, search.train, image))]
                if search.errors[-1] == min(search.errors):
                    search.image = image
            if done == steps:
                search.point = point
            yield Iterate(done, steps, image, Misfit.mean(A, image, y), resumable.snapshot(done=done, point=point))


def solve_final(
    solver: Solver,
    y: Tensor,
    A: LinearOperator,
    search: WeightSearch,
    iterations: int,
    rng: Generator,
    state: State | None = None,
) -> Iterates:
    """So many iterations with the best weight on all measurements, from where the search ended."""
    resumable = Resumable(rng)
    done, start, search.point = 0, _of_another_problem(search.point), None
    if state is not None:
        values = resumable.restore(state, y.device)
        done, start = values["done"], values["point"]
    if search.errors:
        search.weight = best_weight(search.weights, search.errors)
    residual = validation_residual(y, A, search)
    for point in islice(solver(y, A, search.weight, rng, start), iterations - done):
        done += 1
        image = point["image"] * A.support
        loss = Misfit.mean(A, image, y)
        yield Iterate(
            done,
            iterations,
            image,
            loss,
            resumable.snapshot(done=done, point=point),
            validation_residual=residual,
        )


def _of_another_problem(state: State | None) -> State | None:
    """A solver's state as one of another weight or of other measurements."""
    return None if state is None else {name: value for name, value in state.items() if name != OF_THIS_PROBLEM}


def validation_residual(y: Tensor, A: LinearOperator, search: WeightSearch) -> float | None:
    """Least |A x - y| / |y| of the candidates on the held-out measurements; None: there are none, or all are zero."""
    if not search.errors:
        return None
    energy = float(validation_part(A, y, search.train).abs().square().mean())
    return math.sqrt(min(search.errors) / energy) if energy > 0 else None


def best_weight(weights: Sequence[float], errors: Sequence[float]) -> float:
    """The weight of least error by a parabola in log(weight) through it and its neighbours; `weights` fall.

    Where a neighbour is as good the curve is flat to within its scatter, as it often is towards weak weights. Then
    it is the strongest weight that is as good, interpolated likewise.
    """
    least, limit = errors.index(min(errors)), TOLERANCE * min(errors)
    if 0 < least < len(errors) - 1 and min(errors[least - 1], errors[least + 1]) > limit:
        before, after = (errors[least + side] - errors[least] for side in (-1, 1))
        ratio = weights[least - 1] / weights[least]
        return weights[least] * math.pow(ratio, (after - before) / (after + before) / 2)
    first = next(index for index, error in enumerate(errors) if error <= limit)
    if first == 0:
        return weights[0]
    share = (limit - errors[first]) / (errors[first - 1] - errors[first])
    return weights[first] * math.pow(weights[first - 1] / weights[first], share)

"""Regularised reconstructions share this: their weight is given, or found by measurements held out of the scan."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import torch
from torch import Generator, Tensor

from udig_recon.core.iterates import Iterate, Iterates, State, restore
from udig_recon.core.operators import LinearOperator
from udig_recon.core.selection.holdout import validation_error, validation_part

SHARE = 0.1
"""of the lines, points or views is held out."""

TOLERANCE = 1.02
"""Errors within this factor of the least are as good."""


class Solver(Protocol):
    """Endless states {"image": (1, C, H, W), ...} of min_x |A x - y|^2 / 2 + weight R(x).

    It starts from the state given, which may be of another weight or of other measurements.
    """

    def __call__(
        self, y: Tensor, A: LinearOperator, weight: float, rng: Generator, state: State | None, /
    ) -> Iterator[State]:
        """States after one iteration, two, ..."""
        ...


def regularised(
    solver: Solver,
    y: Tensor,
    A: LinearOperator,
    weights: Sequence[float],
    iterations: tuple[int, int],
    rng: Generator,
    state: State | None,
    kept: Tensor | None = None,
) -> Iterates:
    """Iterates with the best of `weights`, strongest first; `iterations`: with each one tried, and with the best.

    Weights form a geometric series; each starts where the one before it ended, and is judged by its misfit with
    measurements that it has not seen: those not in `kept`, or a share of its own choice. A single weight is judged too,
    where anything can be left out; unless `kept` is given, the image is then made as if it had not been.
    """
    afresh = kept is None and len(weights) == 1
    if kept is None:
        kept = A.partition(SHARE, "lines", rng) if state is None else state["kept"].to(y.device)
    tries = () if afresh and not A.can_hold_out(kept) else weights
    trial, final = iterations
    steps = len(tries) * trial + final
    energy = float(validation_part(A, y, kept).abs().square().mean())
    errors: list[float] = []
    step, best = 0, torch.zeros(())
    last: State | None = None
    if state is not None:
        best, errors, step = state["best"].to(y.device), list(state["errors"]), state["step"]
        restore(rng, state["rng"])
        last = {name: part.to(y.device) for name, part in state["solver"].items()}
    seen = A.restricted(kept)
    for stage in range(len(errors), len(tries) + 1):
        trying = stage < len(tries)
        weight = tries[stage] if trying else best_weight(tries, errors) if tries else weights[0]
        end = (stage + 1) * trial if trying else steps
        last = None if afresh and step == len(tries) * trial else last
        residual = math.sqrt(min(errors) / energy) if errors and energy > 0 else None
        for current in islice(solver(y, seen if trying else A, weight, rng, last), end - step):
            last, step = current, step + 1
            x = current["image"] * A.support
            if trying and step == end:
                errors.append(float(validation_error(A, y, kept, x)))
                best = x if errors[-1] == min(errors) else best
            point = {
                "kept": kept,
                "errors": list(errors),
                "best": best,
                "step": step,
                "weight": weight,
                "rng": rng.get_state(),
            }
            it = Iterate(step, steps, x, A.misfit(x, y) / y.numel(), {**point, "solver": current}.copy)
            yield it if trying else it._replace(validation_residual=residual)


def best_weight(weights: Sequence[float], errors: Sequence[float]) -> float:
    """The weight of least error by a parabola in log(weight) through it and its neighbours; `weights` fall.

    Where a neighbour is as good the curve is flat to within its scatter, as it often is towards weak weights: there it
    is the strongest weight that is as good, interpolated likewise.
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

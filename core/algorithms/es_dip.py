"""Early-stopped DIP: the output that varies least is taken, before noise is fitted."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.algorithms.dip import dip
from udig_recon.core.algorithms.fitting import held_in
from udig_recon.core.iterates import Iterate, Iterates, State
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters import ESDIP


def es_dip(
    y: Tensor,
    A: LinearOperator,
    z: Tensor,
    network: nn.Module,
    p: ESDIP,
    rng: Generator,
    state: State | None = None,
) -> Iterates:
    """DIP that ends when its moving variance has had no new minimum for `variance_patience` updates (ES-EMV, Wang).

    With the image x: d = x - m, m <- m + alpha d, V <- (1 - alpha) (V + alpha |d|^2). The image is that of the least V.
    """
    watch: dict[str, Any] = {"mean": torch.zeros(()), "variance": 0.0, "least": float("inf"), "since": 0}
    if state is not None:
        watch = {name: part.to(y.device) if isinstance(part, Tensor) else part for name, part in state["watch"].items()}
    for it in dip(y, A, z, network, p, rng, None if state is None else state["inner"]):
        watch = _watched(watch, it.image, it.step, p)
        best = watch["best"]
        if watch["since"] >= p.variance_patience and it.step < it.steps:
            yield Iterate(it.steps, it.steps, best, it.loss)
            return
        yield it._replace(image=best, state=held_in(it, it.step, {"watch": watch}))


def _watched(watch: dict[str, Any], image: Tensor, step: int, p: ESDIP) -> dict[str, Any]:
    """Mean and variance with one more image; before anything is judged the best image is the newest."""
    mean = image if step == 1 else watch["mean"]
    away = image - mean
    variance = (1 - p.memory) * (watch["variance"] + p.memory * float(away.square().mean()))
    moved = {"mean": mean + p.memory * away, "variance": variance}
    if step <= p.warm_up:
        return {**watch, **moved, "best": image}
    if variance < watch["least"]:
        return {**moved, "least": variance, "since": 0, "best": image}
    return {**watch, **moved, "since": watch["since"] + 1}

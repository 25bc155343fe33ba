"""Measurements left out of a reconstruction, to judge it by what it says of them.

Yaman et al. (2022), zero-shot self-supervised learning, hold out k-space samples; here whole lines or views.
"""

import torch
from torch import Generator, Tensor

from core.acquisition import Modality
from core.operators import LinearOperator
from core.operators.fourier import centre
from core.sensitivity import full_centre


def split(A: LinearOperator, share: float, rng: Generator) -> Tensor:
    """Which measurements to keep, bool in the shape of `A.measured`; about `share` of the others is left out.

    Views are left out in CT. In MRI, phase-encoding lines where the mask consists of lines, else single points, never
    in the calibration centre. One of each run of like measurements is drawn, sorted by angle or by distance from the
    centre, so that all frequencies and directions are judged.
    """
    groups = _groups(A)
    count = int(groups.max()) + 1
    wanted = min(count, max(1, round(share * count)))
    kept = torch.ones(count, dtype=torch.bool)
    places = torch.rand(wanted, generator=rng, device=rng.device).cpu()
    starts = torch.linspace(0, count, wanted + 1)
    drawn = (starts[:-1] + places * (starts[1:] - starts[:-1])).long().clamp(max=count - 1)
    kept[drawn] = False
    # A group of its own, the last one, for what is never left out.
    return torch.cat([kept, torch.ones(1, dtype=torch.bool)])[groups].to(A.measured.device)


def held_out_error(A: LinearOperator, y: Tensor, kept: Tensor, x: Tensor) -> Tensor:
    """Mean squared misfit of an image (1, C, H, W) with the measurements of y that are not in `kept`, a scalar."""
    left_out = (A.measured & ~kept).expand(y.shape[-2:])
    with torch.no_grad():
        return (A.forward(x) - y)[..., left_out].abs().square().mean()


def _groups(A: LinearOperator) -> Tensor:
    """Number of the group of each measurement, in the order to draw from; -1: never left out."""
    measured = A.measured.cpu()
    if A.modality is Modality.CT:
        return torch.arange(len(measured))[:, None]
    if bool((measured == measured[:1]).all()):
        return _ranked(_free(measured)[:1] & measured[:1]).expand(measured.shape)
    if bool((measured == measured[:, :1]).all()):
        return _ranked(_free(measured)[:, :1] & measured[:, :1]).expand(measured.shape)
    return _ranked(_free(measured) & measured)


def _free(measured: Tensor) -> Tensor:
    """Where the calibration centre is not, along every axis that is not wholly measured."""
    height, width = full_centre(measured.numpy())
    lines = bool((measured == measured[:1]).all())
    rows = bool((measured == measured[:, :1]).all())
    free = torch.ones_like(measured)
    vertical = slice(None) if lines else centre(measured.shape[0], height)
    horizontal = slice(None) if rows else centre(measured.shape[1], width)
    free[vertical, horizontal] = False
    return free


def _ranked(eligible: Tensor) -> Tensor:
    """Rank of each eligible place by its distance from the centre, -1 elsewhere."""
    rows, columns = (torch.arange(size) - size // 2 for size in eligible.shape)
    distance = torch.hypot(rows[:, None] / len(rows), columns / len(columns))
    places = torch.where(eligible, distance, torch.inf).flatten()
    ranks = torch.full(places.shape, -1)
    order = places.argsort(stable=True)[: int(eligible.sum())]
    ranks[order] = torch.arange(len(order))
    return ranks.reshape(eligible.shape)

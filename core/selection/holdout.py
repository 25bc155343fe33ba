"""Measurements left out of a reconstruction, to judge it by what it says of them.

Yaman et al. (2022), zero-shot self-supervised learning, hold out k-space samples; here whole lines or views, or
samples of all of them.
"""

import torch
from torch import Generator, Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.coils.espirit import full_centre
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.fourier import centre
from udig_recon.core.parameters import HoldoutParameters, check_views

USUAL_SHARE = 0.3
"""Of the measurements outside the calibration centre; fewer choose worse."""
RUN = {Modality.MRI: 4, Modality.CT: 1}
"""Neighbouring samples of a line or view that are left out together."""


def train_mask(y: Tensor, A: LinearOperator, p: HoldoutParameters, rng: Generator) -> Tensor | None:
    """Which measurements to keep as the knobs have it, as `line_mask` and `sample_mask` say; None: nothing is left out.

    Raises UnsupportedScan when a share was asked for that cannot be left out.
    """
    if p.holdout_share == 0:
        return None
    share = USUAL_SHARE if p.holdout_share is None else p.holdout_share
    kept = line_mask(A, share, rng) if p.holdout == "lines" else sample_mask(y, A, share, rng)
    if can_hold_out(A, kept):
        return kept
    if p.holdout_share is None:
        return None
    if A.modality is Modality.CT:
        check_views(p, len(A.measured))
    raise UnsupportedScan(
        f"holdout_share {share:g} of {p.holdout} cannot be left out: outside its calibration centre the scan has "
        "none, or none would be left; 0 leaves out nothing",
        field="parameters.holdout_share",
        found=f"{share:g}",
        expected="0, a smaller share, or holdout samples",
    )


def can_hold_out(A: LinearOperator, kept: Tensor) -> bool:
    """Whether measurements are left out and enough are kept: two views, a line or point outside the centre."""
    free = (_groups(A) >= 0).to(kept.device)
    if A.modality is Modality.CT:
        return not bool(kept.all()) and int(kept.any(1).sum()) >= 2
    return bool((free & ~kept).any()) and bool((free & kept).any())


def sample_mask(y: Tensor, A: LinearOperator, share: float, rng: Generator) -> Tensor:
    """Which measurements to keep, bool in the shape of y's last two axes; about `share` of each line is left out.

    Of each view in CT, of each phase-encoding line outside the calibration centre in MRI, in short runs at random
    places. Where the mask is of single points, they are those of `line_mask`.
    """
    free = (_groups(A) >= 0).expand(y.shape[-2:])
    columns = A.modality is Modality.MRI and bool((free == free[:1]).all())
    if not columns and not bool((free == free[:, :1]).all()):
        return line_mask(A, share, rng)
    free = free.T if columns else free
    run, (lines, length) = RUN[A.modality], free.shape
    places = torch.rand(lines, -(-length // run), generator=rng, device=rng.device).cpu().argsort(dim=1)
    dropped = places < max(1, round(share * places.shape[1]))
    kept = ~(free & dropped.repeat_interleave(run, dim=1)[:, :length])
    return (kept.T if columns else kept).to(y.device)


def line_mask(A: LinearOperator, share: float, rng: Generator) -> Tensor:
    """Which measurements to keep, bool in the shape of `A.measured`; about `share` of the others is left out.

    Views are left out in CT. In MRI, phase-encoding lines where the mask consists of lines, else single points, never
    in the calibration centre. One of each run of like measurements is drawn, sorted by angle or by distance from the
    centre, so that all frequencies and directions are judged. Where nothing else was measured, or everything was, it is
    the inner half of the centre that is kept, and lines along ky.
    """
    groups = _groups(A)
    if not bool((groups >= 0).any()):
        groups = _groups(A, in_centre=True)
    count = int(groups.max()) + 1
    wanted = min(count, max(1, round(share * count)))
    kept = torch.ones(count, dtype=torch.bool)
    places = torch.rand(wanted, generator=rng, device=rng.device).cpu()
    starts = torch.linspace(0, count, wanted + 1)
    drawn = (starts[:-1] + places * (starts[1:] - starts[:-1])).long().clamp(max=count - 1)
    kept[drawn] = False
    # A group of its own, the last one, for what is never left out.
    return torch.cat([kept, torch.ones(1, dtype=torch.bool)])[groups].to(A.measured.device)


def validation_part(A: LinearOperator, y: Tensor, kept: Tensor) -> Tensor:
    """The measurements of y (or of its shape) that are not in `kept`, (..., n)."""
    return y[..., (A.measured & ~kept).expand(y.shape[-2:])]


def validation_error(A: LinearOperator, y: Tensor, kept: Tensor, x: Tensor) -> Tensor:
    """Mean squared misfit of an image (1, C, H, W) with the measurements of y that are not in `kept`, a scalar."""
    with torch.no_grad():
        return validation_part(A, A.forward(x) - y, kept).abs().square().mean()


def _groups(A: LinearOperator, *, in_centre: bool = False) -> Tensor:
    """Number of the group of each measurement, in the order to draw from; -1: never left out."""
    measured = A.measured.cpu()
    if A.modality is Modality.CT:
        return torch.arange(len(measured))[:, None]
    if bool((measured == measured[:1]).all()):
        return _ranked(_free(measured, in_centre)[:1] & measured[:1]).expand(measured.shape)
    if bool((measured == measured[:, :1]).all()):
        return _ranked(_free(measured, in_centre)[:, :1] & measured[:, :1]).expand(measured.shape)
    return _ranked(_free(measured, in_centre) & measured)


def _free(measured: Tensor, in_centre: bool) -> Tensor:
    """Where the calibration centre, or its inner half, is not, along every axis that is not wholly measured."""
    height, width = (side // 2 if in_centre else side for side in full_centre(measured.numpy()))
    lines = bool((measured == measured[:1]).all())
    rows = bool((measured == measured[:, :1]).all()) and not (lines and in_centre)
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

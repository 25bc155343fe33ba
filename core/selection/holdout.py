"""Holdout: measurements that a reconstruction does not see, to test it by how well it predicts them.

Yaman et al. (2022), zero-shot self-supervised learning, hold out k-space samples. Here the forward model decides what
can be held out (`LinearOperator.partition`): whole lines or views, or samples of all of them.
"""

import torch
from torch import Generator, Tensor

from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.operators import LinearOperator
from udig_recon.core.parameters.holdout import EARLY_STOPPING_SHARE, HoldoutParameters, check_views


def train_mask(A: LinearOperator, p: HoldoutParameters, rng: Generator) -> Tensor | None:
    """Mask of the measurements to train on, by the method's parameters; None: all are, and none is held out.

    Raises UnsupportedScan when the parameters ask for a share that cannot be held out.
    """
    if p.holdout_share == 0:
        return None
    share = EARLY_STOPPING_SHARE if p.holdout_share is None else p.holdout_share
    kept = A.partition(share, p.holdout, rng)
    if A.can_hold_out(kept):
        return kept
    if p.holdout_share is None:
        return None
    if A.views is not None:
        check_views(p, A.views)
    raise UnsupportedScan(
        f"holdout_share {share:g} of {p.holdout} cannot be held out: outside its calibration centre the scan "
        "has none, or none would be left; 0 holds out nothing",
        field="parameters.holdout_share",
        found=f"{share:g}",
        expected="0, a smaller share, or holdout samples",
    )


def validation_part(A: LinearOperator, y: Tensor, train: Tensor) -> Tensor:
    """The measurements of y, or misfits, that are not in the training mask `train`, without their weights: (..., n)."""
    return A.unweighted(y)[1][..., (A.measured & ~train).expand(y.shape[-2:])]


def validation_error(A: LinearOperator, y: Tensor, train: Tensor, x: Tensor) -> Tensor:
    """Mean squared misfit of an image (1, C, H, W) with the measurements y that are not in `train`, a scalar."""
    with torch.no_grad():
        return validation_part(A, A.forward(x) - y, train).abs().square().mean()

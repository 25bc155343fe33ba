"""Holdout parameters: which share of the measurements a run leaves out, and when early stopping ends it.

The shares of all uses of held-out measurements stand here, since the defaults of parameters are made of them.
"""

from typing import Annotated, Literal

from pydantic import Field

from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.parameters.base import Parameters

EARLY_STOPPING_SHARE = 0.3
"""Share of the measurements outside the calibration centre that chooses an iterate.

With 0.1 the choice was measurably worse (docs/decisions/0012); with `refit` the final image uses all of them."""
WEIGHT_SEARCH_SHARE = 0.1
"""Share that chooses a regularisation weight. Candidates lie half a decade apart, so few measurements suffice."""
PRIOR_CHECK_SHARE = 0.1
"""Share that compares the prior's image with total variation's: the trial run must see nearly all data of the final."""
JOINT_MAPS_SHARE = 0.2
"""Share that decides between given coil maps and maps fitted together with the image."""
MIN_VIEWS = 2
"""Views that an image needs."""

MinProgress = Annotated[
    float, Field(ge=0, le=1, description="share of the run before which no iterate is taken and none ends it")
]

Discrepancy = Annotated[
    float,
    Field(
        ge=0,
        le=100,
        description="the run ends once |A x - y| is at most so many times that of the noise; 0: it does not",
    ),
]


class HoldoutParameters(Parameters):
    """Base of methods that make an image once more from part of the measurements, to measure its error on the rest."""

    holdout_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the measurements outside the calibration centre that is held out to validate images; "
        f"none: {EARLY_STOPPING_SHARE:g}, or nothing where nothing can be held out; 0: nothing",
    )
    holdout: Literal["samples", "lines"] = Field(
        "samples", description="what is held out: samples of every line or view, or whole lines or views"
    )


class EarlyStoppingParameters(HoldoutParameters):
    """Base of iterative methods: early stopping takes the iterate of least error on held-out measurements."""

    min_progress: MinProgress = 0.0
    patience: float = Field(
        0.25, gt=0, le=1, description="share of the run without a clearly better iterate that ends it; 1: it does not"
    )
    discrepancy: Discrepancy = 0.0
    refit: bool = Field(
        True, description="run again, on all measurements, up to the iterate that was best; else that one is taken"
    )


def check_views(method: Parameters, views: int) -> None:
    """Raise UnsupportedScan when a method holds out so many of a scan's views that fewer than two are left."""
    share = getattr(method, "holdout_share", None)
    if not share or getattr(method, "holdout", "lines") != "lines":
        return
    held_out = max(1, round(share * views))
    if views - held_out < MIN_VIEWS:
        raise UnsupportedScan(
            f"holdout_share {share:g} holds out {held_out} of {views} views, which leaves fewer than {MIN_VIEWS}",
            field="parameters.holdout_share",
            found=f"{held_out} of {views} views",
            expected=f"{max(0, views - MIN_VIEWS)} views or fewer; 0 holds out none",
        )

"""Printed figures, not ours: Table 1 of Liang et al. (ICASSP 2025), of fastMRI knees and AAPM abdomens.

At 4x and 8x the SSIM of `ref_guided_dip` is printed as .0892 and .0872, that of `udig_dip` at 4x as .0932: misprints.
The text names the columns of CT 18 and 30; the first is of 30 views, for every method is better in it.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Printed(NamedTuple):
    """What the paper prints of a method at a sampling, and the settings that it names."""

    psnr: float  # dB
    psnr_sd: float | None
    ssim: float
    minutes: float  # mean of both samplings
    prior_evaluations: int | None = None  # sampling steps, as the paper counts them
    optimizer_steps: int | None = None  # of the network


STEPS = 500
UPDATES = 4000
PURIFICATIONS = 2000 * 150  # K times M, read to the letter; the printed minutes allow for some 600

TABLE_1: Mapping[tuple[str, str], Printed] = {
    ("score_mri", "4x"): Printed(33.53, 0.01, 0.840, 6.2, prior_evaluations=STEPS),
    ("score_mri", "8x"): Printed(32.27, 0.032, 0.818, 6.2, prior_evaluations=STEPS),
    ("ref_guided_dip", "4x"): Printed(33.17, 0.02, 0.892, 2.5, optimizer_steps=UPDATES),
    ("ref_guided_dip", "8x"): Printed(30.67, 0.018, 0.872, 2.5, optimizer_steps=UPDATES),
    ("dip", "4x"): Printed(30.21, 0.012, 0.865, 1.5, optimizer_steps=UPDATES),
    ("dip", "8x"): Printed(28.75, 0.021, 0.842, 1.5, optimizer_steps=UPDATES),
    ("udig_dip", "4x"): Printed(34.46, 0.02, 0.932, 3.5, PURIFICATIONS, UPDATES),
    ("udig_dip", "8x"): Printed(33.20, 0.03, 0.912, 3.5, PURIFICATIONS, UPDATES),
    ("mcg", "30 views"): Printed(35.70, None, 0.965, 6.4, prior_evaluations=STEPS),
    ("mcg", "18 views"): Printed(33.60, None, 0.950, 6.4, prior_evaluations=STEPS),
    ("fbp", "30 views"): Printed(22.92, None, 0.750, 0.2),
    ("fbp", "18 views"): Printed(19.52, None, 0.670, 0.2),
    ("ref_guided_dip", "30 views"): Printed(31.20, None, 0.892, 2.5, optimizer_steps=UPDATES),
    ("ref_guided_dip", "18 views"): Printed(28.31, None, 0.842, 2.5, optimizer_steps=UPDATES),
    ("dip", "30 views"): Printed(26.41, None, 0.790, 1.5, optimizer_steps=UPDATES),
    ("dip", "18 views"): Printed(24.50, None, 0.772, 1.5, optimizer_steps=UPDATES),
    ("udig_dip", "30 views"): Printed(36.70, None, 0.972, 3.2, PURIFICATIONS, UPDATES),
    ("udig_dip", "18 views"): Printed(33.96, None, 0.954, 3.2, PURIFICATIONS, UPDATES),
}
"""By method and sampling."""


def printed(label: str, sampling: str) -> Printed | None:
    """What the paper prints for the method that a label begins with, whatever settings follow; None: nothing."""
    return TABLE_1.get((label.partition(" ")[0], sampling))

"""Angles of parallel-beam views within the half turn: gaps between them, and the share that each view stands for."""

import numpy as np
from numpy.typing import NDArray


def angular_weights(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the half turn (radians) that each view (views,) stands for: half the way to both neighbours.

    Views half a turn apart measure the same, so they share. A gap of more than 15 degrees and ten times the usual is a
    limited angle rather than a view's share, and counts as a usual one.
    """
    order, gaps = folded_gaps(angles)
    usual = np.median(gaps[gaps > 1e-6])
    gaps = np.where(gaps > max(10 * usual, np.pi / 12), usual, gaps)
    weights = np.empty_like(gaps)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return weights


def folded_gaps(angles: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Order of views (views,) by their angle (radians) within the half turn, and the way from each to the next."""
    folded = np.mod(angles, np.pi)
    order = np.argsort(folded, kind="stable")
    return order, np.diff(folded[order], append=folded[order[0]] + np.pi)

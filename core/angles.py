"""Angles of views within the half turn or the turn: gaps between them, and the share that each view stands for."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LIMITED = np.pi / 12
"""A gap wider than this and than ten usual ones is a limited angle."""


class Gaps(NamedTuple):
    """Views in the order of their folded angle, and the way from each to the next (radians)."""

    order: NDArray[np.intp]
    ways: NDArray[np.float64]

    @property
    def usual(self) -> float:
        """Median way from a view to the next."""
        return float(np.median(self.ways[self.ways > 1e-6]))

    @property
    def wide(self) -> NDArray[np.bool_]:
        """Which ways are gaps of a limited angle rather than a view's share."""
        return self.ways > max(10 * self.usual, LIMITED)


def angular_weights(angles: NDArray[np.float64], period: float = np.pi) -> NDArray[np.float64]:
    """Share of the half turn, or of another `period` (radians), that each view (views,) stands for.

    It is half the way to both neighbours. Views a period apart measure the same, so they share. A gap of more than 15
    degrees and ten times the usual is a limited angle rather than a view's share, and counts as a usual one.
    """
    gaps = folded_gaps(angles, period)
    ways = np.where(gaps.wide, gaps.usual, gaps.ways)
    weights = np.empty_like(ways)
    weights[gaps.order] = (ways + np.roll(ways, 1)) / 2
    return weights


def folded_gaps(angles: NDArray[np.float64], period: float = np.pi) -> Gaps:
    """Order of views (views,) by their angle (radians) within the period, and the way from each to the next."""
    folded = np.mod(angles, period)
    order = np.argsort(folded, kind="stable")
    return Gaps(order, np.diff(folded[order], append=folded[order[0]] + period))

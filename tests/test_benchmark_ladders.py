"""The climb along a peer's weights ends at one whose neighbours are worse, and says where a result is missing."""

import math
from types import SimpleNamespace

import pytest

from benchmarks.accuracy.noncartesian import climb


def results_of(levels):
    return lambda rung: None if levels[rung] is None else SimpleNamespace(psnr=levels[rung])


@pytest.mark.parametrize("start", range(5))
@pytest.mark.parametrize("levels", [[1, 2, 3, 2, 1], [5, 4, 3, 2, 1], [1, 2, 3, 4, math.nan]])
def test_the_climb_ends_at_the_best_of_weights_that_have_one_peak(levels, start):
    best = max(level for level in levels if not math.isnan(level))
    assert climb(len(levels), start, results_of(levels)).psnr == best


def test_equal_weights_end_the_climb():
    assert climb(3, 1, results_of([2, 2, 2])).psnr == 2


def test_without_a_neighbour_nothing_is_said():
    assert climb(3, 1, results_of([1, 2, None])) is None

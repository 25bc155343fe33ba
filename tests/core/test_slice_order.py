"""Slices that follow a leader: who follows whom, what they take over, and that they are judged all the same."""

import pytest

from udig_recon.core.parameters import TV, CGSense, UDiGDIP
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.slice_order import BLOCK, WarmStart, processing_order, reference_slices

JUDGED = UDiGDIP()
VOLUMES = [[3], [0, 1], list(range(16)), list(range(17)), [5, 4, 4, 9, 30, 31, 33], [0, 50, 100], [2, 10], []]


@pytest.mark.parametrize("slices", VOLUMES, ids=str)
def test_leaders_are_near_of_the_same_volume_and_follow_nobody(slices):
    led = reference_slices(slices, JUDGED)
    for follower, leader in led.items():
        assert {follower, leader} <= set(slices)
        assert 0 < abs(follower - leader) < BLOCK
        assert leader not in led
    assert reference_slices(slices[::-1], JUDGED) == led


def test_a_volume_of_sixteen_has_two_leaders_and_lone_slices_lead_themselves():
    led = reference_slices(range(16), JUDGED)
    assert (set(led.values()), len(led)) == ({4, 12}, 14)
    assert reference_slices([7], JUDGED) == reference_slices([0, 50, 100], JUDGED) == {}


@pytest.mark.parametrize(
    "method", [UDiGDIP(holdout_share=0.0), UDiGDIP(inner_iterations=2), TV(), CGSense()], ids=lambda m: m.method
)
def test_methods_without_anything_to_share_have_no_leaders(method):
    assert reference_slices(range(16), method) == {}


@pytest.mark.parametrize("slices", VOLUMES, ids=str)
def test_each_slice_comes_once_and_after_its_leader(slices):
    led = reference_slices(slices, JUDGED)
    order = processing_order(slices, led)
    assert sorted(order) == sorted(set(slices))
    assert all(order.index(leader) < order.index(follower) for follower, leader in led.items())


def test_what_was_not_judged_or_by_a_version_that_told_less_is_no_precedent():
    verdict = PriorCheck(prior_weight=1.0, best_at=1.0, residuals={"tv": 0.2, "udig_dip": 0.1}, tv_weight=0.003)
    assert WarmStart.from_check(4, verdict.as_json()) == WarmStart(slice=4, tv_weight=0.003)
    assert WarmStart.from_check(4, None) is None
    assert WarmStart.from_check(4, {"selected": "tv"}) is None

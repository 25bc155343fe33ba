"""What an image is worth follows from its signals, and every rating says why."""

import itertools
import math

import pytest

from udig_recon.core.acquisition import Modality
from udig_recon.core.quality.rating import LEVELS, Rating, Signals, limits, of_volume, rate, worst

GOOD = Signals(misfit=1.0, noise=0.002, ood_score=0.5, hallucination=0.0, prior_excess=0.3, holdout_residual=0.01)


NAMES = list(limits(Modality.CT))
ALL_NAMES = sorted({*limits(Modality.CT), *limits(Modality.MRI)})


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_rating_gets_no_better_as_a_signal_grows_and_names_each_limit_that_is_exceeded(name, modality):
    if name not in limits(modality):
        return
    limit = limits(modality)[name]
    values = [0.0, limit.check, 1.001 * limit.check, min(1.001 * limit.poor, 1e9)]
    found = [rate(Signals(**{name: value}), modality) for value in values]
    levels = [LEVELS.index(rating.level) for rating in found]
    assert levels == sorted(levels)
    tested = {"good"} if name == "holdout_residual" else {"unrated"}
    assert {rating.level for rating in found[:2]} == tested
    assert rate(Signals(**{name: 1.0001 * limit.check}), modality).level in tested
    assert found[2].level == "check"
    assert found[3].level == ("check" if math.isinf(limit.poor) else "poor")
    assert limit.name in found[2].reasons[0]
    assert f"{limit.check:g}" in found[2].reasons[0]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(NAMES, 2)))
def test_the_worst_signal_counts_and_all_that_exceed_are_named(one, other):
    known = limits(Modality.CT)
    rating = rate(Signals(**{name: 1.001 * known[name].check for name in (one, other)}), Modality.CT)
    assert rating.level == "check"
    assert len(rating.reasons) == 2


def test_a_good_image_tells_the_numbers_that_are_within_their_limits():
    rating = rate(GOOD, Modality.CT)
    assert rating.level == "good"
    assert "misfit in standard deviations of the noise 1 of" in str(rating)


def test_what_nothing_tested_is_never_good_and_an_offset_counts_to_either_side():
    untested = rate(Signals(misfit=1.0, noise=0.002), Modality.CT)
    assert untested.level == "unrated"
    assert "no held-out measurements" in untested.reasons[0]
    assert rate(Signals(misfit=7.0), Modality.CT).level == "poor"
    assert rate(Signals(line_integral=2000.0, holdout_residual=0.01), Modality.CT).level == "check"
    assert rate(Signals(line_integral=12.0, holdout_residual=0.01), Modality.CT).level == "good"
    assert rate(Signals(axis_offset=-0.5), Modality.CT).level == "check"
    assert "-0.5" in rate(Signals(axis_offset=-0.5), Modality.CT).reasons[0]


def test_whatever_is_known_there_is_a_rating_with_a_reason():
    for signals in (Signals(), Signals(empty=True), GOOD):
        rating = rate(signals, Modality.CT)
        assert rating.level in LEVELS
        assert all(rating.reasons)
    assert rate(Signals(empty=True), Modality.MRI).level == "check"


def test_a_volume_is_as_good_as_its_worst_slices_and_names_them():
    good, check, poor = Rating("good", ("fine",)), Rating("check", ("noisy",)), Rating("poor", ("wrong",))
    untested = Rating("unrated", ("untested",))
    assert worst({0: good, 1: untested}) == Rating("unrated", ("slice 1: untested",))
    assert worst({0: untested, 1: check}) == Rating("check", ("slice 1: noisy",))
    assert worst({0: good, 1: good}) == Rating("good", ("2 of 2 slices are good",))
    assert worst({3: good, 4: check, 9: check}) == Rating("check", ("slice 4: noisy", "slice 9: noisy"))
    assert worst({3: good, 4: check, 5: poor}) == Rating("poor", ("slice 5: wrong",))


def test_a_grade_comes_back_from_json():
    rating = rate(Signals(misfit=7.0), Modality.MRI)
    assert Rating.from_json(rating.as_json()) == rating


def test_ratings_stored_before_version_0_2_are_read():
    assert Rating.from_json({"verdict": "unjudged", "reasons": ["untested"]}) == Rating("unrated", ("untested",))
    assert Rating.from_json({"verdict": "poor", "reasons": []}) == Rating("poor", ())


def test_of_many_slices_at_a_level_a_short_list_tells_the_first_and_how_many_more() -> None:
    assert of_volume("check", {2: ["noisy", "cut off"], 5: ["noisy"]}, 9) == (
        "check",
        ("slice 2: noisy; cut off", "slice 5: noisy", "7 more slices are check"),
    )
    assert of_volume("good", {0: ["within limits"]}, 300) == ("good", ("300 of 300 slices are good",))

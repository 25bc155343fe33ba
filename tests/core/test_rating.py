"""What an image is worth follows from its signals, and every verdict says why."""

import itertools
import math

import pytest

from udig_recon.core.acquisition import Modality
from udig_recon.core.quality.rating import MARKS, Grade, Signals, graded, limits, worst

GOOD = Signals(misfit=1.0, noise=0.002, strangeness=0.5, hallucination=0.0, prior_excess=0.3, left_out=0.01)


NAMES = list(limits(Modality.CT))
ALL_NAMES = sorted({*limits(Modality.CT), *limits(Modality.MRI)})


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("name", ALL_NAMES)
def test_a_mark_gets_no_better_as_a_signal_grows_and_each_limit_is_told_when_it_is_exceeded(name, modality):
    if name not in limits(modality):
        return
    limit = limits(modality)[name]
    values = [0.0, limit.check, 1.001 * limit.check, min(1.001 * limit.poor, 1e9)]
    found = [graded(Signals(**{name: value}), modality) for value in values]
    marks = [MARKS.index(grade.verdict) for grade in found]
    assert marks == sorted(marks)
    tested = {"good"} if name == "left_out" else {"unjudged"}
    assert {grade.verdict for grade in found[:2]} == tested
    assert graded(Signals(**{name: 1.0001 * limit.check}), modality).verdict in tested
    assert found[2].verdict == "check"
    assert found[3].verdict == ("check" if math.isinf(limit.poor) else "poor")
    assert limit.name in found[2].reasons[0]
    assert f"{limit.check:g}" in found[2].reasons[0]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(NAMES, 2)))
def test_the_worst_signal_counts_and_all_that_exceed_are_named(one, other):
    known = limits(Modality.CT)
    grade = graded(Signals(**{name: 1.001 * known[name].check for name in (one, other)}), Modality.CT)
    assert grade.verdict == "check"
    assert len(grade.reasons) == 2


def test_a_good_image_tells_the_numbers_that_are_within_their_limits():
    grade = graded(GOOD, Modality.CT)
    assert grade.verdict == "good"
    assert "misfit in deviations of the noise 1 of" in str(grade)


def test_what_nothing_tested_is_never_good_and_an_offset_counts_to_either_side():
    untested = graded(Signals(misfit=1.0, noise=0.002), Modality.CT)
    assert untested.verdict == "unjudged"
    assert "no measurement left out" in untested.reasons[0]
    assert graded(Signals(misfit=7.0), Modality.CT).verdict == "poor"
    assert graded(Signals(axis_offset=-0.5), Modality.CT).verdict == "check"
    assert "-0.5" in graded(Signals(axis_offset=-0.5), Modality.CT).reasons[0]


def test_whatever_is_known_there_is_a_verdict_with_a_reason():
    for signals in (Signals(), Signals(empty=True), GOOD):
        grade = graded(signals, Modality.CT)
        assert grade.verdict in MARKS
        assert all(grade.reasons)
    assert graded(Signals(empty=True), Modality.MRI).verdict == "check"


def test_a_volume_is_as_good_as_its_worst_slices_and_names_them():
    good, check, poor = Grade("good", ("fine",)), Grade("check", ("noisy",)), Grade("poor", ("wrong",))
    untested = Grade("unjudged", ("untested",))
    assert worst({0: good, 1: untested}) == Grade("unjudged", ("slice 1: untested",))
    assert worst({0: untested, 1: check}) == Grade("check", ("slice 1: noisy",))
    assert worst({0: good, 1: good}) == Grade("good", ("2 of 2 slices are good",))
    assert worst({3: good, 4: check, 9: check}) == Grade("check", ("slice 4: noisy", "slice 9: noisy"))
    assert worst({3: good, 4: check, 5: poor}) == Grade("poor", ("slice 5: wrong",))


def test_a_grade_comes_back_from_json():
    grade = graded(Signals(misfit=7.0), Modality.MRI)
    assert Grade.of(grade.as_json()) == grade

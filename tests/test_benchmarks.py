"""What the benchmarks tell follows from what they measured."""

import pytest

from benchmarks.accuracy.quality_report import Criterion, Row, criteria, report
from udig_recon.core.acquisition import Modality


def fields(psnr: float, seconds: float = 10.0, flagged: bool | None = None) -> dict[str, object]:
    check = {"out_of_distribution": flagged, "selected": "udig_dip", "prior_weight": 1.0}
    spent = {"seconds": seconds, "cpu_seconds": seconds, "maps_seconds": 1.0, "problem_seconds": 1.0, "load": 0.0}
    judged = {} if flagged is None else {"prior_check": check}
    return {"psnr": psnr, "ssim": 0.9, "threads": 1, "engine": "e", **spent, **judged}


def row(standard: float, preview: float = 33.0, *, foreign: bool = False, flagged: bool | None = False) -> Row:
    peers = {"BART wavelet 0.001": fields(30.0), "BART wavelet 0.002": fields(30.5), "BART TV 0.004": fields(31.0)}
    ours = {"standard": fields(standard, 50.0, flagged), "preview": fields(preview, 9.0)}
    return Row("group", foreign, Modality.MRI, "case", "4x", peers, ours)


def criterion(rows: list[Row], what: str) -> Criterion:
    return next(found for found in criteria(rows) if what in found.what)


def test_gains_are_over_the_best_peer() -> None:
    assert row(36.5).gain("standard") == pytest.approx(5.5)
    assert row(36.5).gain("tv") is None


def test_a_figure_is_reached_from_its_limit_on() -> None:
    assert criterion([row(35.0), row(37.0)], "4x, known anatomy: mean").reached is True
    assert criterion([row(35.0), row(36.9)], "4x, known anatomy: mean").reached is False
    assert criterion([row(31.25)], "known anatomy: worst").reached is False
    assert criterion([row(30.75, foreign=True)], "foreign anatomy: worst").reached is False
    assert criterion([row(36.0)], "no longer").reached is True


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert {found.reached for found in criteria([])} == {None}
    assert criterion([row(36.0, foreign=True, flagged=None)], "foreign scans that are flagged").reached is None


def test_alarms_are_counted_among_the_scans_judged() -> None:
    foreign = [row(36.0, foreign=True, flagged=count < 9) for count in range(10)]
    known = [row(36.0, flagged=count < 1) for count in range(20)]
    assert criterion([*foreign, *known], "foreign scans that are flagged").reached is True
    assert criterion([*foreign[1:], *known], "foreign scans that are flagged").reached is False
    assert criterion([*foreign, *known[:-1]], "known anatomy that are flagged").reached is False
    assert criterion([*foreign, *known], "known anatomy that are flagged").reached is True


def test_the_report_says_where_peers_are_missing_or_at_the_edge() -> None:
    assert "Not all peers" not in report([row(36.0)])
    assert "Not all peers" in report([row(36.0)._replace(missing_peers=1)])
    assert "first or last of those tried" in report([row(36.0)])  # total variation was tried with one weight
    middle = {"BART TV 1": fields(30.0), "BART TV 2": fields(31.0), "BART TV 3": fields(30.0)}
    assert "first or last of those tried" not in report([row(36.0)._replace(peers=middle)])

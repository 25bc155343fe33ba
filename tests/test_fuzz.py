"""A small part of `python -m benchmarks.fuzz`, and that it would see what it looks for."""

from pathlib import Path

import pytest

from benchmarks.fuzz.campaign import Campaign
from benchmarks.fuzz.drafts import FileMaker
from benchmarks.fuzz.mutators import CANARY, MUTATORS, Traps
from benchmarks.fuzz.posting import Answer, wrongs
from benchmarks.fuzz.target import Target
from tests.support.api_server import serving
from tests.support.worker_processes import working
from udig_recon.worker.settings import Settings

FILES = 4 * len(MUTATORS)  # some mutators make the same file several times, which is posted once
PROBLEM = b"""{"type": "urn:a", "title": "A", "status": 422, "detail": "b", "instance": "/v1/scans",
    "errors": [{"field": "kspace", "found": "x", "expected": "y"}]}"""
REFUSAL = Answer(422, {"content-type": "application/problem+json"}, PROBLEM, 0.1)


def test_spoilt_files_are_refused_or_reconstructed_and_harm_nothing(settings: Settings, tmp_path: Path) -> None:
    assert settings.database_url is not None
    with serving(settings) as served, working(settings) as (worker,):
        port = int(served.url.rpartition(":")[2])
        processes = served.process.pid, [worker.process.pid]
        target = Target(port, *processes, settings.data, settings.database_url, [served.log])
        campaign = Campaign(target, tmp_path, Traps(tmp_path), seed=7, files=FILES, jobs=20)
        report = campaign.run(tmp_path / "failures")
    assert report.violations == []
    assert report.total.files == FILES
    assert report.total.jobs["succeeded"] > 0
    assert not any("Traceback" in line for line in worker.lines)
    assert {row.files for row in report.rows.values()} <= {3, 4, 5}


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    traps = Traps(tmp_path)
    first, second, other = (FileMaker(tmp_path, traps, seed) for seed in (1, 1, 2))
    # Zip keeps the time, so that of its files the bytes are not the same.
    numbers = [number for number, mutator in enumerate(MUTATORS) if mutator.kind == "npy"]
    assert [first.make(number).content for number in numbers] == [second.make(number).content for number in numbers]
    assert [first.make(number).content for number in numbers] != [other.make(number).content for number in numbers]
    zipped = MUTATORS.index(next(mutator for mutator in MUTATORS if mutator.name == "npz: lying member"))
    assert len(first.make(zipped).content) == len(second.make(zipped).content)


def test_a_trap_tells_that_it_was_sprung(tmp_path: Path) -> None:
    traps = Traps(tmp_path)
    assert traps.sprung() == []
    traps.raw.read_bytes()
    assert traps.sprung() == ["canary.bin was read"]
    traps.set()
    traps.pickle_ran.touch()
    assert traps.sprung() == ["a pickle was run"]


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (REFUSAL._replace(status=500), "status 500"),
        (REFUSAL._replace(seconds=11.0), "answered after"),
        (REFUSAL._replace(headers={"content-type": "text/html"}), "type text/html"),
        (REFUSAL._replace(status=400), "another status"),
        (REFUSAL._replace(body=PROBLEM.replace(b'"found": "x"', b'"found": ""')), "without the fields"),
        (REFUSAL._replace(body=PROBLEM.replace(b"urn:a", CANARY)), "canary"),
        (REFUSAL._replace(body=PROBLEM + b" " * 5000), "bytes"),
    ],
)
def test_an_answer_that_may_not_be_given_is_noticed(answer: Answer, wrong: str) -> None:
    assert wrongs(REFUSAL) == []
    assert any(wrong in found for found in wrongs(answer))

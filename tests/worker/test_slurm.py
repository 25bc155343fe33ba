"""Batch jobs of SLURM: as many as there is work for, never more, on a real controller and node where they are."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support import slurm
from tests.support.environment import environment
from tests.support.worker_processes import LONG, PATIENCE_SECONDS, Desk, until
from udig_recon.worker.cli.commands import worker
from udig_recon.worker.database.tables import Status
from udig_recon.worker.slurm import batch_jobs
from udig_recon.worker.slurm.batch_jobs import BatchJob, BatchJobs, SlurmError
from udig_recon.worker.slurm.submitter import LONGEST_PAUSE_SECONDS, Submitter, jobs_wanted, submit_once

PAUSE = 30.0


class Cluster:
    """A cluster that does what the test says, and counts."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.submitted = 0
        self.lists = self.takes = True

    def listed(self) -> list[BatchJob]:
        if not self.lists:
            raise SlurmError("squeue: no answer")
        return [BatchJob(*each) for each in self.jobs.items()]

    def submit(self) -> str:
        if not self.takes:
            raise SlurmError("sbatch: no such partition")
        self.submitted += 1
        self.jobs[str(self.submitted)] = "PENDING"
        return str(self.submitted)

    def end(self, state: str) -> None:
        self.jobs = dict.fromkeys(self.jobs, state)


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def submitter(cluster: Cluster, clock: list[float]) -> Submitter:
    return Submitter(cluster, slices_per_job=4, most=3, pause=PAUSE, clock=lambda: clock[0])


def test_there_are_as_many_jobs_as_work_and_no_more_than_the_most() -> None:
    assert [jobs_wanted(slices, 4, 3) for slices in (0, 1, 4, 5, 12, 13, 1000)] == [0, 1, 1, 2, 3, 3, 3]


def test_what_is_missing_is_submitted_once(cluster: Cluster, submitter: Submitter) -> None:
    assert len(submitter.round(5)) == 2
    assert submitter.round(5) == []
    cluster.jobs["1"] = "RUNNING"
    cluster.jobs["2"] = "A_STATE_OF_TOMORROW"
    assert submitter.round(5) == []
    assert len(submitter.round(100)) == 1
    cluster.end("COMPLETED")
    assert submitter.round(0) == []
    assert len(submitter.round(1)) == 1


def test_nothing_is_submitted_while_nobody_knows_how_many_there_are(cluster: Cluster, submitter: Submitter) -> None:
    cluster.lists = False
    assert submitter.round(100) == []
    assert cluster.submitted == 0


def test_a_refusal_ends_the_round_and_the_next_tries_come_one_at_a_time_and_later(
    cluster: Cluster, submitter: Submitter, clock: list[float]
) -> None:
    cluster.takes = False
    tries: list[float] = []
    submit = cluster.submit
    cluster.submit = lambda: (tries.append(clock[0]), submit())[1]  # type: ignore[method-assign]
    for clock[0] in range(0, 4000, 10):
        submitter.round(100)
    assert tries[:5] == [0, 30, 90, 210, 450]
    assert tries[-1] - tries[-2] == LONGEST_PAUSE_SECONDS
    cluster.takes = True
    clock[0] += 10_000
    assert len(submitter.round(100)) == 1
    cluster.end("RUNNING")
    assert submitter.round(100) == []
    clock[0] += PAUSE
    assert len(submitter.round(100)) == 2


def test_jobs_that_fail_at_once_are_not_replaced_without_end(
    cluster: Cluster, submitter: Submitter, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for clock[0] in range(0, 3600, 30):
        submitter.round(100)
        cluster.end("FAILED")
    assert cluster.submitted < 3 + 10
    assert any(line.message == "slurm.jobs_failed" for line in caplog.records if line.levelno == logging.ERROR)


def test_failures_of_before_it_began_are_none_of_its_own(cluster: Cluster, submitter: Submitter) -> None:
    cluster.jobs["77"] = "FAILED"
    assert len(submitter.round(100)) == 3


def test_a_command_that_is_missing_fails_or_is_silent_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SlurmError, match="nowhere: No such file"):
        batch_jobs._run(["nowhere"])
    with pytest.raises(SlurmError, match="sh: a b"):
        batch_jobs._run(["sh", "-c", "echo a >&2; echo b >&2; exit 1"])
    monkeypatch.setattr(batch_jobs, "COMMAND_SECONDS", 0.1)
    with pytest.raises(SlurmError, match=r"sleep: no answer within 0\.1 s"):
        batch_jobs._run(["sleep", "5"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-jobs", "3"], "--max-jobs is of the batch jobs that --slurm submits"),
        (["--slurm", "--processes", "0"], "neither a number from 1 to 64 nor auto"),
        (["--slurm", "--slices-per-job", "0"], "0 is not in the range"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments: list[str], words: str) -> None:
    refused = CliRunner().invoke(worker, arguments)
    assert refused.exit_code == 2
    assert words in refused.output


def test_the_script_ends_idle_workers_even_where_the_setting_is_never() -> None:
    script = BatchJobs("udig-worker", "somebody", (), "auto", idle_seconds=300).script()
    assert "#SBATCH --signal=B:TERM@60" in script
    assert "export IDLE_SECONDS=300\nexec" in script.replace("# The worker takes", "exec # The worker takes")
    assert script.rstrip().endswith("worker --processes auto")
    assert "IDLE_SECONDS" not in BatchJobs("udig-worker", "somebody").script()


@pytest.fixture
def real_slurm(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster, and the environment of this test's service for its jobs."""
    if not slurm.is_installed():
        pytest.skip("slurm is not installed: apt-get install slurmctld slurmd munge")
    with slurm.cluster(tmp_path / "slurm") as variables:
        for name, value in {**environment(desk.settings), **variables, "IDLE_SECONDS": "1"}.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("real_slurm")
def test_batch_jobs_do_the_work_give_back_what_they_have_when_told_to_end_and_end_when_idle(
    desk: Desk, tmp_path: Path
) -> None:
    output = tmp_path / "job-%j.out"
    jobs = BatchJobs("udig-test", os.environ.get("USER") or "root", [f"--output={output}", "--time=10"])
    submitter = Submitter(jobs, slices_per_job=1, most=1, pause=PAUSE)
    submit_once(desk.database, submitter)
    assert jobs.listed() == []  # there is no work
    long = desk.submit(desk.scan(), LONG)
    submit_once(desk.database, submitter)
    submit_once(desk.database, submitter)
    (first,) = jobs.listed()
    assert first.holds_place
    until(lambda: desk.has_checkpoint(long), 3 * PATIENCE_SECONDS)
    subprocess.run(["scancel", first.number], check=True)
    until(lambda: not jobs.listed()[0].holds_place)
    assert (desk.job_slice(long).status, desk.job_slice(long).crashes) == (Status.QUEUED, 0)
    assert desk.has_checkpoint(long)
    submit_once(desk.database, submitter)
    until(lambda: desk.job(long).status.ended, 3 * PATIENCE_SECONDS)
    assert desk.job(long).status is Status.SUCCEEDED
    until(lambda: not any(job.holds_place for job in jobs.listed()))
    second = next(job for job in jobs.listed() if job.number != first.number)
    assert second.state == "COMPLETED"
    said = Path(str(output).replace("%j", second.number)).read_text()
    assert "slice.resumed" in said
    assert "worker.idle" in said

"""Short storms: nothing is lost while processes, servers and connections fail, and without the fence that shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[1]
FAULTS = (
    "stop-worker,stop-worker,kill-worker,stop-postgres,wipe-redis,lost-answers,duplicates,"
    "kill-api,reset,full-data,clock"
)


def chaos(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.chaos", "--redis", "valkey", "--seconds", "600", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_nothing_is_lost_in_a_storm() -> None:
    ran = chaos("--jobs", "14", "--faults", FAULTS)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Verdict: nothing lost" in ran.stdout


@pytest.mark.slow
def test_without_the_fence_results_are_doubled_and_the_verdict_says_so() -> None:
    ran = chaos("--jobs", "12", "--no-fence", "--faults", "stop-worker,stop-worker,stop-worker")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert re.search(r"results doubled \| [1-9]\d* \| 0 \| FAILED", ran.stdout), ran.stdout + ran.stderr

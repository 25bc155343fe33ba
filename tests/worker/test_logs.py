"""What a log line looks like, on a terminal and elsewhere."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import logging
from udig_recon.worker.telemetry import logs
logs.configure(worker="here")
try:
    raise ValueError("the patient's name")
except ValueError:
    logging.getLogger("udig_recon.worker.runtime.tasks").exception("slice.failed", extra={"slice": 3})
"""


def test_elsewhere_than_on_a_terminal_each_line_is_json() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert (told["event"], told["slice"], told["worker"], told["level"]) == ("slice.failed", 3, "here", "error")
    assert "ValueError" in told["exception"]
    assert "patient" not in line


def test_on_a_terminal_lines_are_for_people() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    told = os.read(ours, 1 << 16).decode()
    os.close(ours)
    first = told.splitlines()[0]
    assert "{" not in told
    assert "slice.failed" in first
    assert "slice=3" in first
    assert "ValueError" in told
    assert "patient" not in told


def test_levels_below_warning_of_libraries_are_silent() -> None:
    program = PROGRAM + "\nlogging.getLogger('celery').info('hello')\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "hello" not in done.stderr

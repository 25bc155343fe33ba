"""The API as a process of its own."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.environment import environment
from udig_recon.core.cli import UDIG
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[2]
START_SECONDS = 180  # of a machine with other things to do


class Served(NamedTuple):
    """A server that answers."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


@contextmanager
def serving(settings: Settings) -> Iterator[Served]:
    """`udig api` with these settings."""
    command = [*UDIG, "api"]
    log = settings.data.with_name(f"api-{uuid.uuid4().hex}.log")
    with log.open("w") as sink, subprocess.Popen(command, cwd=ROOT, env=environment(settings), stderr=sink) as process:
        try:
            yield Served(_listening(process, log), process, log)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _listening(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Its URL, as it says itself."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
        if any("startup complete" in line["event"] for line in lines):
            return next(str(line["url"]) for line in lines if line["event"] == "api.listening")
        time.sleep(0.05)
    raise AssertionError(log.read_text())

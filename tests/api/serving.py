"""The door as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from worker.settings import Settings

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`python -m api` with these settings: its URL and its process."""
    values = settings.model_dump(mode="json", exclude_none=True)
    environment = {**os.environ, **{name.upper(): str(value) for name, value in values.items()}}
    command = [sys.executable, "-m", "api"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            httpx.get(url + "/healthz", timeout=30).raise_for_status()
            yield url, process
        finally:
            process.terminate()
            process.communicate(timeout=30)

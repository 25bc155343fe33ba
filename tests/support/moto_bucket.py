"""A bucket: moto's S3 server in a process of its own, and the settings of a service that keeps its objects there."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

START_SECONDS = 30.0


class Moto(NamedTuple):
    """The server and where it answers."""

    process: subprocess.Popen
    url: str

    def make_bucket(self) -> str:
        """The name of a new bucket."""
        name = f"b{uuid.uuid4().hex}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=10).close()
        return name


@contextmanager
def moto_server(log: Path) -> Iterator[Moto]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.05)
            yield Moto(process, f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def environment(url: str) -> dict[str, str]:
    """Variables by which a process reaches the server at this address."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket",
        "AWS_REGION": "us-east-1",
    }


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have this process, and those that it starts, reach the server at this address."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)

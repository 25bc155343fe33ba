"""The supervisor: one a folder, children that come back, and none that stays behind."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.worker_processes import ROOT, until
from udig_recon.core.cli import UDIG
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.locate import ready_url

pytestmark = pytest.mark.service

KNOBS = {"WORKERS": "1", "PORT": "0", "THREADS": "1", "OMP_NUM_THREADS": "1", "SWEEP_SECONDS": "0.5"}


@pytest.fixture
def data() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="udig-") as made:
        yield Path(made) / "data"


def environment(data: Path, **more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}
    return {**inherited, "PYTHONPATH": str(ROOT), "DATA": str(data), **KNOBS, **more}


@contextmanager
def serving(data: Path, **more: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The supervisor, once it is ready, and its URL."""
    command = [*UDIG, "serve"]
    supervisor = subprocess.Popen(command, env=environment(data, **more), cwd=ROOT, stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    try:
        url = supervisor.stdout.readline().decode().split()[-1]
        assert json.loads((data / "service.json").read_text()) == {"url": url, "pid": supervisor.pid}
        yield supervisor, url
    finally:
        supervisor.stdout.close()
        supervisor.send_signal(signal.SIGINT)
        supervisor.wait(30)


def children(pid: int) -> dict[str, int]:
    """Its children by the command of `udig` or the program that they run."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            line = processes.command_line(int(child)).split()
            if line:
                found[line[3] if line[1:2] == ["-m"] else Path(line[0]).name] = int(child)
    return found


def anew(pid: int, first: dict[str, int]) -> set[str]:
    """Which of the children are not those of then."""
    return {name for name, child in children(pid).items() if child != first[name]}


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def refused(data: Path, **more: str) -> str:
    """What a supervisor that cannot start says."""
    command = [*UDIG, "serve"]
    ended = subprocess.run(command, env=environment(data, **more), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_the_service_comes_up_stays_up_and_goes_without_a_trace(data: Path) -> None:
    with serving(data) as (supervisor, url):
        first = children(supervisor.pid)
        assert set(first) == {"valkey-server", "postgres", "api", "worker"}
        assert is_ready(url)
        assert str(supervisor.pid) in refused(data)

        os.kill(first["worker"], signal.SIGKILL)
        os.kill(first["postgres"], signal.SIGQUIT)
        until(lambda: set(children(supervisor.pid)) == set(first) and children(supervisor.pid) != first)
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
        until(lambda: all(processes.command_line(pid) == "" for pid in first.values()), seconds=20)
    with serving(data) as (supervisor, url):
        second = children(supervisor.pid)
        assert is_ready(url)
        supervisor.send_signal(signal.SIGINT)
        assert supervisor.wait(30) == 0
    assert [pid for pid in second.values() if processes.command_line(pid)] == []
    assert data.stat().st_mode & 0o777 == 0o700
    assert not (data / "service.json").exists()


def test_what_is_stopped_is_ended_and_started_anew_and_a_dead_supervisors_note_is_not_believed(data: Path) -> None:
    with serving(data, HUNG_SECONDS="5") as (supervisor, url):
        assert ready_url(data) == url
        first = children(supervisor.pid)
        time.sleep(5)  # until both have answered the supervisor: before that they have more time
        for name in ("api", "worker"):
            os.kill(first[name], signal.SIGSTOP)
        until(lambda: set(children(supervisor.pid)) == set(first) and anew(supervisor.pid, first) == {"api", "worker"})
        until(lambda: is_ready(url))
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
        assert (data / "service.json").exists()
        assert ready_url(data) is None
        assert not (data / "service.json").exists()


def test_a_taken_port_a_wrong_setting_and_a_dead_database_are_told_in_one_line(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}" in refused(data, PORT=port)
    assert "WORKERS" in refused(data, WORKERS="0")
    nowhere = "postgresql://127.0.0.1:1/none"
    assert "database" in refused(data, DATABASE_URL=nowhere, REDIS_URL="redis://127.0.0.1:1")

"""What only a real server process shows: time-outs, disconnects, memory, signals."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy.orm import Session, sessionmaker

from tests.support.api_server import serving
from udig_recon.api.main import open_listener
from udig_recon.core.cli import UDIG
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.local import LocalStorage
from udig_recon.worker.storage.orphans import delete_orphans


def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=30)


def answer_of(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def begun(size: int) -> bytes:
    return f"POST /v1/scans HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def memory(pid: int, what: str) -> int:
    """Bytes, by the kernel's own count: now (VmRSS) or at most (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


@pytest.fixture
def hasty(settings: Settings) -> Iterator[str]:
    """A server that waits for a second only."""
    impatient = settings.model_copy(update={"header_timeout_seconds": 1.0, "body_timeout_seconds": 1.0})
    with serving(impatient) as (url, _, _):
        yield url


@contextlib.contextmanager
def dribbling(connection: socket.socket, piece: bytes) -> Iterator[None]:
    """Send a byte or two again and again, until the server has had enough."""
    stopped = threading.Event()

    def dribble() -> None:
        with contextlib.suppress(OSError):
            while not stopped.wait(0.2):
                connection.sendall(piece)

    thread = threading.Thread(target=dribble)
    thread.start()
    yield
    stopped.set()
    thread.join()


def test_headers_that_dribble_are_closed(hasty: str) -> None:
    with connected(hasty) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with dribbling(connection, b"X-A: b\r\n"):
            assert answer_of(connection).startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_closed(hasty: str) -> None:
    with connected(hasty) as connection:
        assert answer_of(connection) == b""


def test_a_body_that_dribbles_is_closed_and_leaves_nothing(hasty: str, storage: LocalStorage) -> None:
    with connected(hasty) as connection:
        connection.sendall(begun(1 << 20))
        with dribbling(connection, b"ab"):
            answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    until(lambda: not list((storage.root / "incoming").iterdir()))


def test_a_slow_body_that_goes_on_is_taken(hasty: str, mri_file: bytes) -> None:
    def slowly() -> Iterator[bytes]:
        for start in range(0, len(mri_file), 1 + len(mri_file) // 6):
            time.sleep(0.4)
            yield mri_file[start : start + 1 + len(mri_file) // 6]

    assert httpx2.post(hasty + "/v1/scans", content=slowly(), timeout=30).status_code == 201


def test_an_answer_may_take_longer_than_the_time_outs(hasty: str, mri_file: bytes) -> None:
    with httpx2.Client(base_url=hasty, timeout=30) as client:
        scan = client.post("/v1/scans", content=mri_file).json()
        body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
        job = client.post("/v1/jobs", json=body).json()
        assert client.get(job["links"]["self"], params={"wait": 2.5}).status_code == 200


@pytest.mark.parametrize("sent", [0, 3 << 20])
def test_an_upload_that_breaks_off_leaves_nothing(server: str, storage: LocalStorage, sent: int) -> None:
    with connected(server) as connection:
        connection.sendall(begun(8 << 20) + bytes(sent))
        until(lambda: list((storage.root / "incoming").iterdir()))
    until(lambda: not list((storage.root / "incoming").iterdir()))
    assert not list((storage.root / "scans").iterdir())
    assert httpx2.get(server + "/healthz").status_code == 200


def test_a_body_shorter_or_longer_than_announced_is_no_scan(
    server: str, storage: LocalStorage, mri_file: bytes
) -> None:
    with connected(server) as connection:
        connection.sendall(begun(len(mri_file) + 5) + mri_file)
        connection.shutdown(socket.SHUT_WR)
        assert b" 201 " not in answer_of(connection)
    until(lambda: not list((storage.root / "incoming").iterdir()))
    with connected(server) as connection:
        connection.sendall(begun(len(mri_file) - 5) + mri_file)
        connection.shutdown(socket.SHUT_WR)
        assert b" 201 " not in answer_of(connection)
    assert not list((storage.root / "scans").iterdir())


def test_a_refusal_is_read_even_by_who_sends_on(settings: Settings) -> None:
    with (
        serving(settings.model_copy(update={"max_upload_bytes": 1000})) as (url, _, _),
        httpx2.Client(timeout=30) as client,
    ):
        refused = client.post(url + "/v1/scans", content=bytes(20 << 20))
        assert refused.status_code == 413
        assert client.get(url + "/healthz").status_code == 200


def test_what_a_killed_server_left_is_tidied_away_but_not_what_another_receives(
    settings: Settings, storage: LocalStorage, database: sessionmaker[Session], mri_file: bytes
) -> None:
    with serving(settings) as (first, process, _), connected(first) as connection:
        connection.sendall(begun(8 << 20) + bytes(2 << 20))
        until(lambda: list((storage.root / "incoming").iterdir()))
        process.kill()
        process.wait()
    with serving(settings) as (second, _, _), connected(second) as connection:
        connection.sendall(begun(len(mri_file)) + mri_file[:100])
        until(lambda: len(list((storage.root / "incoming").iterdir())) == 2)
        assert delete_orphans(database, storage, seconds=60) == 0
        assert delete_orphans(database, storage, seconds=0) == 1
        connection.sendall(mri_file[100:])
        assert connection.recv(100).startswith(b"HTTP/1.1 201 ")


def test_memory_does_not_grow_with_what_is_uploaded(settings: Settings, tmp_path: Path) -> None:
    block = os.urandom(1 << 20)
    large = tmp_path / "large"
    large.write_bytes(128 * block)
    with serving(settings) as (url, process, _):
        httpx2.post(url + "/v1/scans", content=block, timeout=60)
        before = memory(process.pid, "VmRSS")
        with large.open("rb") as raw, large.open("rb") as part:
            answers = [
                httpx2.post(url + "/v1/scans", content=raw, timeout=120),
                httpx2.post(url + "/v1/scans", files={"file": part}, timeout=120),
            ]
        most = memory(process.pid, "VmHWM")
    assert {answer.status_code for answer in answers} == {415}
    assert most - before < 64 << 20


def test_many_silent_connections_keep_nobody_out(server: str) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(server)).sendall(b"GET / HTTP/1.1\r\n")
        assert httpx2.get(server + "/healthz").status_code == 200


def test_no_answer_waits_until_the_client_has_acknowledged_its_head() -> None:
    with (
        open_listener("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(settings: Settings, how: signal.Signals) -> None:
    with serving(settings) as (_, process, log):
        process.send_signal(how)
        process.wait(timeout=20)
    assert process.returncode in (0, -how)
    assert "Traceback" not in log.read_text()


def test_the_process_never_loads_torch_nor_the_engine() -> None:
    script = (
        "import sys, udig_recon.api.main; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'matplotlib')])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_does_not_start_without_its_servers(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    root = Path(__file__).parents[2]
    command = [*UDIG, "api"]
    done = subprocess.run(command, cwd=root, env=environment | {"DATA": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr

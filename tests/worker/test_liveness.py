"""Liveness of the MRD stream: a process that accepts connections and never closes them does not answer."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.worker_processes import until
from udig_recon.worker.standalone.liveness import MIN_FAILED_CHECKS, LivenessMonitor, StreamAddress

HUNG_SECONDS = 0.6


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@contextmanager
def answering(listener: socket.socket) -> Iterator[None]:
    """A server that closes each connection that its client has closed."""
    ending = threading.Event()

    def serve() -> None:
        listener.settimeout(0.05)
        while not ending.is_set():
            try:
                connection = listener.accept()[0]
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(5)
                connection.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def test_a_stream_that_no_longer_closes_connections_is_hung(listener: socket.socket) -> None:
    child = cast(Any, SimpleNamespace(name="mrd-stream", process=SimpleNamespace(pid=4711)))
    address = StreamAddress(*listener.getsockname()[:2])
    nothing = cast(Any, None)
    monitor = LivenessMonitor(nothing, (), "", nothing, HUNG_SECONDS, (child, address))
    with answering(listener):
        for _ in range(MIN_FAILED_CHECKS + 1):
            monitor._check_stream()
            time.sleep(HUNG_SECONDS / 3)
        assert not monitor.is_hung(child)

    def is_hung() -> bool:
        monitor._check_stream()
        return monitor.is_hung(child)

    until(is_hung)
    child.process = SimpleNamespace(pid=4712)  # started again
    assert not monitor.is_hung(child)

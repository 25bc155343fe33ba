"""Messages for workers, sent beside the answers: a queue that is away or hangs delays nobody."""

import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from udig_recon.worker.jobs import queue

MOST_WAITING = 100_000  # messages; beyond them the sweep publishes


class Publisher:
    """Publishes in a thread of its own, many messages at once. What cannot be sent is left to the sweep."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: list[tuple[uuid.UUID, int]] = []
        self._thread = ThreadPoolExecutor(1, "publisher")

    def publish(self, job_slices: Iterable[tuple[uuid.UUID, int]]) -> None:
        """Send a message for each slice as soon as may be; call it after their commit."""
        with self._lock:
            first = not self._waiting
            self._waiting += list(job_slices)[: MOST_WAITING - len(self._waiting)]
        if first:
            self._thread.submit(self._send)

    def _send(self) -> None:
        with self._lock:
            job_slices, self._waiting = self._waiting, []
        queue.enqueue(job_slices)

    def close(self) -> None:
        """Send what waits, unless the queue is away."""
        self._thread.shutdown()

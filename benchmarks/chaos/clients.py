"""Clients that behave as documented: an idempotency key for each job, and the same request again after a failure."""

import base64
import hashlib
import io
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.client import HTTPConnection
from struct import pack
from typing import Any
from urllib.parse import urlsplit

import h5py
import httpx2

from benchmarks.chaos.workload import Order

AGAIN = (408, 429, 503, 507)
"""Answers that ask for the same request again."""
RETRIED = ("disk-full", "worker-lost")
"""Problems of a job that name a cause which passes."""
TIMEOUT_SECONDS = 20.0
Images = dict[str, bytes]


class Unexpected(Exception):
    """An answer that no client should get."""


class GaveUp(Exception):
    """The run is over before the job was."""


class Notes:
    """What all clients together saw."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.accepted: dict[str, str] = {}  # key -> job id
        self.deleted: set[str] = set()  # job ids
        self.images: dict[str, tuple[str, Images]] = {}  # key -> kind, bits of its result
        self.given_up: set[str] = set()  # keys of the orders at which clients gave up, for the run was too short
        self.unexpected: list[str] = []

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1


class Client(threading.Thread):
    """Takes one order after the other until there are none, and sees each through."""

    def __init__(
        self, urls: list[str], take: Callable[[], Order | None], notes: Notes, deadline: float, seed: int
    ) -> None:
        super().__init__(name=f"client {seed}", daemon=True)
        self._urls, self._take, self._notes, self._deadline = urls, take, notes, deadline
        self._rng = random.Random(seed)
        self._http = httpx2.Client(timeout=TIMEOUT_SECONDS)

    def run(self) -> None:
        while (order := self._take()) is not None:
            try:
                self._see_through(order)
            except Unexpected as error:
                with self._notes.lock:
                    self._notes.unexpected.append(f"{order.kind.name} ({order.key}): {error}")
            except GaveUp:
                with self._notes.lock:
                    self._notes.given_up.add(order.key)
                break
        self._http.close()

    def _see_through(self, order: Order) -> None:
        if time.monotonic() >= self._deadline:
            raise GaveUp
        if order.abandoned:
            self._break_off(*self._request(order))
            return
        job = self._filed(order)
        with self._notes.lock:
            self._notes.accepted[order.key] = job
        if order.deleted:
            time.sleep(self._rng.uniform(0, 0.5))
            self._asked("DELETE", f"/v1/jobs/{job}", (204, 404))
            with self._notes.lock:
                self._notes.deleted.add(job)
            return
        self._succeeded(job)
        answer = self._asked("GET", f"/v1/jobs/{job}/result?format=h5", (200,))
        expected = f"sha-256=:{base64.b64encode(hashlib.sha256(answer.content).digest()).decode()}:"
        if answer.headers["repr-digest"] != expected:
            raise Unexpected("the result is not what its digest says")
        with self._notes.lock:
            self._notes.images[order.key] = (order.kind.name, images(answer.content))

    def _filed(self, order: Order) -> str:
        content, headers = self._request(order)
        if order.resets:
            self._break_off(content, headers)
        return str(self._asked("POST", "/v1/jobs", (202,), content=content, headers=headers).json()["id"])

    def _request(self, order: Order) -> tuple[bytes, dict[str, str]]:
        """The body and the headers that ask for the job; a scan that is not in the form is brought first."""
        job = {"parameters": order.kind.parameters, "outputs": list(order.kind.outputs), "seed": order.kind.seed}
        if order.as_form:
            files = {"scan": ("scan.h5", order.file), "job": (None, json.dumps(job))}
            request = httpx2.Request("POST", self._urls[0], files=files)
        else:
            scan = self._asked("POST", "/v1/scans", (200, 201), content=order.file).json()
            request = httpx2.Request("POST", self._urls[0], json={"scan_id": scan["id"], **job})
        return request.read(), {"Idempotency-Key": order.key, "Content-Type": request.headers["content-type"]}

    def _break_off(self, content: bytes, headers: dict[str, str]) -> None:
        """Ask for a job and reset the connection a moment later."""
        self._notes.count("connections broken off")
        connection = HTTPConnection(str(urlsplit(self._rng.choice(self._urls)).netloc), timeout=TIMEOUT_SECONDS)
        try:
            connection.request("POST", "/v1/jobs", content, headers)
            time.sleep(self._rng.uniform(0, 0.4))
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        except OSError:
            pass
        finally:
            connection.close()

    def _succeeded(self, job: str) -> None:
        while True:
            found = self._asked("GET", f"/v1/jobs/{job}?wait=5", (200,)).json()
            if found["status"] == "succeeded":
                return
            if found["status"] == "failed":
                problem = found["error"]["type"].rpartition(":")[2]
                if problem not in RETRIED:
                    raise Unexpected(f"job {job} failed: {found['error']['detail']}")
                self._notes.count(f"jobs failed: {problem}")
                time.sleep(self._rng.uniform(0.5, 1.5))
                self._asked("POST", f"/v1/jobs/{job}/retry", (202, 409))
            elif found["status"] == "cancelled":
                raise Unexpected(f"job {job} is cancelled, which nobody asked for")

    def _asked(self, method: str, path: str, wanted: tuple[int, ...], **more: Any) -> httpx2.Response:
        """The answer, of one API process or the other, however often it takes."""
        while time.monotonic() < self._deadline:
            try:
                answer = self._http.request(method, self._rng.choice(self._urls) + path, **more)
            except httpx2.TransportError as error:
                self._notes.count(f"no answer: {type(error).__name__}")
            else:
                if answer.status_code in wanted:
                    return answer
                if answer.status_code not in AGAIN:
                    raise Unexpected(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
                self._notes.count(f"answers {answer.status_code}")
            time.sleep(self._rng.uniform(0.1, 0.6))
        raise GaveUp


def images(content: bytes) -> Images:
    """The bits of every image in a result file."""
    with h5py.File(io.BytesIO(content), "r") as file:
        return {name: data[()].tobytes() for name, data in file.items() if isinstance(data, h5py.Dataset)}

"""Clients of the load benchmark: as little work as possible, for they share the cores with what they measure."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BLOCK_BYTES = 256 << 10
LAG, LAG_SECONDS = "lag of the generator", 0.01
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Seen:
    """What the clients saw: seconds by kind of request, answers by kind and status, and what broke off."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    events: int = 0

    def count(self, kind: str, status: int, seconds: float, headers: Mapping[str, str]) -> None:
        """One answer."""
        if status in (429, 503) and "retry-after" not in headers:
            self.broken["no Retry-After"] += 1
        self.seconds.setdefault(kind, []).append(seconds)
        self.statuses[kind, status] += 1

    def percentile(self, kind: str, share: float) -> float:
        """Seconds within which that share of the answers came."""
        ordered = sorted(self.seconds.get(kind, ()))
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def refused(self, kind: str) -> int:
        """Answers of a kind that are not 2xx."""
        return sum(count for (each, status), count in self.statuses.items() if each == kind and status // 100 != 2)


class Connection:
    """One kept-alive HTTP connection, from an address of the loopback network."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._port, self._address = port, address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Its two streams."""
        if self._streams is None:
            local = (self._address, 0)
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=local)
        return self._streams

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Status, headers and body of the answer."""
        _, writer = await self.open()
        writer.write(head(method, path, len(body), **headers) + body)
        return await self.answer()

    async def answer(self) -> Answer:
        """The answer to what was sent."""
        reader, _ = await self.open()
        status, headers = _head_of(await reader.readuntil(b"\r\n\r\n"))
        return status, headers, await reader.readexactly(int(headers.get("content-length", 0)))

    def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _head_of(answer: bytes) -> tuple[int, dict[str, str]]:
    lines = answer.decode("latin-1").split("\r\n")
    named = (line.partition(": ") for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value for name, _, value in named}


def head(method: str, path: str, size: int, **headers: str) -> bytes:
    """The head of a request; `content_type` stands for Content-Type."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {size}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def lag(seen: Seen, until: float) -> None:
    """Note how late this generator itself wakes: so much of what its clients wait may be its own fault."""
    while (due := time.monotonic() + LAG_SECONDS) < until:
        await asyncio.sleep(LAG_SECONDS)
        seen.seconds.setdefault(LAG, []).append(time.monotonic() - due)


async def poll(connection: Connection, seen: Seen, job: str, every: float, first: float, until: float) -> None:
    """Ask how a job stands, once every so many seconds."""
    due = time.monotonic() + first
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        try:
            status, headers, _ = await connection.ask("GET", f"/v1/jobs/{job}")
            seen.count("status", status, time.monotonic() - began, headers)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.broken[f"status {type(error).__name__}"] += 1
            connection.close()
        due += every


async def listen(connection: Connection, seen: Seen, job: str) -> None:
    """Count the events of a job until this is cancelled."""
    began = time.monotonic()
    try:
        reader, writer = await connection.open()
        writer.write(head("GET", f"/v1/jobs/{job}/events", 0))
        status, headers = _head_of(await reader.readuntil(b"\r\n\r\n"))
        seen.count("stream", status, time.monotonic() - began, headers)
        if status != 200:
            return
        while chunk := await reader.read(65536):
            seen.events += chunk.count(b"event: ")
        seen.broken["stream closed"] += 1
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.broken[f"stream {type(error).__name__}"] += 1
    finally:
        connection.close()


async def upload(
    connection: Connection, seen: Seen, parts: Sequence[memoryview | bytes], sha256: str, bytes_per_second: float
) -> dict[str, Any] | None:
    """Bring a file at that pace; the scan that is answered, if there is one."""
    _, writer = await connection.open()
    began, sent = time.monotonic(), 0
    try:
        size = sum(len(part) for part in parts)
        writer.write(head("POST", "/v1/scans", size, Content_Type="application/octet-stream"))
        for part in parts:
            for start in range(0, len(part), BLOCK_BYTES):
                await asyncio.sleep(max(0.0, began + sent / bytes_per_second - time.monotonic()))
                writer.write(part[start : start + BLOCK_BYTES])
                await writer.drain()
                sent += BLOCK_BYTES
        ended = time.monotonic()
        status, headers, body = await connection.answer()
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.broken[f"upload {type(error).__name__}"] += 1
        connection.close()
        return None
    seen.count("upload", status, time.monotonic() - began, headers)
    seen.count("answer after the last byte", status, time.monotonic() - ended, headers)
    scan: dict[str, Any] = json.loads(body)
    if status == 201 and scan["sha256"] != sha256:
        seen.broken["upload of other bytes"] += 1
    return scan if status == 201 else None

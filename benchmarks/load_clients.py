"""Clients of the load benchmark: as little work as possible, for they share the cores with what they measure."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

BLOCK_BYTES = 256 << 10
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Seen:
    """What the clients saw: seconds by kind of request, answers by kind and status, and what broke off."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    events: int = 0

    def count(self, kind: str, status: int, seconds: float) -> None:
        """One answer."""
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
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        named = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(named.get("content-length", 0)))
        return int(lines[0].split()[1]), named, body

    def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def head(method: str, path: str, size: int, **headers: str) -> bytes:
    """The head of a request; `content_type` stands for Content-Type."""
    lines = [f"{method} {path} HTTP/1.1", "Host: load", f"Content-Length: {size}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def poll(connection: Connection, seen: Seen, job: str, every: float, first: float, until: float) -> None:
    """Ask how a job stands, once every so many seconds."""
    due = time.monotonic() + first
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        try:
            status, _, _ = await connection.ask("GET", f"/v1/jobs/{job}")
            seen.count("status", status, time.monotonic() - began)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.broken[f"status {type(error).__name__}"] += 1
            connection.close()
        due += every


async def listen(connection: Connection, seen: Seen, job: str, until: float) -> None:
    """Count the events of a job."""
    reader, writer = await connection.open()
    began = time.monotonic()
    writer.write(head("GET", f"/v1/jobs/{job}/events", 0))
    try:
        line = await reader.readuntil(b"\r\n\r\n")
        seen.count("stream", int(line.split()[1]), time.monotonic() - began)
        while (left := until - time.monotonic()) > 0:
            async with asyncio.timeout(left):
                chunk = await reader.read(65536)
            if not chunk:
                seen.broken["stream closed"] += 1
                return
            seen.events += chunk.count(b"event: ")
    except TimeoutError:
        return
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.broken[f"stream {type(error).__name__}"] += 1


async def upload(
    connection: Connection, seen: Seen, file: bytes, sha256: str, bytes_per_second: float
) -> dict[str, Any] | None:
    """Bring a file at that pace; the scan that is answered, if it is of these very bytes."""
    _, writer = await connection.open()
    began = time.monotonic()
    try:
        writer.write(head("POST", "/v1/scans", len(file), Content_Type="application/octet-stream"))
        for start in range(0, len(file), BLOCK_BYTES):
            await asyncio.sleep(max(0.0, began + start / bytes_per_second - time.monotonic()))
            writer.write(file[start : start + BLOCK_BYTES])
            await writer.drain()
        sent = time.monotonic()
        status, _, body = await connection.answer()
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.broken[f"upload {type(error).__name__}"] += 1
        connection.close()
        return None
    seen.count("upload", status, time.monotonic() - began)
    seen.count("answer after the last byte", status, time.monotonic() - sent)
    scan: dict[str, Any] = json.loads(body)
    if status == 201 and scan["sha256"] != sha256:
        seen.broken["upload of other bytes"] += 1
    return scan if status == 201 else None

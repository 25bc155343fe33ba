"""Slow clients are closed after their time-out, and a greedy client leaves room for others.

`python -m benchmarks.load slow overload`.
"""

import asyncio
import hashlib
import time

from benchmarks.load.clients import Connection, Seen, head, listen, poll, upload

CLIENTS = 200
"""of each slow kind"""
POLLERS, POLL_SECONDS = 20, 1.0
DRIBBLE_SECONDS = 2.0
LONGEST_SECONDS = 65.0  # that a slow client is borne with: bodies are looked at every 30 s
GREEDY, MODEST = "127.0.0.7", "127.0.0.8"
WANTED = {"event streams": (1500, 20), "uploads": (60, 5)}
"""by the greedy client, and by the modest one that comes a second later."""
KIND_OF = {"event streams": "stream", "uploads": "upload"}
SLOW_BYTES_PER_SECOND = 256 << 10
KINDS = {
    "headers that dribble": (b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n", b"X-A: b\r\n"),
    "a body that dribbles": (head("POST", "/v1/scans", 1 << 20, Content_Type="application/octet-stream"), b"ab"),
    "sockets that say nothing": (b"", b""),
    "sockets idle after an answer": (head("GET", "/healthz", 0), b""),
}


async def _slow(port: int, kind: str, number: int, lived: dict[str, list[float]]) -> None:
    """One slow client, until the server has had enough of it."""
    begins, dribbles = KINDS[kind]
    # A body that dribbles is an upload: their number from one address has its limit.
    address = f"127.0.{1 + number % 20}.{1 + list(KINDS).index(kind)}"
    reader, writer = await Connection(port, address).open()
    began = time.monotonic()
    writer.write(begins)

    async def dribble() -> None:
        while dribbles:
            await asyncio.sleep(DRIBBLE_SECONDS)
            writer.write(dribbles)

    dribbling = asyncio.create_task(dribble())
    try:
        while await reader.read(65536):
            pass
    except OSError:
        pass
    finally:
        dribbling.cancel()
        writer.close()
    lived[kind].append(time.monotonic() - began)


async def slow(port: int, job: str) -> tuple[dict[str, list[float]], Seen]:
    """Seconds that each slow client was borne with, and what pollers saw meanwhile."""
    lived: dict[str, list[float]] = {kind: [] for kind in KINDS}
    seen = Seen()
    async with asyncio.TaskGroup() as others:
        connections = [Connection(port, "127.0.0.3") for _ in range(POLLERS)]
        polling = [
            others.create_task(poll(each, seen, job, POLL_SECONDS, number / POLLERS, float("inf")))
            for number, each in enumerate(connections)
        ]
        async with asyncio.TaskGroup() as slow_ones:
            for number in range(CLIENTS):
                for kind in KINDS:
                    slow_ones.create_task(_slow(port, kind, number, lived))
                await asyncio.sleep(0.01)
        for each in polling:
            each.cancel()
    return lived, seen


def slow_rows(lived: dict[str, list[float]], seen: Seen) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| slow clients | closed | after s, least | most |", "|---|---|---|---|"]
    lines += [f"| {kind} | {len(each)} | {min(each):.1f} | {max(each):.1f} |" for kind, each in lived.items()]
    median, late = (seen.percentile("status", share) * 1000 for share in (0.5, 0.99))
    answers = f"{len(seen.seconds['status'])} answers, {seen.refused('status')} not 2xx"
    return [*lines, "", f"status meanwhile: {answers}, p50 {median:.1f} ms, p99 {late:.1f} ms"]


def slow_missed(lived: dict[str, list[float]], seen: Seen) -> list[str]:
    """What is beyond its bound."""
    found = [f"{kind} borne with for long" for kind, each in lived.items() if max(each) > LONGEST_SECONDS]
    return [*found, *(["status refused"] if seen.refused("status") else []), *seen.broken]


async def overload(port: int, job: str, scan_file: bytes) -> tuple[list[str], list[str]]:
    """A greedy client takes all that it can, then a modest one comes; lines of a Markdown table, and what was wrong."""
    wrong: list[str] = []
    lines = ["| | client | wanted | 2xx | 429 | 503 | refused without `Retry-After` |", "|---|---|---|---|---|---|---|"]
    for what, kind in KIND_OF.items():
        met = {"greedy": Seen(), "modest": Seen()}
        async with asyncio.TaskGroup() as group:
            tasks = []
            for seen, address, wanted in zip(met.values(), (GREEDY, MODEST), WANTED[what], strict=True):
                for _ in range(wanted):
                    connection = Connection(port, address)
                    work = listen(connection, seen, job) if kind == "stream" else _brought(connection, seen, scan_file)
                    tasks.append(group.create_task(work))
                    await asyncio.sleep(0.002)
                await asyncio.sleep(1.0)
            while sum(len(seen.seconds.get(kind, ())) for seen in met.values()) < sum(WANTED[what]):
                await asyncio.sleep(0.1)
            for each in tasks:
                each.cancel()
        for (name, seen), wanted in zip(met.items(), WANTED[what], strict=True):
            counts = [seen.statuses[kind, status] for status in (429, 503)]
            good = wanted - seen.refused(kind)
            shown = " | ".join(map(str, (wanted, good, *counts, seen.broken["no Retry-After"])))
            lines.append(f"| {what} | {name} | {shown} |")
            served = good == wanted if name == "modest" else counts[0] > 0
            if not served or seen.broken["no Retry-After"]:
                wrong.append(f"{what} of the {name} client")
    return lines, wrong


async def _brought(connection: Connection, seen: Seen, scan_file: bytes) -> None:
    await upload(connection, seen, (scan_file,), hashlib.sha256(scan_file).hexdigest(), SLOW_BYTES_PER_SECOND)
    connection.close()

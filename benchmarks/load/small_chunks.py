"""Latency of status requests beside a client that sends its bytes in the smallest pieces; bound: p99 below 100 ms.

`python -m benchmarks.load chunks`.
"""

import asyncio
import time

from benchmarks.load.clients import Connection, Seen, poll

BYTES_PER_SECOND, PIECE_SECONDS = 1_000_000, 0.01
SECONDS = 10.0
POLLERS, POLL_SECONDS = 20, 0.2
LONGEST_SECONDS = 0.1
"""within which 99 of 100 answers to others must come."""
_CHUNKED = "Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
TINY, FEW = b"1\r\na\r\n", b"40\r\n" + bytes(64) + b"\r\n"
KINDS = {  # what each connection begins with, and what it goes on with
    "nobody else": (b"", b""),
    "1-byte chunks of an upload": (f"POST /v1/scans HTTP/1.1\r\n{_CHUNKED}".encode(), TINY),
    "1-byte chunks after an answer": (f"POST /v1/nothing HTTP/1.1\r\n{_CHUNKED}".encode(), TINY),
    "64-byte chunks of an upload": (f"POST /v1/scans HTTP/1.1\r\n{_CHUNKED}".encode(), FEW),
    "heads of 3-byte fields": (b"GET /healthz HTTP/1.1\r\n", b"a:b\r\n"),
    "trailers of 3-byte fields": (f"POST /v1/scans HTTP/1.1\r\n{_CHUNKED}0\r\n".encode(), b"a:b\r\n"),
}


async def _send(port: int, kind: str, sent: list[int], until: float) -> None:
    """One connection at a time that sends at the pace, and the next as soon as one is closed."""
    begins, goes_on = KINDS[kind]
    piece = goes_on * int(BYTES_PER_SECOND * PIECE_SECONDS / len(goes_on))
    while time.monotonic() < until:
        sent[0] += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.5", 0))
        writer.write(begins)
        due, answered = time.monotonic(), asyncio.create_task(reader.read(-1))
        try:
            while time.monotonic() < until and not answered.done():
                writer.write(piece)
                await writer.drain()
                sent[1] += len(piece)
                due += PIECE_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
        except OSError:
            pass
        writer.transport.abort()
        answered.cancel()
        await asyncio.wait({answered})


async def chunks(port: int, job: str) -> tuple[list[str], list[str]]:
    """What pollers see beside a client of each kind; lines of a Markdown table, and what was missed."""
    lines = [
        "| beside | connections | MB sent | answers | not 2xx | p50 (ms) | p99 (ms) |",
        "|---|---|---|---|---|---|---|",
    ]
    missed = []
    for kind, (_, goes_on) in KINDS.items():
        seen, sent, until = Seen(), [0, 0], time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            if goes_on:
                group.create_task(_send(port, kind, sent, until))
            for number in range(POLLERS):
                first = POLL_SECONDS * number / POLLERS
                group.create_task(poll(Connection(port, "127.0.0.3"), seen, job, POLL_SECONDS, first, until))
        median, late = (seen.percentile("status", share) for share in (0.5, 0.99))
        figures = f"{median * 1000:.1f} | {late * 1000:.1f}"
        answers = f"{len(seen.seconds['status'])} | {seen.refused('status')}"
        lines.append(f"| {kind} | {sent[0]} | {sent[1] / 1e6:.1f} | {answers} | {figures} |")
        if late > LONGEST_SECONDS or seen.refused("status") or seen.broken:
            missed.append(f"status beside {kind}")
    return lines, missed

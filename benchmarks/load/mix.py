"""Latency of status requests beside event streams, pollers and uploads, on jobs whose progress workers write.

`python -m benchmarks.load mix`.
"""

import asyncio
import gc
import hashlib
import io
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.load.clients import LAG, Connection, Seen, lag, listen, poll, upload
from udig_recon.worker.jobs import leases

STREAMS, POLLERS, UPLOADS = 500, 200, 20
POLL_SECONDS = 2.0
"""What `Retry-After` asks for."""
JOBS = 10
SNAPSHOT_SECONDS = 2.0
UPLOAD_MIB = 16
UPLOAD_BYTES_PER_SECOND = 2 << 20
LEASE_SECONDS = 600.0
MOST_LATE_SECONDS = 0.05  # of 99 in a hundred answers to pollers


def kspace(mebibytes: int, seed: int = 0) -> bytes:
    """A scan of about that size: k-space (slices, coils, ky, kx) as .npy, smooth noise."""
    rng = np.random.default_rng(seed)
    shape = (max(1, mebibytes // 2), 4, 256, 256) if mebibytes else (1, 2, 32, 32)
    scan = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    file = io.BytesIO()
    np.save(file, scan)
    return file.getvalue()


@contextmanager
def progressing(sessions: sessionmaker[Session], jobs: list[str]) -> Iterator[None]:
    """Claim the jobs and write a snapshot of each every two seconds, as a worker does."""
    claims = []
    for job in jobs:
        with sessions.begin() as session:
            claims.append(leases.claim(session, (uuid.UUID(job), 0), "load:0:a", LEASE_SECONDS))
    stopped = threading.Event()

    def write() -> None:
        for turn in range(1, 1 << 30):
            for claim in claims:
                point = leases.Point(turn, 1000, 2.0 * turn, loss=1 / turn, data_residual=0.1, psnr=30.0, ssim=0.9)
                with sessions.begin() as session:
                    leases.record(session, claim, point, LEASE_SECONDS)
                if stopped.wait(SNAPSHOT_SECONDS / len(claims)):
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


async def mix(port: int, jobs: list[str], seconds: float) -> Seen:
    """All clients at once for that long, each kind from an address of its own of the loopback network."""
    seen, scan_file = Seen(), kspace(UPLOAD_MIB)
    same = memoryview(scan_file)[:-8]
    known = hashlib.sha256(same)
    async with asyncio.TaskGroup() as listeners:
        listening = []
        for number in range(STREAMS):
            connection = Connection(port, "127.0.0.2")
            listening.append(listeners.create_task(listen(connection, seen, jobs[number % len(jobs)])))
            await asyncio.sleep(0.005)
        while sum(seen.statuses.values()) < STREAMS:
            await asyncio.sleep(0.1)
        # A full collection would stop the clients for a tenth of a second.
        gc.collect()
        gc.freeze()
        seen.events, until = 0, time.monotonic() + seconds
        async with asyncio.TaskGroup() as others:
            others.create_task(lag(seen, until))
            for number in range(POLLERS):
                connection, first = Connection(port, "127.0.0.3"), number * POLL_SECONDS / POLLERS
                others.create_task(poll(connection, seen, jobs[number % len(jobs)], POLL_SECONDS, first, until))
            for number in range(UPLOADS):
                others.create_task(bring(port, seen, same, known, number, until))
            await asyncio.sleep(seconds)
            events = seen.events
        for each in listening:
            each.cancel()
    seen.events = events
    return seen


async def bring(port: int, seen: Seen, same: memoryview, known: "hashlib._Hash", number: int, until: float) -> None:
    """Upload scans of this uploader's own one after the other, and delete each."""
    connection = Connection(port, "127.0.0.4")
    turn = 0
    while time.monotonic() < until:
        # The last sample: other bytes, so another scan.
        last = np.array([number + turn * UPLOADS], np.complex64).tobytes()
        whole = known.copy()
        whole.update(last)
        scan = await upload(connection, seen, (same, last), whole.hexdigest(), UPLOAD_BYTES_PER_SECOND)
        if scan is not None:
            await connection.ask("DELETE", f"/v1/scans/{scan['id']}")
        turn += 1
    connection.close()


def measure(port: int, sessions: sessionmaker[Session], jobs: list[str], seconds: float) -> Seen:
    """All clients at once, on jobs that go on meanwhile."""
    with progressing(sessions, jobs):
        return asyncio.run(mix(port, jobs, seconds))


def missed(seen: Seen) -> list[str]:
    """What is beyond its bound."""
    late = seen.percentile("status", 0.99)
    found = [] if late < MOST_LATE_SECONDS else [f"status p99 {late * 1000:.1f} ms"]
    found += [f"{kind} refused" for kind in ("status", "stream", "upload") if seen.refused(kind)]
    return [*found, *seen.broken]


def rows(seen: Seen, seconds: float) -> list[str]:
    """Lines of a Markdown table."""
    rows = ["| request | answers | not 2xx | p50 ms | p95 ms | p99 ms | most ms |", "|---|---|---|---|---|---|---|"]
    for kind in ("status", "stream", "upload", "answer after the last byte", LAG):
        times = [seen.percentile(kind, share) * 1000 for share in (0.5, 0.95, 0.99, 1.0)]
        shown = " | ".join(f"{each:.1f}" for each in times)
        rows.append(f"| {kind} | {len(seen.seconds.get(kind, ()))} | {seen.refused(kind)} | {shown} |")
    broken = ", ".join(f"{what}: {count}" for what, count in seen.broken.items()) or "none"
    return [*rows, "", f"events {seen.events} ({seen.events / seconds:.0f} a second); broken off: {broken}"]

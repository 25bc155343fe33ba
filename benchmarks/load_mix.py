"""Event streams, pollers and uploads at once, on jobs whose progress is written as workers write it."""

import asyncio
import hashlib
import io
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.load_clients import Connection, Seen, listen, poll, upload
from worker import leases

STREAMS, POLLERS, UPLOADS = 500, 200, 20
POLL_SECONDS = 2.0
"""What `Retry-After` asks for."""
JOBS = 10
SNAPSHOT_SECONDS = 2.0
UPLOAD_MIB = 16
UPLOAD_BYTES_PER_SECOND = 2 << 20
LEASE_SECONDS = 600.0


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
    """All clients at once for that long, each from an address of the loopback network of its kind."""
    seen = Seen()
    listeners = [Connection(port, "127.0.0.2") for _ in range(STREAMS)]
    pollers = [Connection(port, "127.0.0.3") for _ in range(POLLERS)]
    until = time.monotonic() + 10 + seconds
    tasks = []
    for number, connection in enumerate(listeners):
        tasks.append(asyncio.create_task(listen(connection, seen, jobs[number % len(jobs)], until)))
        await asyncio.sleep(0.005)
    opened, seen.events = time.monotonic(), 0
    until = opened + seconds
    for number, connection in enumerate(pollers):
        first = number * POLL_SECONDS / POLLERS
        tasks.append(asyncio.create_task(poll(connection, seen, jobs[number % len(jobs)], POLL_SECONDS, first, until)))
    tasks += [asyncio.create_task(bring(port, seen, number, until)) for number in range(UPLOADS)]
    await asyncio.gather(*tasks)
    for connection in (*listeners, *pollers):
        connection.close()
    return seen


async def bring(port: int, seen: Seen, number: int, until: float) -> None:
    """Upload scans of this uploader's own one after the other, and delete each."""
    connection = Connection(port, "127.0.0.4")
    file = bytearray(UPLOADED)
    turn = 0
    while time.monotonic() < until:
        # The last sample: other bytes, so another scan.
        file[-8:] = np.array([number + turn * UPLOADS], np.complex64).tobytes()
        whole = bytes(file)
        scan = await upload(connection, seen, whole, hashlib.sha256(whole).hexdigest(), UPLOAD_BYTES_PER_SECOND)
        if scan is not None:
            await connection.ask("DELETE", f"/v1/scans/{scan['id']}")
        turn += 1
    connection.close()


UPLOADED = b""


def measure_mix(port: int, sessions: sessionmaker[Session], jobs: list[str], seconds: float) -> Seen:
    """The mix, with a scan that is made before the clock runs."""
    global UPLOADED
    UPLOADED = kspace(UPLOAD_MIB)
    with progressing(sessions, jobs):
        return asyncio.run(mix(port, jobs, seconds))


def mix_rows(seen: Seen, seconds: float) -> list[str]:
    """Lines of a Markdown table."""
    rows = ["| request | answers | not 2xx | p50 ms | p95 ms | p99 ms | most ms |", "|---|---|---|---|---|---|---|"]
    for kind in ("status", "stream", "upload", "answer after the last byte"):
        times = [seen.percentile(kind, share) * 1000 for share in (0.5, 0.95, 0.99, 1.0)]
        shown = " | ".join(f"{each:.1f}" for each in times)
        rows.append(f"| {kind} | {len(seen.seconds.get(kind, ()))} | {seen.refused(kind)} | {shown} |")
    broken = ", ".join(f"{what}: {count}" for what, count in seen.broken.items()) or "none"
    return [*rows, "", f"events {seen.events} ({seen.events / seconds:.0f} a second); broken off: {broken}"]

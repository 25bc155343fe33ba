"""How soon a slice begins beside others: another tenant's volume, a machine full of long slices, many submissions.

    python -m benchmarks.load.fairness

starts the service as `make serve` does, with keys, on a free port and a folder of its own, and measures from the answer
to POST /v1/jobs until the slice is claimed, by the database's clock. It fails when a bound is missed: beside a volume
of 300 slices one slice of the longest slice's time or 15 s, whichever is longer; an urgent slice 15 s. Beside 24
connections of another tenant that post jobs of 300 slices, answers to POST /v1/jobs and GET of one slice's job: 99 of
100 within 2 s and 1 s.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.chaos.workload import ct_scan, file_of
from benchmarks.load.clients import Connection, Seen
from udig_recon.core.cli import UDIG
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.locate import ready_url

VOLUME_SLICES = 300
BOUND_SECONDS = 15.0
START_SECONDS, STOP_SECONDS, PATIENCE_SECONDS = 180.0, 20.0, 600.0
SHORT = {"method": "sirt", "iterations": 1500, "holdout_share": 0}
LONG = {"method": "dip", "iterations": 50_000}
SUBMITTERS, SUBMITTING_SECONDS, EVERY_SECONDS = 24, 20.0, 0.25
ANSWERED_SECONDS = {"POST": 2.0, "GET": 1.0}
AMPLE = {"MAX_OPEN_JOBS": "100000", "TENANT_MAX_OPEN_SLICES": "10000000"}  # submissions are to be filed, not refused
Job = dict[str, Any]


@contextmanager
def service(data: Path, workers: int) -> Iterator[Callable[..., httpx2.Client]]:
    """The service; makes clients of tenants, by a key each."""
    settings = {"WORKERS": str(workers), "PORT": "0", "AUTHENTICATION": "on", "DEVICE": "cpu", "THREADS": "1"}
    settings |= AMPLE
    own = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    environment = {**own, **settings, "DATA": str(data), "OMP_NUM_THREADS": "1"}
    command = [*UDIG, "serve"]
    started = processes.start(command, death_signal=signal.SIGTERM, log=data.parent / "log", environment=environment)
    try:
        url = _awaited(lambda: ready_url(data), START_SECONDS)

        def client(tenant: str, *more: str) -> httpx2.Client:
            make = [*UDIG, "keys", "create", "benchmark", "--tenant", tenant, *more]
            made = subprocess.run(make, env=environment, capture_output=True, text=True, check=True)
            headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
            return httpx2.Client(base_url=url, headers=headers, timeout=60)

        yield client
    finally:
        processes.stop([started], signal.SIGTERM, STOP_SECONDS)


def _awaited(found: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        if time.monotonic() > deadline:
            raise SystemExit("error: waited in vain")
        time.sleep(0.1)
    return result


def filed(client: httpx2.Client, scan: bytes, parameters: dict[str, Any], **more: Any) -> Job:
    """Post a scan and a job of it."""
    brought = client.post("/v1/scans", content=scan).raise_for_status().json()
    body = {"scan_id": brought["id"], "parameters": parameters, **more}
    job: Job = client.post("/v1/jobs", json=body).raise_for_status().json()
    return job


def seen(client: httpx2.Client, job: Job) -> Job:
    """The job as it stands."""
    now: Job = client.get(job["links"]["self"]).raise_for_status().json()
    return now


def waited(client: httpx2.Client, job: Job) -> float:
    """Seconds from filing until its first slice began."""
    began = _awaited(lambda: seen(client, job)["started_at"])
    return (datetime.fromisoformat(began) - datetime.fromisoformat(job["created_at"])).total_seconds()


def beside_a_volume(clients: Callable[..., httpx2.Client], volume: bytes, single: bytes) -> tuple[float, float]:
    """How long tenant b's slice waits beside tenant a's volume, and what a slice takes."""
    with clients("a") as a, clients("b") as b:
        whole = filed(a, volume, SHORT)
        _awaited(lambda: seen(a, whole)["progress"]["slices_done"] >= 4)
        seconds = waited(b, filed(b, single, SHORT))
        now = seen(a, whole)
        each = now["compute_seconds"] / max(1, now["progress"]["slices_done"])
        a.post(whole["links"]["cancel"])
    return seconds, each


def on_a_full_machine(clients: Callable[..., httpx2.Client], long: bytes, single: bytes, workers: int) -> float:
    """How long tenant b's urgent slice waits while every worker is at a slice of tenant a that lasts."""
    with clients("a") as a, clients("b", "--max-priority", "urgent") as b:
        lasting = [filed(a, long, LONG, seed=seed) for seed in range(2 * workers)]

        def full() -> bool:
            return sum(seen(a, job)["status"] == "running" for job in lasting) == workers

        _awaited(full)
        time.sleep(5)
        seconds = waited(b, filed(b, single, SHORT, priority="urgent"))
        for job in lasting:
            a.post(job["links"]["cancel"])
    return seconds


def beside_submissions(clients: Callable[..., httpx2.Client], volume: bytes, single: bytes) -> Seen:
    """What tenant b sees of its requests, and a of its own (`POST of a`), while a posts volumes without a pause."""
    with clients("a") as a, clients("b") as b:
        port = int(a.base_url.port or 0)
        theirs, mine = (filed(client, scan, SHORT)["scan_id"] for client, scan in ((a, volume), (b, single)))
        seen = Seen()
        asyncio.run(_submit(seen, port, (a.headers["authorization"], theirs), (b.headers["authorization"], mine)))
    return seen


async def _submit(seen: Seen, port: int, greedy: tuple[str, str], modest: tuple[str, str]) -> None:
    until = time.monotonic() + SUBMITTING_SECONDS
    async with asyncio.TaskGroup() as group:
        for _ in range(SUBMITTERS):
            group.create_task(_posting(seen, "POST of a", port, greedy, until, 0.0))
        await asyncio.sleep(1)
        await _posting(seen, "POST", port, modest, until, EVERY_SECONDS)


async def _posting(seen: Seen, kind: str, port: int, whose: tuple[str, str], until: float, every: float) -> None:
    """Post jobs of a scan by one connection; who pauses between them also looks at each."""
    (key, scan), connection = whose, Connection(port)
    body = json.dumps({"scan_id": scan, "parameters": SHORT}).encode()
    while time.monotonic() < until:
        began = time.monotonic()
        sent = {"Authorization": key, "Content_Type": "application/json"}
        status, headers, answer = await connection.ask("POST", "/v1/jobs", body, **sent)
        seen.count(kind, status, time.monotonic() - began, headers)
        if every and status == 202:
            began = time.monotonic()
            status, headers, _ = await connection.ask("GET", json.loads(answer)["links"]["self"], Authorization=key)
            seen.count("GET", status, time.monotonic() - began, headers)
        await asyncio.sleep(every)
    connection.close()


def main() -> int:
    """Measure; 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=int, default=3, help="how often each wait is measured (%(default)s)")
    options = parser.parse_args()
    volume, single = file_of(ct_scan(VOLUME_SLICES)), file_of(ct_scan(1))
    missed = False
    with (
        tempfile.TemporaryDirectory(prefix="udig-fairness-") as folder,
        service(Path(folder) / "data", options.workers) as clients,
    ):
        for _ in range(options.times):
            seconds, each = beside_a_volume(clients, volume, single)
            bound = max(each, BOUND_SECONDS)
            print(
                f"beside {VOLUME_SLICES} slices of {each:.1f} s: after {seconds:.1f} s, bound {bound:.1f} s", flush=True
            )
            missed |= seconds > bound
            seconds = on_a_full_machine(clients, single, single, options.workers)
            print(f"urgent on a full machine: after {seconds:.1f} s, bound {BOUND_SECONDS:.1f} s", flush=True)
            missed |= seconds > BOUND_SECONDS
        found = beside_submissions(clients, volume, single)
        for kind in ("POST", "GET", "POST of a"):
            told = ", ".join(f"p{share} {found.percentile(kind, share / 100):.2f} s" for share in (50, 99, 100))
            print(f"beside {SUBMITTERS} submitters: {kind} {told}, of {len(found.seconds.get(kind, ()))}, ", end="")
            print(f"{found.refused(kind)} refused", flush=True)
            if kind in ANSWERED_SECONDS:
                missed |= not found.percentile(kind, 0.99) <= ANSWERED_SECONDS[kind] or found.refused(kind) > 0
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

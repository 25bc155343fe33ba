"""The service under load: `python -m benchmarks.load [mix] [list] [pages] [jobs] [slow] [chunks] [overload]`, or all.

mix: 500 event streams, 200 pollers and 20 uploads at once. list: lists of 10,000 queued jobs, by every filter. pages:
every page of the browser with 34,000 jobs. jobs: what 1,000 jobs leave. slow: dribbling and silent clients. chunks: a
client that cuts its bytes up. overload: one client wants all. Each part has servers of its own.
The load generator shares the cores with what it measures. SECONDS sets how long the mix goes on (60), JOBS how
many there are (1000). The exit code is 1 when a bound was missed.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.demo import checked
from benchmarks.load import jobs as load_jobs
from benchmarks.load import lists as load_list
from benchmarks.load import mix as load_mix
from benchmarks.load import pages as load_pages
from benchmarks.load import slow_clients as load_slow
from benchmarks.load import small_chunks as load_chunks
from benchmarks.load.upload_memory import ApiProcess, api_process
from udig_recon.worker.database.engine import make_engine, make_sessions

Told = tuple[list[str], list[str]]
"""Lines of Markdown, and which bounds were missed."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def api_and_jobs(count: int = 1) -> Iterator[tuple[ApiProcess, sessionmaker[Session], list[dict[str, Any]]]]:
    """The API on servers of its own, sessions on its database, and jobs of a tiny scan that nobody works on."""
    with tempfile.TemporaryDirectory(prefix="udig-load-") as folder, api_process(Path(folder) / "data") as api:
        engine = make_engine(api.environment["DATABASE_URL"])
        body = {"parameters": {"method": "udig_dip"}}
        with httpx2.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=60) as client:
            body["scan_id"] = checked(client.post("/v1/scans", content=load_mix.kspace(0))).json()["id"]
            jobs = [checked(client.post("/v1/jobs", json=body)).json() for _ in range(count)]
        try:
            yield api, make_sessions(engine), jobs
        finally:
            engine.dispose()


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Of a process, and of its children, from which probes are forked, with all of theirs that have ended."""
    children = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = _stat(process)
            children += sum(map(int, fields[11:15])) if int(fields[1]) == pid else 0
    return sum(map(int, _stat(Path(f"/proc/{pid}"))[11:13])) / CLOCK_TICKS, children / CLOCK_TICKS


def _stat(process: Path) -> list[str]:
    """From the state on; the name before it may hold spaces."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def mix() -> Told:
    seconds = float(os.environ.get("SECONDS", "60"))
    with api_and_jobs(load_mix.JOBS) as (api, sessions, jobs):
        before, generator, began = cpu_seconds(api.pid), time.process_time(), time.monotonic()
        seen = load_mix.measure(api.port, sessions, [job["id"] for job in jobs], seconds)
        own, children = (after - first for after, first in zip(cpu_seconds(api.pid), before, strict=True))
        generator = time.process_time() - generator
        elapsed = time.monotonic() - began
    spent = f"API {own:.1f}, probes of scans {children:.1f}, load generator {generator:.1f}"
    rows = [*load_mix.rows(seen, seconds), f"CPU seconds in {elapsed:.0f} s, opening included: {spent}"]
    return rows, load_mix.missed(seen)


def lists() -> Told:
    with api_and_jobs() as (api, sessions, jobs), httpx2.Client(base_url=f"http://127.0.0.1:{api.port}") as client:
        files = [load_mix.kspace(0, seed) for seed in range(1, 8)]
        scans = [checked(client.post("/v1/scans", content=file)).json()["id"] for file in files]
        load_list.fill(sessions, scans, jobs[0])
        return load_list.rows(client, scans)


def pages() -> Told:
    with api_and_jobs() as (api, sessions, jobs), httpx2.Client(base_url=f"http://127.0.0.1:{api.port}") as client:
        files = [load_mix.kspace(0, seed) for seed in range(1, 8)]
        scans = [checked(client.post("/v1/scans", content=file)).json()["id"] for file in files]
        comparison_id = load_pages.fill(sessions, scans, jobs[0])
        return load_pages.rows(client, comparison_id, jobs[0])


def jobs() -> Told:
    with api_and_jobs(0) as (api, _, _), load_jobs.working(api) as workers:
        return asyncio.run(load_jobs.jobs(api, workers))


def slow() -> Told:
    with api_and_jobs() as (api, _, jobs):
        found = asyncio.run(load_slow.slow(api.port, jobs[0]["id"]))
        return load_slow.slow_rows(*found), load_slow.slow_missed(*found)


def chunks() -> Told:
    with api_and_jobs() as (api, _, jobs):
        return asyncio.run(load_chunks.chunks(api.port, jobs[0]["id"]))


def overload() -> Told:
    with api_and_jobs() as (api, _, jobs):
        return asyncio.run(load_slow.overload(api.port, jobs[0]["id"], load_mix.kspace(2)))


PARTS: dict[str, Callable[[], Told]] = {
    "mix": mix,
    "list": lists,
    "pages": pages,
    "jobs": jobs,
    "slow": slow,
    "chunks": chunks,
    "overload": overload,
}


def main(names: list[str]) -> int:
    if unknown := set(names) - set(PARTS):
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    failed = False
    for name in names or PARTS:
        load = os.getloadavg()[0]
        print(f"\n### {name}\n")
        lines, missed = PARTS[name]()
        print("\n".join(lines))
        print(f"load of the machine before it began: {load:.1f}")
        print(f"MISSED: {'; '.join(missed)}" if missed else "all is within its bounds", flush=True)
        failed = failed or bool(missed)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

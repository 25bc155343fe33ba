"""A thousand short jobs from upload to deletion: what they leave of memory, open files and disk."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load_clients import Connection
from benchmarks.load_mix import kspace
from benchmarks.upload_memory import ROOT, Door, memory_mib

JOBS, SCANS, CLIENTS, WORKERS = 1000, 5, 4, 2
SAMPLED_EVERY = 200
FOLDERS = ("scans", "incoming", "jobs")
WAIT_SECONDS = 30


@contextmanager
def working(api: Door) -> Iterator[list[int]]:
    """Process ids of workers beside the API."""
    environment = {**api.environment, "WORKERS": str(WORKERS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "worker"]
    started = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) for _ in range(WORKERS)]
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def sample(api: Door, workers: list[int], done: int) -> str:
    """One line of the table: memory and open files of the API and of each worker, and what lies in the data folder."""
    cells = [str(done)]
    for pid in (api.pid, *workers):
        cells += [f"{memory_mib(pid, 'VmRSS'):.0f}", str(len(list(Path(f"/proc/{pid}/fd").iterdir())))]
    files, size = stored(Path(api.environment["DATA"]))
    return "| " + " | ".join([*cells, str(files), f"{size / (1 << 20):.1f}"]) + " |"


def stored(data: Path) -> tuple[int, int]:
    """Number and bytes of files that clients or workers have brought about."""
    sizes = [path.stat().st_size for name in FOLDERS for path in (data / name).rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


async def _work(port: int, scans: list[str], todo: Iterator[int], made: list[str]) -> None:
    """Take one job after the other from POST to its result."""
    connection = Connection(port)
    for number in todo:
        asked = {"scan_id": scans[number % len(scans)], "parameters": {"method": "cg_sense"}, "seed": number}
        status, _, body = await connection.ask(
            "POST", "/v1/jobs", json.dumps(asked).encode(), Content_Type="application/json"
        )
        while status == 202 or (status == 200 and json.loads(body)["status"] in ("queued", "running")):
            job = json.loads(body)["id"]
            status, _, body = await connection.ask("GET", f"/v1/jobs/{job}?wait={WAIT_SECONDS}")
        if status != 200 or json.loads(body)["status"] != "succeeded":
            raise SystemExit(f"a job ended otherwise: {body[:500]!r}")
        await connection.ask("GET", f"/v1/jobs/{job}/result?format=h5")
        made.append(job)
    connection.close()


async def jobs(api: Door, workers: list[int]) -> list[str]:
    """Lines of a Markdown table."""
    connection = Connection(api.port)
    scans = []
    for seed in range(SCANS):
        _, _, body = await connection.ask("POST", "/v1/scans", kspace(0, seed), Content_Type="application/octet-stream")
        scans.append(json.loads(body)["id"])
    connection.close()
    of_workers = "".join(f" worker {n + 1} MiB | files |" for n in range(WORKERS))
    lines = [f"| jobs done | API MiB | files |{of_workers} stored files | stored MiB |"]
    lines.append("|" + "---|" * (re.sub(r"[^|]", "", lines[0]).count("|") - 1))
    made: list[str] = []
    began = time.monotonic()
    for first in range(0, JOBS, SAMPLED_EVERY):
        todo = iter(range(first, min(JOBS, first + SAMPLED_EVERY)))
        await asyncio.gather(*(_work(api.port, scans, todo, made) for _ in range(CLIENTS)))
        lines.append(sample(api, workers, len(made)))
    seconds = time.monotonic() - began
    for path in [*(f"/v1/jobs/{job}" for job in made), *(f"/v1/scans/{scan}" for scan in scans)]:
        status, _, _ = await connection.ask("DELETE", path)
        if status != 204:
            raise SystemExit(f"DELETE {path} answered {status}")
    connection.close()
    lines.append(sample(api, workers, 0).replace("| 0 |", "| all deleted |", 1))
    return [*lines, "", f"{JOBS / seconds:.1f} jobs a second"]

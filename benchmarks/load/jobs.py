"""Resources that 1,000 short jobs leave from upload to deletion: memory, open files, disk.

`python -m benchmarks.load jobs`.
"""

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.load.clients import Connection
from benchmarks.load.mix import kspace
from benchmarks.load.upload_memory import ROOT, ApiProcess, memory_mib
from udig_recon.core.cli import UDIG

JOBS, SCANS, CLIENTS, WORKERS = int(os.environ.get("JOBS", "1000")), 5, 4, 2
SAMPLED_EVERY = max(1, JOBS // 5)
FOLDERS = ("scans", "incoming", "jobs")
WAIT_SECONDS = 30
GROWTH, FEW_FILES = 0.05, 4  # of memory at most, as a share, and of open files


@contextmanager
def working(api: ApiProcess) -> Iterator[list[int]]:
    """Process ids of workers beside the API."""
    environment = {**api.environment, "WORKERS": str(WORKERS), "OMP_NUM_THREADS": "1"}
    command = [*UDIG, "worker"]
    started = [subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) for _ in range(WORKERS)]
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


class Sample(NamedTuple):
    """What there is after so many jobs."""

    done: str
    memory_mib: list[float]  # of the API and of each worker
    files: list[int]  # that each has open
    stored: int
    stored_mib: float

    def row(self) -> str:
        """One line of the table."""
        each = [f"{memory:.0f} | {files}" for memory, files in zip(self.memory_mib, self.files, strict=True)]
        return "| " + " | ".join([self.done, *each, str(self.stored), f"{self.stored_mib:.1f}"]) + " |"


def sample(api: ApiProcess, workers: list[int], done: str) -> Sample:
    """Memory and open files of the API and of each worker, and what lies in the data folder."""
    pids = (api.pid, *workers)
    files, size = stored(Path(api.environment["DATA"]))
    memory = [memory_mib(pid, "VmRSS") for pid in pids]
    return Sample(done, memory, [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids], files, size / (1 << 20))


def grown(samples: list[Sample]) -> list[str]:
    """What is not flat, or was not deleted."""
    first, last = samples[0], samples[-1]
    found = [
        f"memory {before:.0f} to {after:.0f} MiB"
        for before, after in zip(first.memory_mib, last.memory_mib, strict=True)
        if after > before * (1 + GROWTH)
    ]
    found += ["open files"] if max(map(int.__sub__, last.files, first.files)) > FEW_FILES else []
    return [*found, *(["files after deletion"] if last.stored else [])]


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


async def jobs(api: ApiProcess, workers: list[int]) -> tuple[list[str], list[str]]:
    """Lines of a Markdown table, and what is not flat."""
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
    samples: list[Sample] = []
    began = time.monotonic()
    for first in range(0, JOBS, SAMPLED_EVERY):
        todo = iter(range(first, min(JOBS, first + SAMPLED_EVERY)))
        await asyncio.gather(*(_work(api.port, scans, todo, made) for _ in range(CLIENTS)))
        samples.append(sample(api, workers, str(len(made))))
    seconds = time.monotonic() - began
    for path in [*(f"/v1/jobs/{job}" for job in made), *(f"/v1/scans/{scan}" for scan in scans)]:
        status, _, _ = await connection.ask("DELETE", path)
        if status != 204:
            raise SystemExit(f"DELETE {path} answered {status}")
    connection.close()
    samples.append(sample(api, workers, "all deleted"))
    return [*lines, *(each.row() for each in samples), "", f"{JOBS / seconds:.1f} jobs a second"], grown(samples)

"""Share of a job's time that the service adds to the engine's: `python -m benchmarks.speed.overhead [rounds]`.

Prints a Markdown row. The stack runs as in production, but its worker adds up the time spent in the engine: reading
the slice, setting up its problem, iterating. The rest of a job, from its row's `created_at` to its `finished_at`, is
the service: queue, claim, heartbeats, snapshots, previews, checkpoints, assembly. Both times are of one run, so they do
not differ by the machine's drift.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch

from benchmarks.demo import checked
from benchmarks.load.upload_memory import ROOT, api_process
from benchmarks.speed.presets import mri_scan
from udig_recon.core.acquisition import Acquisition

MEASURING_WORKER = "from benchmarks.speed.overhead import measuring_worker; raise SystemExit(measuring_worker())"


def measuring_worker() -> int:
    """A worker that writes the engine's seconds of each slice to the file that ENGINE_SECONDS names."""
    from udig_recon.core.cost.counter import CostCounter
    from udig_recon.core.reconstruct import Event, Finished
    from udig_recon.worker.runtime import main, slice_run

    record = Path(os.environ["ENGINE_SECONDS"])
    counter = CostCounter(torch.device("cpu"))
    read_slice, slice_problems = slice_run.read_slice, slice_run.slice_problems
    reconstruct_slice = slice_run.reconstruct_slice

    def timed_read(*arguments: Any) -> Acquisition:
        with counter.timing():
            return read_slice(*arguments)

    def timed_problems(*arguments: Any, **options: Any) -> Iterator[Any]:
        return counter.measure_time(slice_problems(*arguments, **options))  # type: ignore[arg-type]

    def timed_reconstruction(*arguments: Any, **options: Any) -> Generator[Event, None, None]:
        with closing(reconstruct_slice(*arguments, **options, counter=counter)) as events:
            for event in events:
                if isinstance(event, Finished):  # the worker takes no event after it
                    with record.open("a") as file:
                        file.write(f"{counter.seconds}\n")
                    counter.seconds = 0.0
                yield event

    slice_run.read_slice = timed_read
    slice_run.slice_problems = timed_problems
    slice_run.reconstruct_slice = timed_reconstruction
    return main.work()


def job_seconds(client: httpx2.Client, scan_id: str) -> float:
    """From filing the job to its end, by the database's clock."""
    body: dict[str, Any] = {"scan_id": scan_id, "parameters": {"method": "udig_dip"}, "outputs": ["h5"]}
    job = checked(client.post("/v1/jobs", json=body)).json()
    while job["status"] not in ("succeeded", "failed"):
        job = checked(client.get(job["links"]["self"], params={"wait": 30})).json()
    if job["status"] == "failed":
        raise SystemExit(job["error"]["detail"])
    began, ended = (datetime.fromisoformat(job[name]) for name in ("created_at", "finished_at"))
    return (ended - began).total_seconds()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="udig-overhead-") as folder:
        path, record = Path(folder) / "scan.npz", Path(folder) / "engine.txt"
        scan = mri_scan(256, 8)
        np.savez(path, kspace=scan.kspace, mask=scan.mask)
        with api_process(Path(folder) / "data") as api:
            environment = {**api.environment, "ENGINE_SECONDS": str(record), "WORKERS": "1"}
            worker = subprocess.Popen([sys.executable, "-c", MEASURING_WORKER], cwd=ROOT, env=environment)
            try:
                with httpx2.Client(base_url=f"http://127.0.0.1:{api.port}", timeout=60) as client:
                    scan_id = checked(client.post("/v1/scans", content=path.read_bytes())).json()["id"]
                    # The first job waits for the worker to start, and loads the prior.
                    jobs = [job_seconds(client, scan_id) for _ in range(rounds + 1)][1:]
            finally:
                worker.terminate()
                worker.wait()
        engine = [float(line) for line in record.read_text().split()][1:]
    report(jobs, engine)


def report(jobs: list[float], engine: list[float]) -> None:
    shares = [1 - inside / job for job, inside in zip(jobs, engine, strict=True)]
    median = f"{statistics.median(jobs):.2f} | {statistics.median(engine):.2f} | {statistics.median(shares):.2%}"
    print(
        "| preset | job s | in the engine s | share that is not | least | most | jobs |\n|---|---|---|---|---|---|---|"
    )
    print(f"| standard | {median} | {min(shares):.2%} | {max(shares):.2%} | {len(jobs)} |")


if __name__ == "__main__":
    main()

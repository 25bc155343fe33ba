"""Share of a job's time that is not the engine: `python -m benchmarks.overhead [rounds]`. Prints a Markdown row.

The same slice with preset `standard` is reconstructed in turn by the service, from POST to `finished_at`, and by the
engine alone in a process of as many threads; medians are compared.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.demo import checked, running_service
from benchmarks.presets import mri_scan

THREADS = 1
ENGINE = """
import sys, time
import torch
from pathlib import Path
from core import formats
from core.parameters import complete, parse
from core.reconstruct import reconstruct, slice_problem
torch.set_num_threads({threads})
for _ in sys.stdin:
    began = time.perf_counter()
    problem = slice_problem(formats.read(Path({path!r}), [0]), 0, torch.device("cpu"))
    for _ in reconstruct(problem, complete(parse({{"method": "udig_dip"}}), problem.modality), seed=0):
        pass
    print(time.perf_counter() - began, flush=True)
"""


def job_seconds(client: httpx.Client, scan_id: str) -> float:
    """From the answer to the POST to the end of the job, by the service's own clock."""
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
        path = Path(folder) / "scan.npz"
        scan = mri_scan(256, 8)
        np.savez(path, kspace=scan.kspace, mask=scan.mask)
        code = ENGINE.format(threads=THREADS, path=str(path))
        command = [sys.executable, "-c", code]
        with (
            running_service(Path(folder) / "data", WORKERS="1", THREADS=str(THREADS)) as url,
            httpx.Client(base_url=url, timeout=60) as client,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine,
        ):
            assert engine.stdin is not None
            assert engine.stdout is not None
            scan_id = checked(client.post("/v1/scans", content=path.read_bytes())).json()["id"]
            times = []
            for turn in range(rounds + 1):
                service = job_seconds(client, scan_id)
                time.sleep(0.5)
                engine.stdin.write("go\n")
                engine.stdin.flush()
                alone = float(engine.stdout.readline())
                if turn:  # the first of each loads the prior
                    times.append((service, alone))
            engine.stdin.close()
    report(times)


def report(times: list[tuple[float, float]]) -> None:
    service, alone = (statistics.median(column) for column in zip(*times, strict=True))
    shares = [1 - engine / job for job, engine in times]
    print(
        "| job s | engine alone s | share not the engine, median | least | most | rounds |\n|---|---|---|---|---|---|"
    )
    print(
        f"| {service:.2f} | {alone:.2f} | {statistics.median(shares):.1%} | {min(shares):.1%} | {max(shares):.1%} "
        f"| {len(times)} |"
    )


if __name__ == "__main__":
    main()

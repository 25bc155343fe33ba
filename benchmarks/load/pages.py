"""Time of every page of the browser with 34,000 jobs, of which 200 comparisons have 70 each, and 16 workers.

`python -m benchmarks.load pages`. The rows are written by SQL; a page counts until its HTML is whole.
"""

import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2
from sqlalchemy import insert
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.demo import checked
from benchmarks.load import lists
from udig_recon.core.quality.rating import LEVELS
from udig_recon.worker.database.ids import new_id
from udig_recon.worker.database.tables import Comparison, Job, JobSlice, Status, Worker

COMPARISONS = 200
METHODS = ("udig_dip", "tv", "l1_wavelet", "cg_sense", "zero_filled")
SEEDS = (0, 1)
WORKERS = 16
ROUNDS = 20
MOST_SECONDS = 1.0  # that a page may take


def fill(sessions: sessionmaker[Session], scans: list[str], job: Mapping[str, Any]) -> str:
    """The jobs of `lists.fill`, with comparisons and workers; the id of the last comparison."""
    lists.fill(sessions, scans, job)
    with sessions.begin() as session:
        comparison_id = [_add_comparison(session, scans, job) for _ in range(COMPARISONS)][-1]
        rows = [
            {"name": f"gpu-{number}:4711:a", "device": "cuda", "memory_bytes": 1 << 36} for number in range(WORKERS)
        ]
        session.execute(insert(Worker), rows)
    lists.analyze(sessions)
    return comparison_id


def _add_comparison(session: Session, scans: list[str], job: Mapping[str, Any]) -> str:
    methods = [{"label": name, "parameters": {"method": name}} for name in METHODS]
    request = {"scan_ids": scans, "methods": methods, "seeds": list(SEEDS), "slices": None, "tags": {"study": "7"}}
    comparison_id = new_id()
    session.execute(insert(Comparison).values(id=comparison_id, request=request))
    rows = [
        {
            "id": new_id(),
            "scan_id": uuid.UUID(scan),
            "comparison_id": comparison_id,
            "compared": {"label": method, "scan": scan, "sampling": "4x"},
            "status": Status.SUCCEEDED,
            "rating": LEVELS[seed],
            "parameters": {**job["parameters"], "method": method},
            "outputs": ["h5"],
            "slices": [0],
            "seed": seed,
            "tags": {"study": "7"},
            "finished_at": datetime.now(UTC),
        }
        for scan in scans
        for method in METHODS
        for seed in SEEDS
    ]
    session.execute(insert(Job), rows)
    slices = [
        {
            "job_id": row["id"],
            "slice": 0,
            "status": Status.SUCCEEDED,
            "seconds": 12.5,
            "quality": lists.quality_of(row["rating"]),
            "metrics": {"psnr": 30 + 0.1 * number, "ssim": 0.9, "nmse": 0.01, "data_residual": 0.04},
        }
        for number, row in enumerate(rows)
    ]
    session.execute(insert(JobSlice), slices)
    return str(comparison_id)


def addresses(comparison_id: str, job: Mapping[str, Any]) -> dict[str, str]:
    """Every page, lists with every filter."""
    return {
        "start": "/",
        "jobs": "/jobs",
        "jobs, 200 a page": "/jobs?limit=200",
        "jobs rated check": "/jobs?rating=check",
        "jobs that failed (none)": "/jobs?status=failed",
        "jobs by a method": "/jobs?method=tv",
        "jobs by a method that none has": "/jobs?method=fbp",
        "jobs with a tag": "/jobs?tag=study:77",
        "jobs by all filters (none)": "/jobs?status=succeeded&rating=poor&method=udig_dip&tag=site:1",
        "a job": f"/jobs/{job['id']}",
        "comparisons": "/comparisons",
        "a comparison": f"/comparisons/{comparison_id}",
        "a new comparison": "/comparisons/new",
        "priors": "/priors",
        "workers and queue": "/workers",
    }


def rows(client: httpx2.Client, comparison_id: str, job: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Lines of a Markdown table, and the pages that took too long; a first request counts among the others."""
    late = []
    lines = ["| page | kB | first ms | median ms | most ms |", "|---|---|---|---|---|"]
    for label, address in addresses(comparison_id, job).items():
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            answer = checked(client.get(address, headers={"Accept": "text/html"}))
            seconds.append(time.perf_counter() - began)
        first = seconds[0]
        seconds.sort()
        times = " | ".join(f"{1000 * each:.0f}" for each in (first, seconds[ROUNDS // 2], seconds[-1]))
        lines.append(f"| {label} | {len(answer.content) / 1000:.0f} | {times} |")
        late += [label] if seconds[-1] >= MOST_SECONDS else []
    return lines, late

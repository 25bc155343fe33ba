"""Time of `GET /v1/jobs` with 10,000 jobs queued and 10,000 ended, by every filter, and Postgres' plan for each.

`python -m benchmarks.load list`.
"""

import time
import uuid
from collections.abc import Mapping

import httpx2
from sqlalchemy import insert, text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.demo import checked
from udig_recon.core.quality.rating import LEVELS
from udig_recon.worker.database.engine import make_engine
from udig_recon.worker.database.ids import new_id
from udig_recon.worker.database.roles import OWNER, with_role
from udig_recon.worker.database.tables import Job, JobSlice, Status

JOBS = 10_000
ROUNDS = 30
MOST_SECONDS = 0.1  # that a list may take


def fill(sessions: sessionmaker[Session], scans: list[str], job: Mapping[str, object]) -> None:
    """So many jobs like this one that have ended, rated, then as many that are queued, on these scans, with tags."""
    for status in (Status.SUCCEEDED, Status.QUEUED):
        ids = sorted(new_id() for _ in range(JOBS))
        rows = [
            {
                "id": each,
                "scan_id": uuid.UUID(scans[number % len(scans)]),
                "status": status,
                "rating": LEVELS[number % 4] if status is Status.SUCCEEDED else None,
                "parameters": job["parameters"],
                "outputs": ["h5"],
                "slices": [0],
                "seed": number,
                "tags": {"site": f"{number % 4}", "study": f"{number % 500}"} | ({"rare": "1"} if number == 7 else {}),
            }
            for number, each in enumerate(ids)
        ]
        with sessions.begin() as session:
            session.execute(insert(Job), rows)
            slices = [
                {"job_id": row["id"], "slice": 0, "status": status, "quality": quality_of(row["rating"])}
                for row in rows
            ]
            session.execute(insert(JobSlice), slices)
    analyze(sessions)


def analyze(sessions: sessionmaker[Session]) -> None:
    """Have Postgres count the rows, as it does by itself within a minute; the role of the service may not."""
    with sessions() as session:
        url = session.connection().engine.url.render_as_string(hide_password=False)
    engine = make_engine(with_role(url, OWNER))
    with engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    engine.dispose()


def quality_of(rating: object) -> dict[str, object] | None:
    """What a slice of this rating has stored."""
    reason = "the data are noisy: share of noise in k-space is 0.31, limit 0.2"
    return None if rating is None else {"rating": rating, "reasons": [reason]}


def queries(scans: list[str]) -> dict[str, dict[str, str]]:
    """Every filter, alone and together, with few and many jobs that it fits."""
    return {
        "newest 50": {},
        "newest 200": {"limit": "200"},
        "queued": {"status": "queued"},
        "succeeded": {"status": "succeeded"},
        "failed (none)": {"status": "failed"},
        "rated check": {"rating": "check"},
        "by a method": {"method": "udig_dip"},
        "by a method that none has": {"method": "fbp"},
        "of a scan": {"scan_id": scans[3]},
        "of a scan, queued": {"scan_id": scans[3], "status": "queued"},
        "tag key:value, 40 jobs": {"tag": "study:77"},
        "tag key:value, 5000 jobs": {"tag": "site:1"},
        "tag key, all jobs": {"tag": "study"},
        "tag key, 2 jobs": {"tag": "rare"},
        "tag that none has": {"tag": "study:none"},
        "tag and queued": {"tag": "study:77", "status": "queued"},
        "tag, scan and failed (none)": {"tag": "site:1", "scan_id": scans[3], "status": "failed"},
    }


def rows(client: httpx2.Client, scans: list[str]) -> tuple[list[str], list[str]]:
    """Lines of a Markdown table: the list alone, each filter, all queued jobs page by page; and what took too long."""
    late: list[str] = []
    lines = ["| `GET /v1/jobs` | items | median ms | most ms |", "|---|---|---|---|"]
    for label, query in queries(scans).items():
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            answer = checked(client.get("/v1/jobs", params=query))
            seconds.append(time.perf_counter() - began)
        seconds.sort()
        lines.append(_row(label, len(answer.json()["items"]), seconds))
        late += [label] if seconds[-1] >= MOST_SECONDS else []
    seconds, found, cursor = [], 0, ""
    while cursor is not None:
        query = {"status": "queued", "limit": "200"} | ({"cursor": cursor} if cursor else {})
        began = time.perf_counter()
        page = checked(client.get("/v1/jobs", params=query)).json()
        seconds.append(time.perf_counter() - began)
        found, cursor = found + len(page["items"]), page["next_cursor"]
    seconds.sort()
    lines.append(_row(f"all queued, {len(seconds)} pages of 200", found, seconds))
    late += ["a page of the queued"] if seconds[-1] >= MOST_SECONDS else []
    return lines, late


def _row(label: str, items: int, seconds: list[float]) -> str:
    return f"| {label} | {items} | {seconds[len(seconds) // 2] * 1000:.1f} | {seconds[-1] * 1000:.1f} |"

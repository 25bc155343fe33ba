"""Lists of jobs, sweeps and deletions on full tables; and migrations there, beside somebody who writes."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from alembic import command
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.http.pagination import PageRequest
from udig_recon.api.jobs.queries import job_page
from udig_recon.api.system.metrics import of_database
from udig_recon.worker.database.engine import make_engine, make_sessions
from udig_recon.worker.database.migrate import config, migrate
from udig_recon.worker.database.tables import Job, Status
from udig_recon.worker.jobs import retention, scheduling, sweep

ROUNDS = 5
FIELDS = ("status", "rating", "scan_id", "comparison_id", "tag", "method")
WRITE_SECONDS = 0.02


class Listed(NamedTuple):
    """A list: what it is, its items, median and longest time, and what of it is Postgres' (planning and execution)."""

    label: str
    items: int
    median: float
    most: float
    postgres: float


def lists(sessions: sessionmaker[Session]) -> Iterator[Listed]:
    """Each list, several times."""
    for label, tenant, asked, after in _lists(sessions):
        times, items = [], 0
        for _ in range(ROUNDS):
            began = time.perf_counter()
            with sessions() as session:
                wanted = dict.fromkeys(FIELDS) | asked
                items = len(job_page(session, tenant, page=PageRequest(50, after), **wanted).items)
            times.append(time.perf_counter() - began)
        times.sort()
        with sessions() as session, _explaining(session) as explained:
            job_page(session, tenant, page=PageRequest(50, after), **wanted)
        yield Listed(label, items, times[len(times) // 2], times[-1], min(explained))


@contextmanager
def _explaining(session: Session) -> Iterator[list[float]]:
    """Ask Postgres for each statement three times how long it took; seconds of planning and execution together."""
    found: list[float] = []
    connection = session.connection()

    def explain(_conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        for _ in range(3):
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            told = cursor.fetchone()[0][0]
            found.append((told["Planning Time"] + told["Execution Time"]) / 1000)

    event.listen(connection, "before_cursor_execute", explain)
    yield found


def _lists(sessions: sessionmaker[Session]) -> list[tuple[str, str, dict[str, Any], uuid.UUID | None]]:
    """Label, tenant, filters and the cursor of lists."""
    with sessions() as session:
        deep = session.scalars(select(Job.id).where(Job.tenant == "large").order_by(Job.id).offset(100).limit(1)).one()
        scan = session.scalars(select(Job.scan_id).where(Job.tenant == "large").order_by(Job.id.desc()).limit(1)).one()
        newest = session.scalars(select(Job.tags).where(Job.tenant == "large").order_by(Job.id.desc()).limit(1)).one()
        oldest = session.scalars(select(Job.tags).where(Job.tenant == "large").order_by(Job.id).limit(1)).one()
    asked: list[tuple[str, str, dict[str, Any], uuid.UUID | None]] = [
        ("first page, half of all jobs", "large", {}, None),
        ("last page of the same", "large", {}, deep),
        ("first page, a thousandth of all jobs", "small-7", {}, None),
        ("none: another tenant", "nobody", {}, None),
    ]
    for tenant in ("large", "small-7"):
        asked += [(f"{status}, {tenant}", tenant, {"status": status}, None) for status in Status]
    asked += [
        ("rated poor", "large", {"rating": "poor"}, None),
        ("method of a tenth", "large", {"method": "fbp"}, None),
        ("method that none has", "large", {"method": "art"}, None),
        ("of a scan", "large", {"scan_id": scan}, None),
        ("of a scan, failed", "large", {"scan_id": scan, "status": Status.FAILED}, None),
        ("method and failed", "large", {"method": "fbp", "status": Status.FAILED}, None),
        ("tag of an eighth", "large", {"tag": "site:1"}, None),
        ("tag of 150, the newest", "large", {"tag": f"study:{newest['study']}"}, None),
        ("tag of 150, the oldest", "large", {"tag": f"study:{oldest['study']}"}, None),
        ("tag key of ten jobs", "large", {"tag": "rare"}, None),
        ("tag that none has", "large", {"tag": "study:none"}, None),
        ("tag of an eighth, failed", "large", {"tag": "site:1", "status": Status.FAILED}, None),
    ]
    return asked


def sweeps(sessions: sessionmaker[Session]) -> Iterator[tuple[str, float, float]]:
    """What one worker does for all every few seconds, and a scrape of the metrics: median and longest time."""
    parts: dict[str, Callable[[], object]] = {
        "sweep of leases and messages": lambda: _in(sessions, lambda s: sweep.sweep(s, 3, 5.0, 10**6)),
        "requests to yield": lambda: _in(sessions, lambda s: scheduling.ask_to_yield(s, 20.0)),
        "next slice": lambda: _in(sessions, scheduling.next_slice),
        "/metrics": lambda: of_database(sessions, 20.0),
    }
    for name, part in parts.items():
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            part()
            times.append(time.perf_counter() - began)
        times.sort()
        yield name, times[len(times) // 2], times[-1]


def _in(sessions: sessionmaker[Session], change: Callable[[Session], object]) -> None:
    with sessions.begin() as session:
        change(session)


def delete(sessions: sessionmaker[Session], seconds: float) -> tuple[int, list[float]]:
    """Delete rows of jobs that expired long ago, for so long: their number, and seconds of each transaction."""
    times: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        more = retention._delete_rows(sessions)
        times.append(time.monotonic() - began)
        if not more:
            break
    return retention.ROWS_AT_ONCE * len(times), sorted(times)


@contextmanager
def writing(engine: Engine) -> Iterator[dict[str, list[float]]]:
    """Somebody who reads, changes and adds rows of each large table all the time; how long each statement took."""
    over, found = threading.Event(), dict[str, list[float]]()
    statements = {
        "read a job": "SELECT id FROM jobs WHERE tenant = 'large' ORDER BY id DESC LIMIT 1",
        "change a job": "UPDATE jobs SET last_seq = last_seq + 1 WHERE id = '{job}'",
        "change a slice": "UPDATE job_slices SET iteration = iteration + 1 WHERE job_id = '{job}'",
        "add a snapshot": "INSERT INTO snapshots (job_id, seq, slice, iteration, iterations, seconds) SELECT '{job}',"
        " coalesce(max(seq), 0) + 1, 0, 1, 1, 1 FROM snapshots WHERE job_id = '{job}'",
        "add a webhook": "INSERT INTO webhook_deliveries (job_id, url, event) VALUES ('{job}', 'https://x/', 'job.x')",
    }
    with engine.connect() as connection:
        jobs = connection.scalars(text("SELECT id FROM jobs ORDER BY id DESC LIMIT 5")).all()

    def loop(name: str, statement: str) -> None:
        while not over.wait(WRITE_SECONDS):
            began = time.monotonic()
            with engine.begin() as connection:
                connection.execute(text(statement))
            found.setdefault(name, []).append(time.monotonic() - began)

    threads = [
        threading.Thread(target=loop, args=(name, statement.format(job=job)))
        for (name, statement), job in zip(statements.items(), jobs, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def migrations(url: str, oldest: str) -> Iterator[tuple[str, float, str, float]]:
    """Down to a revision and up again beside who writes: step, its seconds, and the longest wait of a statement."""
    engine = make_engine(url, 5)
    steps: dict[str, Callable[[], object]] = {
        f"down to {oldest}": lambda: command.downgrade(config(url), oldest),
        "up to the newest": lambda: migrate(url),
    }
    for step, move in steps.items():
        with writing(engine) as found:
            began = time.monotonic()
            move()
            seconds = time.monotonic() - began
        for name, times in found.items():
            yield f"{step}: {name}", seconds, str(len(times)), max(times)
    engine.dispose()


def sessions_at(url: str) -> sessionmaker[Session]:
    """Sessions on a database."""
    return make_sessions(make_engine(url, 4))

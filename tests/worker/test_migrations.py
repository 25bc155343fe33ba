"""The tables come, go and come again, and are those of the models."""

import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine, MetaData, Table, event, func, inspect, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tests.support.submit import submit_job
from udig_recon.core.parameters import parse
from udig_recon.worker.access import audit, keys
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.database import counters, online
from udig_recon.worker.database.engine import make_engine
from udig_recon.worker.database.migrate import MigrationRefused, config, migrate, unusable
from udig_recon.worker.database.roles import SERVICE
from udig_recon.worker.database.tables import (
    Audit,
    Base,
    Comparison,
    DestinationDelivery,
    Job,
    JobSlice,
    Key,
    Scan,
    Snapshot,
    Status,
    WebhookDelivery,
    Worker,
)
from udig_recon.worker.jobs.webhook_outbox import ENDS
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys as stored_keys
from udig_recon.worker.storage.local import LocalStorage


@pytest.fixture
def database(owner_database: sessionmaker[Session]) -> sessionmaker[Session]:
    """Tables are changed by their owner."""
    return owner_database


def fill(session: Session) -> None:
    """Jobs of every status, with slices, snapshots, webhooks and counters, in a comparison."""
    scan = Scan(sha256="0" * 64, filename="a.h5", size_bytes=1, header={})
    session.add_all([scan, Worker(name="host:1:a", device="cpu", seen_at=func.now() - timedelta(hours=1))])
    comparison = Comparison(request={})
    session.add(comparison)
    session.flush()
    for status in Status:
        url = "https://example.org/"
        job, _ = submit_job(session, scan, slices=[0, 1], webhook_url=url)
        session.add(Snapshot(job_id=job.id, seq=1, slice=0, iteration=1, iterations=2, seconds=0.1))
        session.execute(update(JobSlice).where(JobSlice.job_id == job.id).values(status=status))
        job.status = status
        job.comparison_id, job.compared = comparison.id, {"label": "cg_sense"}


def rows(session: Session) -> dict[str, list[Any]]:
    """Every row of every table."""
    tables = inspect(session.connection()).get_table_names()
    return {
        name: sorted(map(str, session.execute(select(Table(name, MetaData(), autoload_with=session.connection())))))
        for name in tables
    }


def test_tables_with_rows_go_down_and_up_again(settings: Settings, database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        fill(session)
    url = str(settings.migration_database_url)
    command.downgrade(config(url), "base")
    with database() as session:
        assert inspect(session.connection()).get_table_names() == ["alembic_version"]
    migrate(url)
    with database.begin() as session:
        fill(session)
        assert len(session.scalars(select(JobSlice)).all()) == 2 * len(Status)


REVISIONS = [revision.revision for revision in ScriptDirectory.from_config(config("")).walk_revisions()][::-1]
STEPS = list(pairwise(REVISIONS))


@pytest.mark.parametrize(("below", "above"), STEPS)
def test_each_step_down_and_up_keeps_the_rows_that_both_sides_know(
    settings: Settings, database: sessionmaker[Session], below: str, above: str
) -> None:
    url = str(settings.migration_database_url)
    with database.begin() as session:
        fill(session)
    if above != REVISIONS[-1]:
        command.downgrade(config(url), above)
    command.downgrade(config(url), below)
    with database() as session:
        before = rows(session)
    migrate(url, above)
    command.downgrade(config(url), below)
    with database() as session:
        assert rows(session) == before


@pytest.mark.parametrize(("below", "above"), [step for step in STEPS if step[1] != "0013"])
def test_who_knows_only_the_step_before_can_still_write(
    settings: Settings, database: sessionmaker[Session], below: str, above: str
) -> None:
    """A worker of the version before works beside the new tables, whose new columns it leaves out.

    But for 0013, which renames tables: it waits until the workers of before are gone.
    """
    url = str(settings.migration_database_url)
    command.downgrade(config(url), below)
    with database() as session:
        before = columns(session)
    migrate(url, above)
    with database() as session:
        after = columns(session)
    for table, known in before.items():
        for name, (kind, needed) in known.items():
            assert after[table][name] in {(kind, needed), (kind, False)}  # what must be given may become optional
        new = {name: column for name, column in after[table].items() if name not in known}
        assert [name for name, (_, needed) in new.items() if needed] == [], table


def columns(session: Session) -> dict[str, dict[str, tuple[str, bool]]]:
    """Table -> column -> its type, and whether whoever writes a row must give it."""
    found = inspect(session.connection())
    return {
        table: {
            column["name"]: (str(column["type"]), not column["nullable"] and column["default"] is None)
            for column in found.get_columns(table)
            if "identity" not in column
        }
        for table in found.get_table_names()
    }


def test_jobs_of_an_older_version_are_kept_and_were_not_judged(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    with database.begin() as session:
        fill(session)
    url = str(settings.migration_database_url)
    command.downgrade(config(url), "0001")
    migrate(url)
    with database() as session:
        assert set(session.scalars(select(JobSlice.prior_check))) == {None}


def test_what_there_was_before_tenants_is_the_default_ones_and_older_processes_may_go_on_writing(
    settings: Settings, database: sessionmaker[Session], storage: LocalStorage
) -> None:
    url = str(settings.migration_database_url)
    command.downgrade(config(url), "0002")
    as_it_was = text(
        "INSERT INTO scans (id, sha256, filename, size_bytes, header) VALUES (gen_random_uuid(), :sha256, 'a', 1, '{}')"
    )
    with database.begin() as session:
        session.execute(as_it_was, {"sha256": "0" * 64})
    migrate(url)
    with database.begin() as session:
        session.execute(as_it_was, {"sha256": "1" * 64})
        scans = session.scalars(select(Scan).order_by(Scan.sha256)).all()
    assert [(scan.sha256[0], scan.tenant, scan.key_id, scan.expires_at) for scan in scans] == [
        ("0", "default", None, None),
        ("1", "default", None, None),
    ]
    assert storage.path(stored_keys.scan("0" * 64, scans[0].tenant)) == (storage.root / "scans") / ("0" * 64)


def test_scans_and_jobs_outlive_a_step_back_but_keys_and_the_log_do_not(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    url = str(settings.migration_database_url)
    with database.begin() as session:
        key, _ = keys.make(session, "default", NewKey(name="x", scopes=[Scope.READ]))
        fill(session)
        session.execute(update(Job).values(key_id=key.id))
        audit.append(session, Who("default", "open"), "job.filed", job=1)
    command.downgrade(config(url), "0002")
    migrate(url)
    with database() as session:
        found = {(job.tenant, job.key_id, len(job.slices)) for job in session.scalars(select(Job))}
        assert found == {("default", None, 2)}
        assert len(session.scalars(select(Scan)).all()) == 1
        assert session.scalars(select(Key)).all() == session.scalars(select(Audit)).all() == []


def test_jobs_outlive_a_step_back_but_not_what_they_were_compared_for(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    url = str(settings.migration_database_url)
    with database.begin() as session:
        fill(session)
    command.downgrade(config(url), "0005")
    migrate(url)
    with database() as session:
        found = session.scalars(select(Job)).all()
        assert [(job.comparison_id, job.compared) for job in found] == [(None, None)] * len(Status)
        assert session.scalars(select(Comparison)).all() == []


def test_webhooks_of_before_are_of_their_jobs_tenant_and_a_step_back_leaves_those_that_it_knows(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    url, traceparent = str(settings.migration_database_url), f"00-{'1' * 32}-{'2' * 16}-01"
    with database.begin() as session:
        fill(session)
        session.execute(update(Job).values(tenant="radiology", traceparent=traceparent))
        job_id, comparison_id = session.scalars(select(Job.id)).first(), session.scalars(select(Comparison.id)).one()
        for event, of in (("job.started", {"job_id": job_id}), ("comparison.failed", {"comparison_id": comparison_id})):
            session.add(WebhookDelivery(tenant="radiology", url="https://example.org/", event=event, **of))
        session.add(DestinationDelivery(job_id=job_id, destination="archive", tenant="radiology"))
    command.downgrade(config(url), "0016")
    with database() as session:
        assert set(session.scalars(text("SELECT event FROM webhook_deliveries"))) == set(ENDS)
    migrate(url)
    with database() as session:
        found = session.scalars(select(WebhookDelivery)).all()
        assert {each.event for each in found} == set(ENDS)
        assert {(each.tenant, each.traceparent, each.data) for each in found} == {("radiology", traceparent, None)}
        assert session.scalars(select(DestinationDelivery)).all() == []


@pytest.mark.parametrize("table", ["scans", "jobs"])
def test_no_step_back_shows_a_tenants_data_to_all(
    settings: Settings, database: sessionmaker[Session], table: str
) -> None:
    with database.begin() as session:
        fill(session)
        session.execute(text(f"UPDATE {table} SET tenant = 'radiology'"))
    with pytest.raises(RuntimeError, match="tenants beside"):
        command.downgrade(config(str(settings.migration_database_url)), "0002")
    with database() as session:
        assert set(session.scalars(text(f"SELECT tenant FROM {table}"))) == {"radiology"}


def test_migrations_make_the_tables_of_the_models(settings: Settings) -> None:
    engine = make_engine(str(settings.migration_database_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_migrating_what_is_migrated_changes_nothing(settings: Settings, database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        fill(session)
    migrate(str(settings.migration_database_url))
    with database() as session:
        assert len(session.scalars(select(JobSlice)).all()) == 2 * len(Status)


# Rows as version 0.1 wrote them, and as they are now.
PARAMETERS_0_1 = {
    "udig_dip": {"method": "udig_dip", "held_out_share": 0.1, "last_noisy_level": 0.05},
    "es_dip": {"method": "es_dip", "patience": 500, "patience_share": 0.25, "earliest_share": 0.1, "memory": 0.1},
    "dds": {"method": "dds", "fresh_noise": 0.85, "patience_share": 0.5, "held_out": "lines"},
}
PARAMETERS_NOW = {
    "udig_dip": {"method": "udig_dip", "holdout_share": 0.1, "noise_until": 0.05},
    "es_dip": {"method": "es_dip", "variance_patience": 500, "patience": 0.25, "min_progress": 0.1, "memory": 0.1},
    "dds": {"method": "dds", "stochasticity": 0.85, "patience": 0.5, "holdout": "lines"},
}
METRICS_0_1 = {"psnr": 30.5, "spread": 0.01, "updates": 40, "prior_calls": 20, "output_variance": None}
METRICS_NOW = {"psnr": 30.5, "seed_std": 0.01, "optimizer_steps": 40, "prior_evaluations": 20, "iterate_variance": None}
CHECK_0_1 = {
    "chosen": "mixed",
    "out_of_distribution": True,
    "prior_share": 0.4,
    "strangeness": 1.3,
    "residuals": {"tv": 0.2, "udig_dip": 0.1},
    "tv_weight": 0.003,
    "leader": 4,
    "reason": "as it was written",
}
CHECK_NOW = {
    "selected": "blend",
    "out_of_distribution": True,
    "prior_weight": 0.4,
    "ood_score": 1.3,
    "residuals": {"tv": 0.2, "udig_dip": 0.1},
    "tv_weight": 0.003,
    "reference_slice": 4,
    "reason": "as it was written",
}
QUALITY_0_1 = {"verdict": "unjudged", "reasons": ["as it was written"]}
QUALITY_NOW = {"rating": "unrated", "reasons": ["as it was written"]}
REQUEST_0_1 = {
    "scans": ["a"],
    "methods": [{"label": name, "parameters": each} for name, each in PARAMETERS_0_1.items()],
    "tags": {"held_out": "mine", "updates": "mine"},
}
REQUEST_NOW = REQUEST_0_1 | {
    "methods": [{"label": name, "parameters": each} for name, each in PARAMETERS_NOW.items()],
}
ERROR_0_1 = {"type": "urn:udig-recon:problem:worker-lost", "title": "The worker was lost", "detail": "slice 0"}


def insert_rows_of_0_1(session: Session) -> uuid.UUID:
    """A comparison of three jobs of two slices each; the first is done, the others wait. Gives the first one's id."""
    scan, comparison = uuid.UUID(int=100), uuid.UUID(int=101)
    insert = "INSERT INTO scans (id, sha256, filename, size_bytes, header) VALUES (:id, 'a', 'a', 1, '{}')"
    session.execute(text(insert), {"id": scan})
    insert = "INSERT INTO comparisons (id, tenant, request) VALUES (:id, 'default', :request)"
    session.execute(text(insert), {"id": comparison, "request": json.dumps(REQUEST_0_1)})
    jobs = [uuid.UUID(int=number) for number in range(len(PARAMETERS_0_1))]
    for job_id, parameters in zip(jobs, PARAMETERS_0_1.values(), strict=True):
        done = job_id == jobs[0]
        session.execute(
            text(
                "INSERT INTO jobs"
                " (id, scan_id, comparison_id, status, parameters, outputs, slices, seed, tags, metrics, error) VALUES"
                " (:id, :scan, :comparison, :status, :parameters, '[]', '[0, 1]', 0, :tags, :metrics, :error)"
            ),
            {
                "id": job_id,
                "scan": scan,
                "comparison": comparison,
                "status": "succeeded" if done else "queued",
                "parameters": json.dumps(parameters),
                "tags": json.dumps({"chosen": "mixed"}),
                "metrics": json.dumps(METRICS_0_1) if done else "null",
                "error": json.dumps(ERROR_0_1),
            },
        )
        for slice_ in (0, 1):
            session.execute(
                text(
                    "INSERT INTO chunks (job_id, slice, status, leader, rung_at, metrics, verdict, quality)"
                    " VALUES (:id, :slice, :status, :leader, now(), :metrics, :verdict, :quality)"
                ),
                {
                    "id": job_id,
                    "slice": slice_,
                    "status": "succeeded" if done else "queued",
                    "leader": 1 if slice_ == 0 else None,
                    "metrics": json.dumps(METRICS_0_1) if done else None,
                    "verdict": json.dumps(CHECK_0_1) if done else None,
                    "quality": json.dumps(QUALITY_0_1) if done else None,
                },
            )
    session.execute(text("INSERT INTO tallies (kind, label, amount) VALUES ('jobs', 'succeeded', 7)"))
    return jobs[0]


def test_rows_of_0_1_get_the_names_of_now_and_a_step_back_their_own(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    url = str(settings.migration_database_url)
    command.downgrade(config(url), "0012")
    with database.begin() as session:
        done = insert_rows_of_0_1(session)
    with database() as session:
        before = rows(session)
    migrate(url)
    with database() as session:
        jobs = session.scalars(select(Job).order_by(Job.id)).all()
        assert [job.parameters for job in jobs] == list(PARAMETERS_NOW.values())
        assert [parse(job.parameters).method for job in jobs] == list(PARAMETERS_NOW)
        assert (jobs[0].metrics, jobs[1].metrics) == (METRICS_NOW, None)
        assert all(job.tags == {"chosen": "mixed"} for job in jobs)
        assert all(job.error == ERROR_0_1 | {"title": "Worker lost"} for job in jobs)
        assert session.scalars(select(Comparison.request)).one() == REQUEST_NOW
        for each in session.scalars(select(JobSlice)):
            assert each.reference_slice == (1 if each.slice == 0 else None)
            expected = (METRICS_NOW, CHECK_NOW, QUALITY_NOW) if each.job_id == done else (None, None, None)
            assert (each.metrics, each.prior_check, each.quality) == expected
            assert (each.enqueued_at is None) == (each.status is Status.QUEUED)
        assert counters.totals(session) == {"jobs": {"succeeded": 7}}
    command.downgrade(config(url), "0012")
    with database.begin() as session:
        session.execute(text("UPDATE chunks SET rung_at = now() WHERE status = 'queued'"))
    with database() as session:
        session.execute(text("UPDATE chunks SET rung_at = NULL"))
        after = rows(session)
        assert without_times(after) == without_times(before)


def without_times(found: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Rows without the times in them, of which the step sets some anew, and without the revision."""
    time = re.compile(r"datetime\.datetime\([^()]*(\([^()]*\))?[^()]*\)|None")
    return {table: [time.sub("?", row) for row in each] for table, each in found.items() if table != "alembic_version"}


@pytest.mark.parametrize("step", ["up", "down"])
def test_tables_are_not_renamed_under_workers_that_know_the_others(
    settings: Settings, database: sessionmaker[Session], step: str
) -> None:
    url = str(settings.migration_database_url)
    table = "job_slices" if step == "down" else "chunks"
    if step == "up":
        command.downgrade(config(url), "0012")

    def move(*, alone: bool = False) -> None:
        if step == "up":
            migrate(url, alone=alone)
        else:
            command.downgrade(config(url, alone=alone), "0012")

    with database.begin() as session:
        session.execute(text("INSERT INTO workers (name, device) VALUES ('gpu-1:17:a', 'cpu')"))
    with pytest.raises((MigrationRefused, RuntimeError), match=r"alive: gpu-1:17:a; stop every worker"):
        move()
    with database.begin() as session:
        session.execute(text("UPDATE workers SET seen_at = now() - interval '1 minute'"))
        session.execute(
            text(
                "INSERT INTO jobs (id, status, parameters, outputs, slices, seed, tags)"
                " VALUES (gen_random_uuid(), 'running', '{}', '[]', '[0]', 0, '{}')"
            )
        )
        lease = (
            f"INSERT INTO {table} (job_id, slice, status, lease_until) SELECT id, 0, 'running', now() + :s FROM jobs"
        )
        session.execute(text(lease), {"s": timedelta(minutes=1)})
    with pytest.raises((MigrationRefused, RuntimeError), match="1 slices are leased"):
        move()
    move(alone=True)
    with database() as session:
        assert ("chunks" if step == "down" else "job_slices") in inspect(session.connection()).get_table_names()


def test_a_lease_that_has_run_out_keeps_nobody_from_migrating(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    """Its worker was killed; the sweep of the new version queues the slice again."""
    url = str(settings.migration_database_url)
    with database.begin() as session:
        fill(session)
        session.execute(update(JobSlice).values(lease_until=func.now() - timedelta(seconds=1)))
    command.downgrade(config(url), "0012")
    migrate(url)
    with database() as session:
        assert session.scalars(select(JobSlice.status).where(JobSlice.status == Status.RUNNING)).all()


ONLINE_SINCE = "0013"  # migrations after it run beside a service in use


class Statements(list[tuple[str, bool]]):
    """Statements of migrations, and whether each has a transaction of its own."""

    def __enter__(self) -> "Statements":
        event.listen(Engine, "before_cursor_execute", self._add)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(Engine, "before_cursor_execute", self._add)

    def _add(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        own = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        self.append((" ".join(statement.split()), own))


def why_it_locks(statement: str, own_transaction: bool, waits: str, made: set[str]) -> str | None:
    """Why a statement keeps others from a table for long; None: it does not. `waits`: its lock_timeout."""
    table = re.match(
        r"(?:ALTER TABLE|UPDATE|DELETE FROM|LOCK(?: TABLE)?|CLUSTER|VACUUM FULL|REINDEX TABLE)(?: ONLY)? (\w+)"
        r"|CREATE .*TRIGGER .* ON (\w+)|CREATE (?:UNIQUE )?INDEX .* ON (\w+)",
        statement,
    )
    name = next((each for each in table.groups() if each), None) if table else None
    if name in made or name == "alembic_version":
        return None
    if re.match(r"(CREATE (UNIQUE )?INDEX|DROP INDEX)", statement):
        return None if " CONCURRENTLY " in statement and own_transaction else "an index that is not CONCURRENTLY"
    if re.match(r"(LOCK|CLUSTER|VACUUM FULL|REINDEX|TRUNCATE)", statement):
        return "a lock of a whole table"
    if re.match(r"(UPDATE|DELETE)", statement):
        return None if own_transaction and "%(last)s" in statement else "rows without batches"
    if " VALIDATE CONSTRAINT " in statement:
        return None if own_transaction else "a look at all rows under a lock"
    if re.search(
        r" ADD CONSTRAINT (?!.* NOT VALID$)| ALTER COLUMN \w+ TYPE |^ALTER TABLE .*(gen_random_uuid|random\(\))",
        statement,
    ):
        return "a look at all rows, or a copy of the table, under its lock"
    if re.match(r"(ALTER TABLE|CREATE TABLE|CREATE .*TRIGGER|DROP T(ABLE|RIGGER))", statement):
        return None if own_transaction and 0 < int(waits) <= 500 else "an endless wait for a lock"
    return None


def test_no_migration_that_runs_beside_the_service_locks_a_table_for_long(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    with database.begin() as session:
        fill(session)
    url = str(settings.migration_database_url)
    with Statements() as statements:
        command.downgrade(config(url), ONLINE_SINCE)
        migrate(url)
    made, waits = set[str](), "0"
    for statement, own in statements:
        assert (why := why_it_locks(statement, own, waits, made)) is None, f"{why}: {statement}"
        if found := re.match(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", statement):
            made.add(found[1])
        if found := re.match(r"SET lock_timeout = (\d+)", statement):
            waits = found[1]
    assert len([each for each, _ in statements if "CONCURRENTLY" in each]) > 2


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX ix_jobs_x ON jobs (x)",
        "DROP INDEX ix_jobs_x",
        "ALTER TABLE jobs ADD CONSTRAINT ck_jobs_x CHECK (x > 0)",
        "ALTER TABLE jobs ALTER COLUMN seed TYPE TEXT",
        "ALTER TABLE jobs ADD COLUMN x UUID DEFAULT gen_random_uuid()",
        "UPDATE jobs SET x = 1",
        "LOCK TABLE jobs",
    ],
)
def test_what_locks_a_table_for_long_is_known_as_such(statement: str) -> None:
    assert why_it_locks(statement, True, "300", set())
    assert why_it_locks("ALTER TABLE jobs ADD COLUMN x INTEGER", True, "0", set())


def test_a_migration_that_waits_for_a_long_transaction_lets_others_write(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    url = str(settings.migration_database_url)
    with database.begin() as session:
        fill(session)
    command.downgrade(config(url), "0014")
    with ThreadPoolExecutor(1) as pool:
        with database.begin() as long:
            long.execute(text("UPDATE jobs SET seed = 1 WHERE id = (SELECT id FROM jobs LIMIT 1)"))
            migrated = pool.submit(migrate, url, "0015")
            with database() as watching:
                waits = text(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'rating'"
                )
                while not watching.scalar(waits) and not migrated.done():
                    watching.rollback()
            for _ in range(3):
                with database.begin() as session:
                    session.execute(text("UPDATE scans SET size_bytes = size_bytes + 1"))
                    session.execute(
                        text(
                            "INSERT INTO jobs SELECT (jsonb_populate_record(j, jsonb_build_object('id', "
                            "gen_random_uuid()))).* FROM jobs j LIMIT 1"
                        )
                    )
            assert not migrated.done()
        migrated.result()
    with database() as session:
        assert "rating" in columns(session)["jobs"]


def test_a_migration_that_was_interrupted_is_run_again(settings: Settings, database: sessionmaker[Session]) -> None:
    url = str(settings.migration_database_url)
    with database.begin() as session:
        fill(session)
        job_id = session.scalars(select(Job.id)).first()
    command.downgrade(config(url), "0014")
    engine = make_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN rating VARCHAR(16)"))
        connection.execute(text("UPDATE jobs SET rating = 'good'"))
        # What a CREATE INDEX CONCURRENTLY leaves that was broken off.
        with pytest.raises(IntegrityError):
            connection.execute(text("CREATE UNIQUE INDEX CONCURRENTLY ix_jobs_rating ON jobs (tenant, rating)"))
    engine.dispose()
    migrate(url)
    with database() as session:
        assert session.get_one(Job, job_id).rating == "good"
        (found,) = (
            each for each in inspect(session.connection()).get_indexes("jobs") if each["name"] == "ix_jobs_rating"
        )
        assert (found["unique"], found["column_names"]) == (False, ["tenant", "rating", "id"])
        assert session.scalar(text("SELECT count(*) FROM pg_index WHERE NOT indisvalid")) == 0


def test_who_ends_a_job_between_a_migration_and_its_grants_may_write_new_tables(
    settings: Settings, owner_database: sessionmaker[Session]
) -> None:
    url = str(settings.migration_database_url)
    with owner_database.begin() as session:
        fill(session)
    command.downgrade(config(url), "0016")
    migrate(url, "0017", SERVICE)
    service = make_engine(str(settings.database_url))
    with service.begin() as connection:
        ended = "UPDATE jobs SET status = 'succeeded', destinations = '[\"archive\"]' WHERE status = 'running'"
        connection.execute(text(ended))
        assert connection.scalar(text("SELECT count(*) FROM destination_deliveries")) == 1
    service.dispose()


def test_tables_of_a_later_version_are_used_unless_that_forbids_it(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    with database.begin() as session:
        connection = session.connection()
        assert unusable(connection) is None
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert unusable(connection) is None
        connection.execute(text("INSERT INTO service_state VALUES ('tables', '{\"revision\": \"0013\"}')"))
        assert unusable(connection) is None
        connection.execute(text('UPDATE service_state SET value = \'{"revision": "9998"}\''))
        assert "later version" in str(unusable(connection))
        connection.execute(text("UPDATE alembic_version SET version_num = '0016'"))
        assert "run udig migrate" in str(unusable(connection))


def test_a_change_of_a_table_waits_now_and_then_until_autovacuum_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    @contextmanager
    def waiting(seconds: float) -> Iterator[None]:
        waits.append(seconds)
        yield

    def step() -> None:
        if len(waits) < 20:
            raise OperationalError("ALTER TABLE", None, LockNotAvailable())

    monkeypatch.setattr(online, "_autocommit", waiting)
    monkeypatch.setattr(online, "PAUSE_SECONDS", 0.0)
    online.change(step)
    long = [number for number, seconds in enumerate(waits, 1) if seconds > 1.0]  # deadlock_timeout
    assert long == [10, 20]
    assert set(waits) == {online.LOCK_WAIT_SECONDS, online.AUTOVACUUM_WAIT_SECONDS}

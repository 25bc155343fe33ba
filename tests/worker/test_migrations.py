"""The tables come, go and come again, and are those of the models."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Table, func, inspect, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.submit import submit_job
from udig_recon.worker.access import audit, keys
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.keys import Scope, Wanted
from udig_recon.worker.database.engine import make_engine
from udig_recon.worker.database.migrate import config, migrate
from udig_recon.worker.database.tables import (
    Audit,
    Base,
    Comparison,
    Job,
    JobSlice,
    Key,
    Scan,
    Snapshot,
    Status,
    Worker,
)
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
        assert {name: after[table][name] for name in known} == known
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
        key, _ = keys.make(session, "default", Wanted(name="x", scopes=[Scope.READ]))
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

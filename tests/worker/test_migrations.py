"""The tables come, go and come again, and are those of the models."""

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select
from sqlalchemy.orm import Session, sessionmaker

from core.parameters import CGSense
from worker import jobs
from worker.database import make_engine
from worker.migrate import config, migrate
from worker.models import Base, Chunk, Scan, Snapshot, Worker
from worker.settings import Settings


def fill(session: Session) -> None:
    scan = Scan(sha256="0" * 64, filename="a.h5", size_bytes=1, header={})
    session.add_all([scan, Worker(name="host:1:a", device="cpu")])
    session.flush()
    job, _ = jobs.submit(
        session, scan=scan, method=CGSense(), outputs=["h5"], slices=[0, 1], seed=0, tags={}, max_open_jobs=10
    )
    session.add(Snapshot(job_id=job.id, seq=1, slice=0, iteration=1, iterations=2, seconds=0.1))


def test_tables_with_rows_go_down_and_up_again(settings: Settings, database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        fill(session)
    url = str(settings.database_url)
    command.downgrade(config(url), "base")
    with database() as session:
        assert inspect(session.connection()).get_table_names() == ["alembic_version"]
    migrate(url)
    with database.begin() as session:
        fill(session)
        assert len(session.scalars(select(Chunk)).all()) == 2


def test_jobs_of_an_older_version_are_kept_and_were_not_judged(
    settings: Settings, database: sessionmaker[Session]
) -> None:
    with database.begin() as session:
        fill(session)
    url = str(settings.database_url)
    command.downgrade(config(url), "0001")
    migrate(url)
    with database() as session:
        assert session.scalars(select(Chunk.verdict)).all() == [None, None]


def test_migrations_make_the_tables_of_the_models(settings: Settings) -> None:
    engine = make_engine(str(settings.database_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_migrating_what_is_migrated_changes_nothing(settings: Settings, database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        fill(session)
    migrate(str(settings.database_url))
    with database() as session:
        assert len(session.scalars(select(Chunk)).all()) == 2

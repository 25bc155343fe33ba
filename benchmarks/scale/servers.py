"""Postgres of a scale benchmark: the embedded server with memory of its own size, and PgBouncer before it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine

from udig_recon.worker.database.engine import make_engine
from udig_recon.worker.database.migrate import migrate
from udig_recon.worker.database.roles import SERVICE, with_role
from udig_recon.worker.standalone.servers import POSTGRES_OPTIONS, SUPERUSER, EmbeddedServers

MEMORY = {
    "shared_buffers": "1GB",
    "effective_cache_size": "3GB",
    "max_wal_size": "4GB",
    "max_connections": "300",
    "work_mem": "16MB",
    "random_page_cost": "1.1",
    "track_activity_query_size": "4096",
}


@contextmanager
def postgres(folder: Path, revision: str = "head") -> Iterator[EmbeddedServers]:
    """The embedded server on a folder, migrated, in 1 GiB of shared memory."""
    POSTGRES_OPTIONS.update(MEMORY)
    servers = EmbeddedServers(folder, valkey=False)
    servers.start()
    try:
        migrate(servers.migration_database_url, revision, SERVICE)
        yield servers
    finally:
        servers.stop()


def superuser_engine(url: str) -> Engine:
    """An engine of the superuser on the service's database, whose statements may take long."""
    engine: Engine = make_engine(with_role(url, SUPERUSER), 2)
    return engine

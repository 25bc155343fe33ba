"""What the tests of all packages share: a real Postgres and Valkey, and for each test an empty service on them."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from sqlalchemy import make_url
from sqlalchemy.orm import Session, sessionmaker

# As workers by default: the same bits every time are promised for one thread. Read when PyTorch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import udig_recon.core.formats.containers.hdf5_library  # noqa: F401  # before any test imports h5py: with the HDF5 that readers run on
from tests.support import moto_bucket
from tests.support.moto_bucket import Moto, moto_server
from udig_recon.worker.database.engine import conninfo, make_engine, make_sessions
from udig_recon.worker.database.migrate import migrate
from udig_recon.worker.database.roles import MAKE_ROLES, OWNER, SERVICE, with_role
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone.servers import SUPERUSER, EmbeddedServers
from udig_recon.worker.storage.local import LocalStorage


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need servers, and put files with slow tests first.

    Begun last, a slow one would keep a single process busy while the others are done.
    """
    for item in items:
        if "services" in getattr(item, "fixturenames", ()):
            item.add_marker("service")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


class Services(NamedTuple):
    """Where the servers of this run are; `template` is a migrated database to copy."""

    database_url: str  # as who may make databases
    redis_url: str
    template: str

    def url_of(self, database: str, role: str) -> str:
        """URL of another database on the same server, as a role of the service."""
        url = make_url(self.database_url).set(database=database, username=role)
        return url.render_as_string(hide_password=False)

    def execute(self, statement: str) -> None:
        """Run a statement outside a transaction."""
        with psycopg.connect(conninfo(self.database_url), autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """The servers of DATABASE_URL and REDIS_URL, or embedded ones of this run."""
    given = Settings()
    with tempfile.TemporaryDirectory(prefix="udig-test-") as folder:
        embedded = EmbeddedServers(Path(folder) / "data")
        if given.database_url is None or given.redis_url is None:
            embedded.start()
        try:
            database_url = given.database_url or with_role(embedded.database_url, SUPERUSER)
            if given.database_url is None:
                _trade_safety_for_speed(database_url)
            name = f"udig_test_{secrets.token_hex(6)}"
            made = Services(database_url, given.redis_url or embedded.redis_url, name)
            made.execute(MAKE_ROLES)
            for role in (OWNER, SERVICE):
                made.execute(f"ALTER ROLE {role} PASSWORD '{make_url(database_url).password or ''}'")
            made.execute(f"CREATE DATABASE {made.template} OWNER {OWNER}")
            migrate(made.url_of(made.template, OWNER), service=SERVICE)
            yield made
            made.execute(f"DROP DATABASE {made.template} WITH (FORCE)")
        finally:
            embedded.stop()


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """An S3 server of this run."""
    with moto_server(tmp_path_factory.mktemp("moto") / "log") as made:
        yield made


@pytest.fixture
def bucket_url(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> str:
    """DATA_STORE in a new bucket, which this process and its children reach."""
    moto_bucket.use(monkeypatch, moto.url)
    return f"s3://{moto.make_bucket()}/some/where"


def _trade_safety_for_speed(database_url: str) -> None:
    """These databases need not survive the machine."""
    with psycopg.connect(conninfo(database_url), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")


@contextmanager
def _service(services: Services, folder: Path) -> Iterator[Settings]:
    """Settings of a service of its own: an empty database, keys of its own in Redis, a data folder, quick beats."""
    name = f"{services.template}_{secrets.token_hex(4)}"
    services.execute(f"CREATE DATABASE {name} TEMPLATE {services.template} OWNER {OWNER}")
    yield Settings(
        database_url=services.url_of(name, SERVICE),
        migration_database_url=services.url_of(name, OWNER),
        redis_url=services.redis_url,
        redis_prefix=f"{name}:",
        data=folder / "data",
        port=0,
        allowed_hosts="testserver",
        workers=1,
        threads=1,
        device="cpu",
        disk_reserve_bytes=0,
        lease_seconds=3,
        heartbeat_seconds=0.3,
        snapshot_seconds=0.2,
        checkpoint_seconds=0.3,
        sweep_seconds=0.5,
    )
    services.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(services: Services, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an empty service for one test."""
    with _service(services, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def module_settings(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a service that the tests of a module share."""
    with _service(services, tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture
def database(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """Sessions on the test's database."""
    assert settings.database_url is not None
    engine = make_engine(settings.database_url)
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def owner_database(settings: Settings) -> Iterator[sessionmaker[Session]]:
    """Sessions on the test's database as the role that owns its tables."""
    engine = make_engine(str(settings.migration_database_url))
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def storage(settings: Settings) -> LocalStorage:
    """Files of the test's service."""
    return LocalStorage(settings.data)

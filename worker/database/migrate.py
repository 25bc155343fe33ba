"""`udig migrate`: bring the database's tables to the newest revision, or back to an older one."""

import sys
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from udig_recon.worker.database import locks
from udig_recon.worker.database.engine import in_one_line, make_engine
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.roles import OWNER, grant, grant_new_tables, role_of
from udig_recon.worker.database.tables import ServiceState
from udig_recon.worker.settings import get_settings
from udig_recon.worker.standalone.locate import DataFolderInUse, locate_database
from udig_recon.worker.standalone.servers import EmbeddedError

SCRIPTS = Path(__file__).parents[2] / "migrations"
USABLE_FROM = "tables"
"""Name in `service_state`: a migration writes {"revision": its own} there when no version that lacks it can go on."""


class MigrationRefused(Exception):
    """The tables cannot be migrated now; the message says why and what to do."""


def config(url: str, *, alone: bool = False) -> Config:
    """Alembic's configuration for the database at this URL; `alone`: no other process uses it."""
    made = Config()
    made.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    made.attributes["url"] = url
    made.attributes["alone"] = alone
    return made


def migrate(url: str, revision: str = "head", service: str | None = None, *, alone: bool = False) -> None:
    """Upgrade the database at this URL, as the role that owns its tables; nothing happens when it is there already.

    The role `service`, unless it is the same, is given the rights that the service needs. `alone`: no other process
    uses the database. Raises MigrationRefused while workers of a version that cannot use the new tables run.
    """
    other = None if service == role_of(url) else service
    if other is not None:
        # Processes of the version before write new tables by triggers as soon as there are any.
        _in_transaction(url, lambda connection: grant_new_tables(connection, other))
    try:
        command.upgrade(config(url, alone=alone), revision)
    except RuntimeError as error:
        raise MigrationRefused(str(error)) from error
    if other is not None and revision == "head":
        _in_transaction(url, lambda connection: grant(connection, other))


def unusable(connection: Connection) -> str | None:
    """Why this version cannot use the tables as they are; None: it can.

    It uses those of a later version, unless that says otherwise in the row USABLE_FROM of `service_state`.
    """
    scripts = ScriptDirectory.from_config(config(""))
    known = {each.revision for each in scripts.walk_revisions()}
    current = set(MigrationContext.configure(connection).get_current_heads())
    if current == set(scripts.get_heads()):
        return None
    if not current or current & known:
        return "the tables are of another version: run udig migrate"
    needed = connection.scalar(select(ServiceState.value).where(ServiceState.name == USABLE_FROM))
    if needed is not None and needed["revision"] not in known:
        return "the tables are of a later version, with which this one cannot work: start that version"
    return None


def _in_transaction(url: str, change: Callable[[Connection], None]) -> None:
    engine = make_engine(url, 1)
    try:
        with engine.begin() as connection:
            locks.acquire(connection, Lock.GRANT)
            change(connection)
    finally:
        engine.dispose()


def main(down: str | None) -> int:
    """Upgrade the tables, or take them `down` to a revision; 1 and one line when that is impossible."""
    settings = get_settings()
    if settings.database_url is None and down is None:
        return _refuse("DATABASE_URL is not set; `udig serve` starts a server of its own")
    alone = settings.database_url is None  # an embedded server, which this command starts for itself
    try:
        with locate_database(settings, alone=True, role=OWNER) as url:
            if down is None:
                migrate(url, service=role_of(str(settings.database_url)), alone=alone)
            else:
                command.downgrade(config(url, alone=alone), down)
    except DBAPIError as error:
        return _refuse(f"DATABASE_URL: {in_one_line(error)}")
    except (CommandError, RuntimeError) as error:
        return _refuse(f"--down: {error}")
    except (EmbeddedError, DataFolderInUse, MigrationRefused) as error:
        return _refuse(str(error))
    return 0


def _refuse(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 1

"""`udig postgres`: run pg_dump, pg_restore or psql on the service's database, wherever that is.

The embedded server is used as it runs; where the service is down it is started until the program ends.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

from udig_recon.worker.database.engine import conninfo
from udig_recon.worker.settings import Settings, get_settings
from udig_recon.worker.standalone.locate import locate_database
from udig_recon.worker.standalone.servers import EmbeddedError, postgres_binaries


def run(settings: Settings, command: Sequence[str]) -> int:
    """Exit status of the command on the database of these settings. Raises EmbeddedError."""
    program = [_program(settings, command[0]), *command[1:]]
    with locate_database(settings) as url:
        return subprocess.run(program, env={**os.environ, **_as_environment(url)}, check=False).returncode


def _program(settings: Settings, name: str) -> str:
    """Path of the program; for a server elsewhere any client's on PATH will do. Raises EmbeddedError."""
    try:
        program = postgres_binaries() / name
    except EmbeddedError:
        if settings.database_url is None:
            raise
        if (found := shutil.which(name)) is None:
            raise EmbeddedError(f"there is no {name} on this machine; install PostgreSQL's client programs") from None
        return found
    if not program.is_file():
        raise EmbeddedError(f"PostgreSQL has no program {name} in {program.parent}")
    return str(program)


def _as_environment(url: str) -> dict[str, str]:
    """What libpq reads instead of a URL, whose password would stand in the list of processes."""
    given = conninfo_to_dict(conninfo(url))
    variables = {option.keyword.decode(): option.envvar for option in Conninfo.get_defaults()}
    return {(variables[name] or b"").decode(): str(value) for name, value in given.items() if variables[name]}


def main(command: Sequence[str]) -> int:
    """Exit status of the command on the database of this process's settings."""
    os.umask(0o077)
    try:
        return run(get_settings(), command)
    except EmbeddedError as error:
        raise SystemExit(f"error: {error}") from None

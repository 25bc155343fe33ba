"""`python -m worker.postgres PROGRAM ...`: pg_dump, pg_restore or psql on the service's database, wherever that is.

The embedded server is used as it runs; where the service is down it is started until the program ends.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from sqlalchemy import make_url

from worker.embedded import EmbeddedError, EmbeddedServers, postgres_binaries
from worker.serve import CannotServeError, only_one
from worker.settings import Settings, get_settings
from worker.storage import Storage


def run(settings: Settings, command: Sequence[str]) -> int:
    """Exit status of the command on the database of these settings. Raises EmbeddedError."""
    program = postgres_binaries() / command[0]
    if not program.is_file():
        raise EmbeddedError(f"PostgreSQL has no program {command[0]} in {program.parent}")
    command = [str(program), *command[1:]]
    if settings.database_url is not None:
        return _run(settings.database_url, command)
    Storage(settings.data)
    servers = EmbeddedServers(settings.data, valkey=False)
    try:
        with only_one(settings.data):
            servers.start()
            try:
                return _run(servers.database_url, command)
            finally:
                servers.stop()
    except CannotServeError:  # the service is up, and its server with it
        return _run(servers.database_url, command)


def _run(url: str, command: Sequence[str]) -> int:
    return subprocess.run(command, env={**os.environ, **_as_environment(url)}, check=False).returncode


def _as_environment(url: str) -> dict[str, str]:
    """What libpq reads instead of a URL, whose password would stand in the list of processes."""
    given = conninfo_to_dict(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    variables = {option.keyword.decode(): option.envvar for option in Conninfo.get_defaults()}
    return {(variables[name] or b"").decode(): str(value) for name, value in given.items() if variables[name]}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m worker.postgres PROGRAM [ARGUMENT ...], for example pg_dump or psql")
    os.umask(0o077)
    try:
        sys.exit(run(get_settings(), sys.argv[1:]))
    except EmbeddedError as error:
        raise SystemExit(f"error: {error}") from None

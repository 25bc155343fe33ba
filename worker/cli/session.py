"""What the commands of an operator share: a session on the service's database, and errors in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from udig_recon.worker.access.audit import BrokenChain, Who
from udig_recon.worker.database.engine import in_one_line, make_engine, make_sessions
from udig_recon.worker.settings import BadSetting, get_settings
from udig_recon.worker.standalone import servers


class Refused(Exception):
    """The command cannot be done; the message says why."""


@contextmanager
def database_session() -> Iterator[Session]:
    """A session on the database of the settings, or on the embedded one of a service that runs on DATA.

    Raises ClickException, whose one line says what is wrong, for Refused, a broken audit log, and errors of the system
    or of the database. Nothing is committed.
    """
    os.umask(0o077)
    settings = get_settings()
    try:
        settings.check_embedded("database_url")
    except BadSetting as error:
        raise click.ClickException(str(error)) from None
    engine = make_engine(settings.database_url or servers.database_url(settings.data.absolute()), 1)
    try:
        with make_sessions(engine)() as session:
            yield session
    except (Refused, BrokenChain, OSError) as error:
        raise click.ClickException(str(error)) from error
    except DBAPIError as error:
        raise click.ClickException(f"DATABASE_URL: {in_one_line(error)}") from error
    finally:
        engine.dispose()


def operator(tenant: str) -> Who:
    """Who does what a command does, for the audit log."""
    return Who(tenant, f"command:{os.getuid()}")


def option_name(field: str) -> str:
    """The option of a field: --max-open-jobs."""
    return f"--{field.replace('_', '-')}"


def refused_option(error: ValidationError) -> Refused:
    """The first error of a model whose fields are options."""
    first = error.errors()[0]
    return Refused(f"{option_name(str(first['loc'][0]))}: {first['msg']}")


def print_line(line: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{line}\n")

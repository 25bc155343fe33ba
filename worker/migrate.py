"""Bring the database's tables to the newest revision: `python -m worker.migrate`; back: `--down REVISION`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError

from worker.database import in_one_line
from worker.embedded import EmbeddedError
from worker.reach import InUseError, database
from worker.settings import get_settings

SCRIPTS = Path(__file__).parent.parent / "migrations"


def config(url: str) -> Config:
    """Alembic's configuration for the database at this URL."""
    made = Config()
    made.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    made.attributes["url"] = url
    return made


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the database at this URL; nothing happens when it is there already."""
    command.upgrade(config(url), revision)


def main(arguments: Sequence[str]) -> int:
    """Do what the command says; 1 and one line on standard error when that is impossible."""
    parser = argparse.ArgumentParser(prog="python -m worker.migrate", description="Bring the tables up to date.")
    parser.add_argument("--down", metavar="REVISION", help="take them back to this revision, for an older version")
    options = parser.parse_args(arguments)
    settings = get_settings()
    if settings.database_url is None and options.down is None:
        return _refuse("DATABASE_URL is not set; `python -m worker.serve` starts a server of its own")
    try:
        with database(settings, alone=True) as url:
            if options.down is None:
                migrate(url)
            else:
                command.downgrade(config(url), options.down)
    except DBAPIError as error:
        return _refuse(f"DATABASE_URL: {in_one_line(error)}")
    except (CommandError, RuntimeError) as error:
        return _refuse(f"--down: {error}")
    except (EmbeddedError, InUseError) as error:
        return _refuse(str(error))
    return 0


def _refuse(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

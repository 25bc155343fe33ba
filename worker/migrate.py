"""Bring the database's tables to the newest revision: `python -m worker.migrate`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError

from worker.database import in_one_line
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


if __name__ == "__main__":
    if (database_url := get_settings().database_url) is None:
        raise SystemExit("error: DATABASE_URL is not set; `python -m worker.serve` starts a server of its own")
    try:
        migrate(database_url)
    except DBAPIError as error:
        raise SystemExit(f"error: DATABASE_URL: {in_one_line(error)}") from None

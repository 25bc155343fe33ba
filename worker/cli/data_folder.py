"""`udig data-folder`: which storage belongs to the database."""

import click
from sqlalchemy.orm import Session

from udig_recon.worker.access import audit
from udig_recon.worker.cli.session import database_session, operator, print_line
from udig_recon.worker.database.tables import DEFAULT_TENANT
from udig_recon.worker.settings import get_settings
from udig_recon.worker.storage import data_folder as identity
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.base import Storage


def adopt(session: Session, storage: Storage) -> str:
    """Make the storage the database's, whatever it holds, by a new id. Committed."""
    new_id = identity.adopt(session, storage)
    audit.append(session, operator(DEFAULT_TENANT), "data_folder.adopted", folder=new_id)
    session.commit()
    return new_id


@click.group("data-folder")
def data_folder() -> None:
    """Show or adopt the data folder of the database."""


@data_folder.command("show")
def _show() -> None:
    """Print the ids of the database and of the data folder, one a line."""
    with database_session() as session:
        storage = open_storage(get_settings())
        print_line(f"database: {identity.known_id(session)}\n{storage.location}: {identity.folder_id(storage)}")


@data_folder.command("adopt")
def _adopt() -> None:
    """Make DATA the database's folder, whatever it holds."""
    with database_session() as session:
        print_line(adopt(session, open_storage(get_settings())))

"""`udig data-folder`: which storage belongs to the database."""

from sqlalchemy.orm import Session

from udig_recon.worker.access import audit
from udig_recon.worker.cli.session import operator
from udig_recon.worker.database.tables import DEFAULT_TENANT
from udig_recon.worker.storage import data_folder as identity
from udig_recon.worker.storage.base import Storage


def adopt(session: Session, storage: Storage) -> str:
    """Make the storage the database's, whatever it holds, by a new id. Committed."""
    new_id = identity.adopt(session, storage)
    audit.append(session, operator(DEFAULT_TENANT), "data_folder.adopted", folder=new_id)
    session.commit()
    return new_id

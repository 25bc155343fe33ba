"""Which data folder belongs to the database: both hold the same id, so that an unmounted share is not taken for one."""

import uuid

from sqlalchemy import select
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database import locks
from udig_recon.worker.database.engine import AWAY, make_engine, make_sessions
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import Job, Scan, ServiceState
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage, StorageUnavailable

STATE = "data_folder"
LOOKED_FOR = 50  # newest scans and jobs whose files tell a folder of an older version
ADOPT = "`udig data-folder adopt` takes it as it is"


class ForeignFolder(Exception):
    """The data folder is not the one of the database; the message says why, in one line."""


def confirm(sessions: sessionmaker[Session], storage: Storage) -> bool:
    """Whether the folder is the database's; an id is given to both where neither has one. Raises ForeignFolder.

    False: database or storage does not answer, or the tables are of an older version.
    """
    try:
        with sessions.begin() as session:
            _confirm(session, storage)
    except (*AWAY, ProgrammingError, StorageUnavailable):
        return False
    return True


def confirm_at(url: str, storage: Storage) -> bool:
    """The same for a process that has just begun; it ends with one line on a folder that is not the database's."""
    engine = make_engine(url, 1)
    try:
        return confirm(make_sessions(engine), storage)
    except ForeignFolder as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        engine.dispose()


def _confirm(session: Session, storage: Storage) -> None:
    locks.acquire(session, Lock.DATA_FOLDER)
    known, here = database_id(session), folder_id(storage)
    if known == here and known is not None:
        return
    found, used = _files_of_rows(session, storage), _rows(session)
    if known is None and found == used:
        # Of an older version, or new: its own id, or one for both.
        _give(session, storage, here or str(uuid.uuid4()))
    elif known is not None and here is None and not used:
        _give(session, storage, known)
    elif here is None and used:
        raise ForeignFolder(
            f"DATA: {storage.location} is not the data folder of this database, which has scans or jobs: "
            f"is its share mounted? {ADOPT}"
        )
    else:
        raise ForeignFolder(f"DATA: {storage.location} is the data folder of another database; {ADOPT}")


def _rows(session: Session) -> bool:
    """Whether the database has scans or jobs that are kept."""
    return bool(session.scalar(select(select(Scan.id).exists() | select(Job.id).where(~Job.expired).exists())))


def _files_of_rows(session: Session, storage: Storage) -> bool:
    """Whether something lies in the folder: of the rows that there are, else of anybody's."""
    scans = session.execute(select(Scan.sha256, Scan.tenant).order_by(Scan.id.desc()).limit(LOOKED_FOR)).all()
    jobs = session.scalars(select(Job.id).where(~Job.expired).order_by(Job.id.desc()).limit(LOOKED_FOR)).all()
    if scans or jobs:
        return any(storage.exists(keys.scan(*scan)) for scan in scans) or any(
            storage.has_group(keys.job(job)) for job in jobs
        )
    return any(storage.groups()) or any(storage.list(keys.SCANS))


def database_id(session: Session) -> str | None:
    """The id of the folder that belongs to the database."""
    state = session.get(ServiceState, STATE)
    return None if state is None else str(state.value["id"])


def folder_id(storage: Storage) -> str | None:
    """The id that lies in the folder."""
    try:
        return storage.read(keys.IDENTITY).decode().strip()
    except FileNotFoundError:
        return None


def is_ours(sessions: sessionmaker[Session], storage: Storage) -> bool:
    """Whether the folder still is the one of the database: a share may go while the service runs."""
    with sessions() as session:
        return folder_id(storage) == database_id(session)


def adopt(session: Session, storage: Storage) -> str:
    """Make the folder the database's whatever it is, by a new id that no other database knows. Commits nothing."""
    _give(session, storage, made := str(uuid.uuid4()))
    return made


def _give(session: Session, storage: Storage, id_: str) -> None:
    session.merge(ServiceState(name=STATE, value={"id": id_}))
    session.flush()
    storage.put(keys.IDENTITY, f"{id_}\n".encode())

"""What the worker's tests share."""

from collections.abc import Iterator

import pytest
from running import Desk
from sqlalchemy.orm import Session, sessionmaker

from worker import data_folder
from worker.place import Place, set_up
from worker.settings import Settings
from worker.storage import Storage


@pytest.fixture
def desk(settings: Settings, database: sessionmaker[Session], storage: Storage) -> Iterator[Desk]:
    data_folder.confirm(database, storage)
    made = Desk(settings, database, storage)
    yield made
    made.celery.close()


@pytest.fixture
def place(desk: Desk) -> Iterator[Place]:
    """A worker in this process."""
    made = set_up(desk.settings)
    yield made
    made.prober.close()
    made.sessions.kw["bind"].dispose()

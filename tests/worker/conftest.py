"""What the worker's tests share."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session, sessionmaker

from tests.support.worker_processes import Desk
from udig_recon.worker.runtime.process import WorkerProcess, set_up
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import data_folder
from udig_recon.worker.storage.local import LocalStorage


@pytest.fixture
def desk(settings: Settings, database: sessionmaker[Session], storage: LocalStorage) -> Iterator[Desk]:
    data_folder.confirm(database, storage)
    made = Desk(settings, database, storage)
    yield made
    made.celery.close()


@pytest.fixture
def process(desk: Desk) -> Iterator[WorkerProcess]:
    """A worker in this process."""
    made = set_up(desk.settings)
    yield made
    made.prober.close()
    made.sessions.kw["bind"].dispose()

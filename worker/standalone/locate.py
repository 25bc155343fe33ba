"""Locate a service: its database for commands, its URL, and the lock on its data folder."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from udig_recon.worker.settings import BadSetting, Settings
from udig_recon.worker.standalone.servers import SUPERUSER, EmbeddedError, EmbeddedServers, database_url
from udig_recon.worker.storage.scratch import make_private_folder


class DataFolderInUse(Exception):
    """Another process holds the lock of the data folder; the message names it."""


@contextmanager
def lock_data_folder(data: Path) -> Iterator[None]:
    """Hold the lock of the data folder. Raises DataFolderInUse when another process holds it."""
    path = data / ".lock"
    with path.open("a+") as file:
        path.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise DataFolderInUse(f"{data} is in use by the service of process {file.read().strip()}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        (data / "service.json").unlink(missing_ok=True)
        yield


def ready_url(data: Path) -> str | None:
    """URL of the service on this data folder, once it is ready; None while none runs.

    A `service.json` that a killed supervisor left is ignored: its process no longer holds the lock.
    """
    note = data / "service.json"
    try:
        told = json.loads(note.read_text())
        with (data / ".lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return str(told["url"]) if lock.read().strip() == str(told["pid"]) else None
            note.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError):
        return None
    return None


@contextmanager
def locate_database(settings: Settings, *, alone: bool = False, role: str = SUPERUSER) -> Iterator[str]:
    """URL of the service's database, as the owner of its tables.

    A running embedded server is used, as `role`; where the service is down, the server is started until the block ends.
    Raises EmbeddedError, and DataFolderInUse where the service must be down but is up.
    """
    if settings.database_url is not None:
        yield settings.migration_database_url or settings.database_url
        return
    try:
        settings.check_embedded("database_url")
    except BadSetting as error:
        raise EmbeddedError(str(error)) from None
    make_private_folder(settings.data)
    servers = EmbeddedServers(settings.data, valkey=False)
    with ExitStack() as stack:
        # A lock that is held means that the service runs, and its server with it.
        with nullcontext() if alone else suppress(DataFolderInUse):
            stack.enter_context(lock_data_folder(settings.data))
            servers.start()
            stack.callback(servers.stop)
        yield database_url(settings.data.absolute(), role)

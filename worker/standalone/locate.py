"""The service's database, wherever it is, for commands that stand beside the service."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone.servers import SUPERUSER, EmbeddedServers, database_url
from udig_recon.worker.storage.scratch import make_private_folder


class InUseError(Exception):
    """Another process holds the data folder; the message says which."""


@contextmanager
def only_one(data: Path) -> Iterator[None]:
    """Hold the data folder. Raises InUseError when another process does."""
    path = data / ".lock"
    with path.open("a+") as file:
        path.chmod(0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise InUseError(f"{data} is in use by the service of process {file.read().strip()}") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        (data / "service.json").unlink(missing_ok=True)
        yield


def ready_url(data: Path) -> str | None:
    """Where the service on this data folder answers, once it is ready. None while nothing runs there.

    What a supervisor that was killed has left in `service.json` is not believed: it held the folder, and does no more.
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
def database(settings: Settings, *, alone: bool = False, role: str = SUPERUSER) -> Iterator[str]:
    """URL of the service's database, for who may do more than the service: the owner of its tables.

    The embedded server is used as it runs, as `role`; where the service is down it is started until the block ends.
    Raises EmbeddedError, and InUseError where the service must be down but is up.
    """
    if settings.database_url is not None:
        yield settings.migration_database_url or settings.database_url
        return
    make_private_folder(settings.data)
    servers = EmbeddedServers(settings.data, valkey=False)
    with ExitStack() as stack:
        # Where it is in use the service is up, and its server with it.
        with nullcontext() if alone else suppress(InUseError):
            stack.enter_context(only_one(settings.data))
            servers.start()
            stack.callback(servers.stop)
        yield database_url(settings.data.absolute(), role)

"""`udig serve`: the whole service on one machine. It starts servers, API and workers, and keeps them up."""

import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress

from sqlalchemy.exc import DBAPIError

from udig_recon.core.cli import UDIG
from udig_recon.worker.database import counters
from udig_recon.worker.database.engine import AWAY, in_one_line, make_engine, make_sessions
from udig_recon.worker.database.migrate import MigrationRefused, migrate
from udig_recon.worker.database.roles import role_of
from udig_recon.worker.database.worker_names import name_prefix
from udig_recon.worker.jobs import sweep
from udig_recon.worker.settings import BadSetting, Settings, read_settings
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.liveness import LivenessMonitor, StreamAddress
from udig_recon.worker.standalone.locate import DataFolderInUse, lock_data_folder
from udig_recon.worker.standalone.servers import EmbeddedError, EmbeddedServers
from udig_recon.worker.standalone.supervisor import SupervisedProcess
from udig_recon.worker.standalone.worker_group import environments
from udig_recon.worker.storage import data_folder
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.data_folder import ForeignFolder
from udig_recon.worker.storage.local import replacing_privately
from udig_recon.worker.storage.scratch import make_private_folder
from udig_recon.worker.telemetry import logs

log = logging.getLogger(__name__)
SUPERVISE_SECONDS = 0.2
READY_TIMEOUT_SECONDS = 2.0
STOP_SECONDS = 12.0


class ServeRefused(Exception):
    """The service cannot start; the message says why."""


class Service:
    """One API and some workers on one data folder, with embedded servers unless the settings name others."""

    def __init__(self, settings: Settings) -> None:
        data = settings.data.absolute()
        postgres, valkey = settings.database_url is None, settings.redis_url is None
        owner = settings.migration_database_url
        self._embedded = EmbeddedServers(data, postgres=postgres, valkey=valkey)
        self.settings = settings.model_copy(
            update={
                "data": data,
                "database_url": settings.database_url or self._embedded.database_url,
                "migration_database_url": self._embedded.migration_database_url if postgres else owner,
                "redis_url": settings.redis_url or self._embedded.redis_url,
                "port": settings.port or free_port(settings.host),
            }
        )
        count = settings.workers
        self._worker_environments = environments(settings, None if count == "auto" else count)
        self._engine = make_engine(str(self.settings.database_url))
        self._children: list[SupervisedProcess] = []
        self._liveness: LivenessMonitor | None = None

    @property
    def url(self) -> str:
        """Where the API answers."""
        host = _reachable(self.settings.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.port}"

    def start(self) -> None:
        """Start servers, migrate tables, start API and workers. Raises EmbeddedError and errors of the database."""
        self._embedded.start()
        url = str(self.settings.database_url)
        migrate(self.settings.migration_database_url or url, service=role_of(url), alone=self._embedded.has_postgres)
        if self._embedded.has_postgres:
            # No other process uses this database: workers of earlier runs are dead.
            self._deregister("")
        data_folder.confirm(make_sessions(self._engine), open_storage(self.settings))
        environment = self._environment()
        self._children = [SupervisedProcess("api", [*UDIG, "api"], environment | self._audit_key())]
        self._children += [
            SupervisedProcess(f"worker {number}", [*UDIG, "worker"], environment | added)
            for number, added in enumerate(self._worker_environments, 1)
        ]
        api, *workers = self._children
        stream = None
        if self.settings.mrd_stream:
            child = SupervisedProcess("mrd-stream", [*UDIG, "mrd-stream"], environment)
            self._children.append(child)
            if self.settings.mrd_port:  # a free one is known to the child alone
                stream = child, StreamAddress(_reachable(self.settings.mrd_host), self.settings.mrd_port)
        sessions = make_sessions(self._engine)
        self._liveness = LivenessMonitor(api, workers, self.url, sessions, self.settings.hung_seconds, stream)
        self._liveness.start()

    def _environment(self) -> dict[str, str]:
        """Environment of the children: the settings as this process read them, also those from files."""
        names = ("database_url", "redis_url", "data", "port", "host")
        read = {name.upper(): str(getattr(self.settings, name)) for name in names}
        # The children change rows, never tables; a worker that ended for want of work would be started again.
        kept_back = {*read, "WORKERS", "MIGRATION_DATABASE_URL", "IDLE_SECONDS"}
        inherited = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in kept_back}
        return {**inherited, **read}

    def _audit_key(self) -> dict[str, str]:
        """The key that signs heads of the audit log, for the API alone; made at the first start where none is set."""
        if self.settings.audit_key is not None:
            return {}
        path = self.settings.data / "audit.key"
        if not path.exists():
            with replacing_privately(path) as part:
                part.write_text(secrets.token_hex(32))
        return {"AUDIT_KEY": path.read_text().strip()}

    def supervise(self) -> None:
        """Restart what has ended, servers first, and kill what does not answer."""
        try:
            self._embedded.restart_stopped()
        except EmbeddedError as error:
            log.error("server.unavailable", extra={"error": str(error)})
        for child in self._children:
            if self._liveness is not None and self._liveness.is_hung(child):
                child.kill()
                self._count("hung_processes", child.name.split()[0])
            if (pid := child.reap()) is not None:
                self._deregister(name_prefix(pid))
            child.start_when_due()

    def _deregister(self, worker_prefix: str) -> None:
        """Requeue the slices of workers whose names begin so, without waiting for their leases to expire."""
        try:
            with make_sessions(self._engine).begin() as session:
                sweep.deregister(session, worker_prefix)
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})

    def _count(self, kind: str, label: str) -> None:
        try:
            with make_sessions(self._engine).begin() as session:
                counters.add(session, kind, label)
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})

    def is_ready(self) -> bool:
        """Whether /readyz says that a job would run now."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=READY_TIMEOUT_SECONDS) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        """Stop everything: workers give their slices back, then the servers close their files."""
        if self._liveness is not None:
            self._liveness.stop()
        processes.stop([child.process for child in self._children if child.process], signal.SIGTERM, STOP_SECONDS)
        self._engine.dispose()
        self._embedded.stop()


def serve(settings: Settings) -> None:
    """Keep the service up until SIGINT or SIGTERM."""
    settings.check_embedded("database_url", "redis_url")
    ending: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: ending.append(number))
    if settings.mrd_stream:
        settings.check_mrd_stream()
    open_storage(settings)
    make_private_folder(settings.data)
    with lock_data_folder(settings.data):
        check_port(settings)
        service, note = Service(settings), settings.data / "service.json"
        try:
            service.start()
            while not ending:
                service.supervise()
                if not note.exists() and service.is_ready():
                    with replacing_privately(note) as part:
                        part.write_text(json.dumps({"url": service.url, "pid": os.getpid()}))
                    sys.stdout.write(f"uDiG Recon is ready at {service.url}\n")
                    sys.stdout.flush()
                time.sleep(SUPERVISE_SECONDS)
        finally:
            note.unlink(missing_ok=True)
            service.stop()


def check_port(settings: Settings) -> None:
    """Raise ServeRefused where another process listens on the port."""
    try:
        with _bound(settings.host, settings.port):
            pass
    except OSError as error:
        raise ServeRefused(f"port {settings.port} of {settings.host}: {error.strerror}; set PORT or HOST") from None


def free_port(host: str) -> int:
    """A free TCP port of the host."""
    with _bound(host, 0) as taken:
        port: int = taken.getsockname()[1]
        return port


def _reachable(host: str) -> str:
    """The address at which this machine reaches what is bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def main() -> int:
    """Serve; exit status 1 and one line of error where that is impossible."""
    os.umask(0o077)
    processes.keep_private()
    logs.configure()
    logging.getLogger().setLevel(logging.WARNING)
    try:
        serve(read_settings())
    except (
        BadSetting,
        ServeRefused,
        EmbeddedError,
        ForeignFolder,
        DataFolderInUse,
        MigrationRefused,
        OSError,
    ) as error:
        return _refuse(str(error))
    except DBAPIError as error:
        return _refuse(f"DATABASE_URL: the database cannot be used: {in_one_line(error)}")
    return 0


def _refuse(message: str) -> int:
    with suppress(BrokenPipeError):
        sys.stderr.write(f"error: {message}\n")
    return 1

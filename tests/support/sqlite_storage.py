"""A storage backend from outside the package: objects are rows of a SQLite database, and no key has a path."""

import io
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.base import Storage, StoredObject
from udig_recon.worker.storage.keys import group_of
from udig_recon.worker.storage.scratch import Scratch, make_private_folder, remove_abandoned

TABLES = """
CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, content BLOB, modified REAL, version INTEGER);
CREATE TABLE IF NOT EXISTS groups (name TEXT PRIMARY KEY, modified REAL);
"""


class SqliteStorage(Storage):
    """`sqlite:PATH`, for scans of at most 1 GB."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.disk_reserve_bytes)
        self.location = str(settings.data_store)
        self._database = Path(self.location.removeprefix("sqlite:"))
        self._scratch = settings.data / "incoming"
        make_private_folder(self._scratch)
        with self._connected() as database:
            database.executescript(TABLES)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=60)) as database, database:
            yield database

    def _one(self, columns: str, key: str) -> tuple:
        with self._connected() as database:
            row = database.execute(f"SELECT {columns} FROM objects WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise FileNotFoundError(key)
        return row

    def info(self, key: str) -> StoredObject:
        return StoredObject(key, *self._one("length(content), modified, version", key))

    def open(self, key: str, *, bypass_cache: bool = False) -> BinaryIO:
        return io.BytesIO(self._one("content", key)[0])

    @contextmanager
    def local(self, key: str, *, bypass_cache: bool = False) -> Iterator[Path]:
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.read(key))
            file.flush()
            yield Path(file.name)

    def put(self, key: str, content: bytes | memoryview) -> None:
        row = (key, bytes(content), time.time(), random.getrandbits(60))
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            group = group_of(key)
            if group is not None and not database.execute("SELECT 1 FROM groups WHERE name = ?", (group,)).fetchone():
                raise FileNotFoundError(group)
            database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)", row)

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "object"
            self.put(key, (Path(folder) / "object").read_bytes())

    def scratch(self) -> Scratch:
        return Scratch(self._scratch)

    def commit(self, scratch: Path, key: str) -> None:
        self.put(key, scratch.read_bytes())

    def uploads_folder(self) -> Path:
        return self._scratch.with_name("uploads")

    def delete(self, key: str) -> None:
        with self._connected() as database:
            database.execute("DELETE FROM objects WHERE key = ?", (key,))

    def list(self, prefix: str) -> Iterator[StoredObject]:
        query = "SELECT key, length(content), modified, version FROM objects WHERE substr(key, 1, ?) = ?"
        with self._connected() as database:
            rows = database.execute(query, (len(prefix) + 1, f"{prefix}/")).fetchall()
        return (StoredObject(*row) for row in rows)

    def delete_prefix(self, prefix: str) -> None:
        with self._connected() as database:
            database.execute("DELETE FROM groups WHERE name = ?", (prefix,))
            database.execute("DELETE FROM objects WHERE substr(key, 1, ?) = ?", (len(prefix) + 1, f"{prefix}/"))

    def create_group(self, group: str) -> None:
        with self._connected() as database:
            database.execute("INSERT OR IGNORE INTO groups VALUES (?, ?)", (group, time.time()))

    def groups(self) -> Iterator[tuple[str, float]]:
        with self._connected() as database:
            return iter(database.execute("SELECT name, modified FROM groups").fetchall())

    def remove_leftovers(self, before: float) -> int:
        return remove_abandoned(self._scratch, before)

    def now(self) -> float:
        return time.time()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._scratch).free

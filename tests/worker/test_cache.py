"""Local copies of a bucket's objects: bounded, fetched once, kept from eviction while they are read."""

import errno
import os
import threading
from io import FileIO
from pathlib import Path

import pytest

from udig_recon.worker.storage.cache import Cache


def fetch_zeros(file: FileIO) -> None:
    os.pwrite(file.fileno(), b"whole", 0)


def held(cache: Cache, key: str, size: int = 100, version: str = "1") -> bytes:
    with cache.opened(key, version, size, fetch_zeros) as (path, file):
        assert path.stat().st_size == size
        return file.read(5)


def test_the_copy_that_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 300)
    for number, key in enumerate(("scans/a", "scans/b", "scans/c")):
        assert held(cache, key) == b"whole"
        os.utime(next(copy.path for copy in cache.copies() if copy.key == key), (number, number))
    held(cache, "scans/a")
    held(cache, "scans/d")
    assert {copy.key for copy in cache.copies()} == {"scans/a", "scans/c", "scans/d"}


def test_a_copy_that_is_read_is_not_evicted_and_the_bound_holds_afterwards(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 150)
    with cache.opened("scans/a", "1", 100, fetch_zeros) as (path, _):
        held(cache, "scans/b")
        assert path.exists()
    held(cache, "scans/c")
    assert sum(copy.size for copy in cache.copies()) <= 150


def test_an_object_larger_than_the_cache_is_read_and_not_kept(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 50)
    assert held(cache, "scans/a") == b"whole"
    assert cache.copies() == []


def test_many_who_want_an_object_fetch_it_once(tmp_path: Path) -> None:
    cache, fetched, started = Cache(tmp_path, 1000), [], threading.Barrier(8)

    def fetch(file: FileIO) -> None:
        fetched.append(1)
        fetch_zeros(file)

    def read() -> None:
        started.wait()
        with Cache(tmp_path, 1000).opened("scans/a", "1", 100, fetch) as (_, file):
            assert file.read(5) == b"whole"

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [1]
    assert len(cache.copies()) == 1


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fetch(file: FileIO) -> None:
        fetch_zeros(file)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError), Cache(tmp_path, 1000).opened("scans/a", "1", 100, fetch):
        pass
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_full_disk_evicts_all_it_can_and_is_told(tmp_path: Path) -> None:
    held(Cache(tmp_path, 1000), "scans/a")
    full = Cache(tmp_path, 1000, reserve_bytes=1 << 60)
    with pytest.raises(OSError, match="no room") as told:
        held(full, "scans/b")
    assert told.value.errno == errno.ENOSPC
    assert full.copies() == []


def test_copies_of_what_was_deleted_or_replaced_go_with_the_leftovers(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    for key in ("scans/deleted", "scans/replaced", "jobs/same"):
        held(cache, key)
    (tmp_path / "cut.part").write_bytes(b"x")
    now = {"scans/replaced": "2", "jobs/same": "1"}
    assert cache.remove_leftovers(2**40, now.get) == 3
    assert cache.remove_leftovers(0.0, {}.get) == 0  # another process has done it
    assert {copy.key for copy in cache.copies()} == {"jobs/same"}
    held(cache, "jobs/other")
    assert cache.drop("jobs/same", "jobs/other", "jobs/unknown")
    assert cache.copies() == []
    assert not cache.drop("jobs/same")

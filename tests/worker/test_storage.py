"""Files: whole or absent, for their owner alone, gone for good."""

import errno
import os
import uuid

import pytest

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage


def test_only_the_owner_may_enter(storage: LocalStorage) -> None:
    storage.create_group(keys.job(job_id := uuid.uuid4()))
    storage.put(preview := keys.preview(job_id, 0), b"x")
    with storage.scratch() as scratch:
        scratch.file.write(b"scan")
        storage.commit(scratch.path, scan := keys.scan("0" * 64, "radiology"))
    files = {path: path.stat().st_mode & 0o777 for path in storage.root.rglob("*")}
    assert {mode for path, mode in files.items() if path.is_dir()} == {0o700}
    assert {storage.path(key): files[storage.path(key)] for key in (preview, scan)} == {
        storage.path(preview): 0o600,
        storage.path(scan): 0o600,
    }


def test_a_file_that_is_not_finished_does_not_take_its_name(storage: LocalStorage) -> None:
    storage.put("scans/a", b"old")
    with pytest.raises(UnicodeEncodeError), storage.writing("scans/a") as part:
        part.write_text("half \ud800", "utf-8")
    assert storage.read("scans/a") == b"old"
    assert [path.name for path in storage.path("scans").iterdir()] == ["a"]
    with storage.writing("scans/a") as part:
        part.write_text("new")
    assert storage.read("scans/a") == b"new"


def test_a_full_disk_leaves_the_old_object_and_nothing_else(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("scans/a", b"old")

    def full_disk(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            storage.put("scans/a", b"new")
    assert storage.read("scans/a") == b"old"
    assert [path.name for path in storage.path("scans").iterdir()] == ["a"]


def test_a_deleted_job_does_not_come_back_by_a_late_write(storage: LocalStorage) -> None:
    job_id = uuid.uuid4()
    storage.create_group(keys.job(job_id))
    storage.put(keys.preview(job_id, 0), b"early")
    for _ in range(2):
        storage.delete_prefix(keys.job(job_id))
    with pytest.raises(FileNotFoundError):
        storage.put(keys.preview(job_id, 0), b"late")
    with pytest.raises(FileNotFoundError), storage.writing(f"{keys.results(job_id, 1)}/a") as part:
        part.write_text("late")
    assert list(storage.path(keys.JOBS).iterdir()) == []


def test_what_is_no_file_is_damaged_and_never_waited_for(storage: LocalStorage) -> None:
    os.mkfifo(storage.path("scans/a"))
    storage.path("scans/b").mkdir()
    for key in ("scans/a", "scans/b"):
        assert not storage.exists(key)
        for verb in (storage.info, storage.open):
            with pytest.raises(DamagedFile):
                verb(key)
    assert list(storage.list("scans")) == []

"""Files: whole or absent, for their owner alone, gone for good."""

import uuid
from pathlib import Path

import pytest

from udig_recon.worker.storage.local import Storage, replacing


def test_only_the_owner_may_enter(storage: Storage) -> None:
    storage.prepare_job(job_id := uuid.uuid4())
    folders = [storage.root, storage.scans, storage.incoming, storage.jobs, storage.job(job_id)]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    incoming = storage.incoming / "x.part"
    incoming.write_bytes(b"scan")
    assert storage.keep_scan(incoming, "0" * 64).stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_not_finished_does_not_take_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path) as part:
        part.write_text("half \ud800", "utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"


def test_a_deleted_job_does_not_come_back_by_a_late_write(storage: Storage) -> None:
    storage.prepare_job(job_id := uuid.uuid4())
    path = storage.preview(job_id, 0)
    storage.delete_job(job_id)
    storage.delete_job(job_id)
    with pytest.raises(FileNotFoundError), replacing(path) as part:
        part.write_text("late")
    assert list(storage.jobs.iterdir()) == []

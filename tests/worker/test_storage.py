"""Files: whole or absent, for their owner alone, gone for good."""

import errno
import os
import uuid
from pathlib import Path

import pytest

from tests.support.sqlite_storage import SqliteStorage
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.bucket import BucketStorage
from udig_recon.worker.storage.local import LocalStorage


@pytest.fixture(params=["folder", "sqlite", "bucket"])
def any_storage(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Storage:
    """Each backend: the laws below hold for all, those of other distributions included."""
    if request.param == "folder":
        return LocalStorage.from_settings(settings.model_copy(update={"data_store": f"folder:{tmp_path / 'objects'}"}))
    if request.param == "bucket":
        url = request.getfixturevalue("bucket_url")
        return BucketStorage.from_settings(settings.model_copy(update={"data_store": url}))
    return SqliteStorage(settings.model_copy(update={"data_store": f"sqlite:{tmp_path / 'objects'}"}))


def test_an_object_is_read_as_it_was_written_by_every_verb(any_storage: Storage) -> None:
    any_storage.put("scans/a", b"bytes")
    with any_storage.writing("scans/b") as path:
        path.write_bytes(b"bytes")
    with any_storage.scratch() as scratch:
        scratch.file.write(b"bytes")
        any_storage.commit(scratch.path, "scans/c")
    for key in ("scans/a", "scans/b", "scans/c"):
        assert any_storage.read(key) == b"bytes"
        with any_storage.local(key) as path, any_storage.open(key, bypass_cache=True) as file:
            assert path.read_bytes() == b"bytes"
            file.seek(2)
            assert file.read(2) == b"te"
        found = any_storage.info(key)
        assert (found.key, found.size) == (key, 5)
        assert abs(found.modified - any_storage.now()) < 60
    assert {each.key for each in any_storage.list("scans")} == {"scans/a", "scans/b", "scans/c"}
    assert any_storage.size("scans") == 15


def test_an_object_that_is_replaced_has_another_version(any_storage: Storage) -> None:
    any_storage.put("scans/a", b"one")
    before = any_storage.info("scans/a")
    assert any_storage.info("scans/a").version == before.version
    any_storage.put("scans/a", b"two")
    assert any_storage.info("scans/a").version != before.version


def test_a_write_that_fails_leaves_the_object_before(any_storage: Storage) -> None:
    any_storage.put("scans/a", b"old")
    with pytest.raises(UnicodeEncodeError), any_storage.writing("scans/a") as path:
        path.write_text("half \ud800", "utf-8")
    assert any_storage.read("scans/a") == b"old"
    assert [each.key for each in any_storage.list("scans")] == ["scans/a"]


def test_what_is_missing_is_a_file_not_found(any_storage: Storage) -> None:
    for verb in (any_storage.info, any_storage.open, any_storage.read):
        with pytest.raises(FileNotFoundError):
            verb("scans/none")
    any_storage.delete("scans/none")
    any_storage.delete_prefix("jobs/none")
    assert not any_storage.exists("scans/none")
    assert list(any_storage.list("prepared")) == []


def test_objects_of_a_group_need_the_group_and_go_with_it(any_storage: Storage) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    with pytest.raises(FileNotFoundError):
        any_storage.put(keys.preview(first, 0), b"early")
    for job_id in (first, second):
        any_storage.create_group(keys.job(job_id))
        any_storage.create_group(keys.job(job_id))
        any_storage.put(keys.preview(job_id, 0), b"x")
        any_storage.put(f"{keys.results(job_id, 1)}/a", b"xy")
    assert {name for name, _ in any_storage.groups()} == {keys.job(first), keys.job(second)}
    any_storage.delete_prefix(keys.results(second, 1))
    any_storage.delete_prefix(keys.job(first))
    assert [name for name, _ in any_storage.groups()] == [keys.job(second)]
    assert (any_storage.has_group(keys.job(first)), any_storage.has_group(keys.job(second))) == (False, True)
    assert [each.key for each in any_storage.list(keys.JOBS)] == [keys.preview(second, 0)]
    with pytest.raises(FileNotFoundError):
        any_storage.put(keys.preview(first, 0), b"late")
    any_storage.put(f"{keys.results(second, 1)}/a", b"again")


def test_scratch_files_of_the_dead_go_when_they_are_old(any_storage: Storage) -> None:
    with any_storage.scratch() as held:
        left = held.path.with_name("left.part")
        left.write_bytes(b"x")
        assert any_storage.remove_leftovers(before=0.0) == 0
        assert any_storage.remove_leftovers(before=any_storage.now() + 60) == 1
        assert (held.path.exists(), left.exists()) == (True, False)
    assert not held.path.exists()


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

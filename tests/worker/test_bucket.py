"""A bucket as a storage: fetched once, never half-written, deleted for good, and what happens when it is away."""

import hashlib
import os
import signal
import threading
import uuid
from pathlib import Path
from typing import Any

import obstore
import pytest
from click.testing import CliRunner
from obstore.store import LocalStore

from tests.support.moto_bucket import Moto
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.cli.commands import storage as storage_command
from udig_recon.worker.runtime import prepared_scans
from udig_recon.worker.settings import BadSetting, Settings, get_settings
from udig_recon.worker.standalone.serve import serve
from udig_recon.worker.storage import bucket, copying, direct_uploads, keys
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.base import StorageUnavailable
from udig_recon.worker.storage.bucket import BucketStorage
from udig_recon.worker.storage.cache import Cache
from udig_recon.worker.storage.integrity import Verifier
from udig_recon.worker.storage.local import LocalStorage

SERVERS = {"database_url": "postgresql://host/name", "redis_url": "redis://host"}
JOB = keys.job(uuid.UUID(int=1))


def settings_of(url: str, folder: Path, **more: Any) -> Settings:
    quick = {"store_timeout_seconds": 1, "store_retry_seconds": 1}
    return Settings(**SERVERS, data=folder, data_store=url, disk_reserve_bytes=0, **quick | more)


@pytest.fixture
def stored(bucket_url: str, tmp_path: Path) -> BucketStorage:
    storage = open_storage(settings_of(bucket_url, tmp_path / "host-a"))
    assert isinstance(storage, BucketStorage)
    return storage


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys whose bytes were fetched, one for each request."""
    asked: list[str] = []
    get = obstore.get

    def recording(store: Any, path: str, **options: Any) -> Any:
        asked.append(path)
        return get(store, path, **options)

    monkeypatch.setattr(obstore, "get", recording)
    return asked


def spoil(storage: BucketStorage) -> None:
    """Change a byte of each local copy, as a disk might."""
    for copy in storage.cache.copies():
        with copy.path.open("r+b") as file:
            file.write(b"?")


def test_a_scan_is_fetched_once_to_be_verified_and_read(stored: BucketStorage, fetched: list[str]) -> None:
    content = os.urandom(1 << 20)
    key, sha256 = keys.scan("a" * 64), hashlib.sha256(content).hexdigest()
    stored.put(key, content)
    with prepared_scans._verified(stored, key, sha256) as path:
        assert path.read_bytes() == content
    Verifier().check(stored, key, sha256)
    assert fetched == [key]
    spoil(stored)
    with prepared_scans._verified(stored, key, sha256) as path:
        assert path.read_bytes() == content
    assert fetched == [key] * 2
    stored.put(key, b"other bytes")
    with pytest.raises(DamagedFile), prepared_scans._verified(stored, key, sha256):
        pass


def test_a_copy_that_spoilt_is_fetched_anew_while_it_is_sent(stored: BucketStorage) -> None:
    content = os.urandom(3 << 20)
    stored.put("scans/a", content)
    verified = Verifier().check(stored, "scans/a", hashlib.sha256(content).hexdigest())
    spoil(stored)
    assert b"".join(verified.read(5, len(content))) == content[5:]
    obstore.put(stored._store, "scans/a", bytes(len(content)))
    with pytest.raises(DamagedFile):
        list(verified.read(0, len(content)))


def test_large_objects_go_and_come_in_ranges(
    stored: BucketStorage, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "BLOCK_BYTES", 5 << 20)
    content = os.urandom(11 << 20)
    with stored.writing("scans/a") as path:
        path.write_bytes(content)
    with stored.local("scans/a") as path:
        assert path.read_bytes() == content
    assert len(fetched) == 3
    with stored.open("scans/a", bypass_cache=True) as file:
        file.seek(-7, os.SEEK_END)
        assert file.read() == content[-7:]


def test_a_write_to_a_job_that_is_deleted_meanwhile_leaves_nothing(
    stored: BucketStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.create_group(JOB)
    put = obstore.put

    def late(*given: Any, **options: Any) -> Any:
        stored.delete_prefix(JOB)
        return put(*given, **options)

    with monkeypatch.context() as changed:
        changed.setattr(obstore, "put", late)
        with pytest.raises(FileNotFoundError):
            stored.put(f"{JOB}/slices/0.1.npz", b"late")
    assert list(stored.groups_with_keys()) == []
    # A writer that was killed in between: the orphan cleanup sees a group without a marker.
    put(stored._store, f"{JOB}/slices/0.1.npz", b"late")
    assert [(group.name, group.keys) for group in stored.groups_with_keys()] == [(JOB, [f"{JOB}/slices/0.1.npz"])]
    assert not stored.has_group(JOB)


def test_a_staged_file_is_put_once_and_again_where_it_was_deleted(
    stored: BucketStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts, put = [], obstore.put
    monkeypatch.setattr(obstore, "put", lambda *given, **options: puts.append(given[1]) or put(*given, **options))
    for deleted in (False, True):
        with stored.scratch() as scratch:
            scratch.path.write_bytes(b"scan")
            stored.stage(scratch.path, "scans/a")
            if deleted:
                stored.delete("scans/a")
            stored.commit(scratch.path, "scans/a")
        assert stored.read("scans/a") == b"scan"
    assert puts == ["scans/a"] * 3


def test_a_deleted_object_is_in_no_cache_of_any_machine(stored: BucketStorage, tmp_path: Path) -> None:
    other = open_storage(settings_of(stored.location, tmp_path / "host-b"))
    assert isinstance(other, BucketStorage)
    stored.put("scans/a", b"patient")
    for each in (stored, other):
        with each.local("scans/a") as path:
            assert path.read_bytes() == b"patient"
    stored.delete("scans/a")
    assert stored.cache.copies() == []
    with pytest.raises(FileNotFoundError), other.local("scans/a"):
        pass
    assert other.remove_leftovers(0.0) == 1
    assert other.cache.copies() == []


def test_a_store_that_is_away_or_refuses_is_unavailable_and_no_secret_is_told(
    stored: BucketStorage, moto: Moto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored.put("scans/a", b"x")
    os.kill(moto.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable) as told:
            stored.put("scans/a", b"x")
        # While one thread asks again the others fail at once, so that they do not fill the process.
        with stored._asking_again, pytest.raises(StorageUnavailable, match="a moment ago"):
            stored.read("scans/a")
        threading.Timer(0.5, os.kill, (moto.process.pid, signal.SIGCONT)).start()
        assert stored.read("scans/a") == b"x"  # sent again within its time
    finally:
        os.kill(moto.process.pid, signal.SIGCONT)
    missing = open_storage(settings_of("s3://no-such-bucket/prefix", tmp_path / "host-c"))
    for verb in (lambda: missing.put("scans/a", b"x"), lambda: list(missing.list("scans")), missing.now):
        with pytest.raises(StorageUnavailable) as also:
            verb()
        assert "secret" not in f"{also.value} {caplog.text}"
    assert "secret" not in f"{told.value} {caplog.text}"


def test_credentials_come_from_the_environment_or_from_files_of_it(
    bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("secret-of-the-bucket\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(BadSetting, match="AWS_SECRET_ACCESS_KEY_FILE is set too"):
        open_storage(settings_of(bucket_url, tmp_path))
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    open_storage(settings_of(bucket_url, tmp_path)).put("scans/a", b"x")


@pytest.mark.parametrize("url", ["s3://", "s3://key:secret@bucket/prefix", "s3://bucket/prefix?signature=secret"])
def test_the_address_of_a_bucket_is_a_bucket_and_holds_no_credentials(url: str) -> None:
    with pytest.raises(ValueError, match="without credentials"):
        Settings(**SERVERS, data_store=url)


@pytest.mark.parametrize("missing", ["database_url", "redis_url"])
def test_a_bucket_needs_servers_that_machines_can_share(missing: str) -> None:
    settings = Settings(**SERVERS | {missing: None}, data_store="s3://bucket/prefix")
    with pytest.raises(BadSetting, match=missing.upper()):
        serve(settings)
    settings.model_copy(update={"data_store": None}).check_embedded(missing)


def test_a_folder_is_copied_to_a_bucket_and_a_copy_that_was_cut_off_goes_on(
    stored: BucketStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = LocalStorage(tmp_path / "folder")
    folder.create_group(JOB)
    wanted = {keys.scan("a" * 64): b"scan", f"{JOB}/results/1/reconstruction.h5": b"result", keys.IDENTITY: b"id"}
    for key, content in wanted.items():
        folder.put(key, content)
    folder.put(f"{JOB}/previews/0.npz", b"preview")

    def cut(key: str) -> None:
        raise ConnectionResetError(key)

    with pytest.raises(ConnectionResetError):
        copying.copy_objects(folder, stored, cut)
    assert not stored.exists(keys.IDENTITY)
    stored.put(f"{JOB}/results/1/reconstruction.h5", b"RESULT") if stored.has_group(JOB) else None
    copied = copying.copy_objects(folder, stored)
    assert (copied.objects, copied.kept, copied.gone) == (2, 1, 0)
    assert {key: stored.read(key) for key in wanted} == wanted
    assert {each.key for each in stored.list(keys.JOBS)} == {f"{JOB}/results/1/reconstruction.h5"}
    monkeypatch.setenv("DATA", str(folder.root))
    monkeypatch.delenv("DATA_STORE", raising=False)
    get_settings.cache_clear()
    again = CliRunner().invoke(storage_command, ["copy", stored.location, "--trust-sizes"], catch_exceptions=False)
    get_settings.cache_clear()
    assert again.output.endswith("0 objects copied and compared, 0 bytes; 3 were there; 0 were deleted meanwhile\n")
    back = LocalStorage(tmp_path / "back")
    assert copying.copy_objects(stored, back).objects == 3
    assert back.read(keys.IDENTITY) == b"id"


def test_a_store_that_refuses_to_delete_what_is_missing_deletes_the_others(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    store = LocalStore(tmp_path / "objects")  # as Google's and Azure's, unlike S3
    storage = BucketStorage(store, "local", tmp_path / "data", Cache(tmp_path / "cache", 1000))
    storage.put("scans/b", b"there")
    storage._delete(["scans/a", "scans/b"])
    storage.delete("scans/b")
    assert list(storage.list(keys.SCANS)) == []


@pytest.mark.usefixtures("bucket_url")
def test_a_bucket_that_is_missing_is_told_by_a_deletion_too(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        open_storage(settings_of("s3://missing/prefix", tmp_path)).delete("scans/a")


def test_what_was_staged_and_never_committed_is_forgotten(stored: BucketStorage) -> None:
    for _ in range(3):
        with stored.scratch() as scratch:
            stored.stage(scratch.path, keys.scan("a" * 64))
    assert len(stored._staged) == 1


def test_parts_are_joined_and_those_of_another_size_are_missing(
    stored: BucketStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_uploads, "LEAST_PART_BYTES", 4)
    upload = uuid.uuid4()
    parts = direct_uploads.parts_of(10, direct_uploads.part_bytes_of(10))
    assert [(part.number, part.offset, part.size_bytes) for part in parts] == [(1, 0, 4), (2, 4, 4), (3, 8, 2)]
    for number, content in ((1, b"abcd"), (2, b"efgh"), (3, b"too long")):
        stored.put(keys.part(upload, number), content)
    with pytest.raises(direct_uploads.IncompleteParts, match="3"):
        direct_uploads.join(stored, upload, parts)
    stored.put(keys.part(upload, 3), b"ij")
    with direct_uploads.join(stored, upload, parts) as scratch:
        assert scratch.path.read_bytes() == b"abcdefghij"
    direct_uploads.delete(stored, upload)
    assert list(stored.list(keys.PARTS)) == []

"""Resumable uploads by the tus protocol, from the first byte to the scan."""

import base64
import contextlib
import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.keyed_client import KeyedApi
from udig_recon.api.app import create_app
from udig_recon.api.scans import ingest
from udig_recon.api.uploads import appending
from udig_recon.api.uploads.protocol import MEDIA_TYPE, VERSION, Checksum, Metadata
from udig_recon.worker.database.engine import CommitUnknown
from udig_recon.worker.database.tables import ResumableUpload, Scan
from udig_recon.worker.jobs import retention
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys, uploads
from udig_recon.worker.storage.local import LocalStorage
from udig_recon.worker.storage.orphans import delete_orphans
from udig_recon.worker.storage.uploads import UploadFile

TUS = {"Tus-Resumable": VERSION}
MIB = 1 << 20


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def create(client: TestClient, size: object, headers: dict[str, str] | None = None, **more: Any) -> httpx2.Response:
    return client.post("/v1/uploads", headers=TUS | {"Upload-Length": str(size)} | (headers or {}), **more)


def begin(client: TestClient, size: int, headers: dict[str, str] | None = None) -> str:
    """The path of a new upload."""
    answer = create(client, size, headers)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def append(
    client: TestClient, path: str, offset: object, data: Any, headers: dict[str, str] | None = None
) -> httpx2.Response:
    sent = TUS | {"Upload-Offset": str(offset), "Content-Type": MEDIA_TYPE} | (headers or {})
    return client.patch(path, content=data, headers=sent)


def complete(client: TestClient, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    return client.post("/v1/scans", json={"upload_id": path.rpartition("/")[2]}, headers=headers)


def offset(client: TestClient, path: str) -> int:
    return int(client.head(path, headers=TUS).headers["upload-offset"])


def id_of(path: str) -> uuid.UUID:
    return uuid.UUID(path.rpartition("/")[2])


def files(storage: LocalStorage) -> list[str]:
    """Names in the folder of uploads."""
    folder = storage.uploads_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def age(database: sessionmaker[Session], path: str, by: timedelta) -> None:
    """Let the upload be as if so much time had passed."""
    with database.begin() as session:
        earlier = update(ResumableUpload).values(expires_at=ResumableUpload.expires_at - by)
        session.execute(earlier.where(ResumableUpload.id == id_of(path)))


def test_the_server_tells_what_it_can_do(client: TestClient, settings: Settings) -> None:
    answer = client.options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-resumable"] == answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-extension"] == "creation,creation-with-upload,expiration,termination,checksum"
    assert answer.headers["tus-max-size"] == str(settings.max_upload_bytes)
    assert answer.headers["tus-checksum-algorithm"] == "sha256,sha1"


def test_an_upload_in_pieces_becomes_a_scan(client: TestClient, mri_file: bytes, storage: LocalStorage) -> None:
    sha256, size = hashlib.sha256(mri_file).hexdigest(), len(mri_file)
    metadata = f"filename {b64('a/brain.h5')},sha256 {b64(sha256)},filetype {b64('x')}, is_confidential"
    begun = create(client, size, {"Upload-Metadata": metadata})
    path = begun.headers["location"]
    assert begun.json() == client.get(path).json()
    half = size // 2
    first = append(client, path, 0, mri_file[:half])
    assert (first.status_code, first.headers["upload-offset"]) == (204, str(half))
    assert first.headers["tus-resumable"] == "1.0.0"
    head = client.head(path, headers=TUS)
    assert [head.headers[f"upload-{name}"] for name in ("offset", "length")] == [str(half), str(size)]
    assert (head.status_code, head.content, head.headers["cache-control"]) == (200, b"", "no-store")
    assert head.headers["upload-metadata"] == f"filename {b64('brain.h5')},sha256 {b64(sha256)}"
    assert head.headers["upload-expires"].endswith(" GMT")
    early = complete(client, path)
    assert (early.status_code, early.headers["upload-offset"]) == (409, str(half))
    assert append(client, path, half, mri_file[half:]).headers["upload-offset"] == str(size)
    inode = (storage.uploads_folder() / str(id_of(path))).stat().st_ino
    scan = complete(client, path)
    assert scan.status_code == 201, scan.text
    assert (scan.json()["sha256"], scan.json()["filename"]) == (sha256, "brain.h5")
    assert scan.headers["location"] == f"/v1/scans/{scan.json()['id']}"
    assert storage.read(keys.scan(sha256)) == mri_file
    found = storage.path(keys.scan(sha256)).stat()
    assert (found.st_ino, found.st_nlink, found.st_mode & 0o777) == (inode, 1, 0o600)  # moved, not copied
    assert files(storage) == []
    again = complete(client, path)
    assert (again.status_code, again.json()) == (200, scan.json())
    assert client.get(path).json()["scan_id"] == scan.json()["id"]
    assert client.get("/v1/uploads").json()["items"] == []
    assert client.delete(f"/v1/scans/{scan.json()['id']}").status_code == 204
    assert complete(client, path).status_code == 410


def test_the_same_bytes_as_an_upload_and_at_once_are_one_scan(
    client: TestClient, scan: dict[str, Any], mri_file: bytes
) -> None:
    answer = create(client, len(mri_file), {"Content-Type": MEDIA_TYPE}, content=mri_file)
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, str(len(mri_file)))
    known = complete(client, answer.headers["location"])
    assert (known.status_code, known.json()["id"]) == (200, scan["id"])


Ask = Callable[[TestClient], httpx2.Response]
REFUSED: dict[str, tuple[int, str, Ask]] = {
    "another version": (412, "Tus-Resumable", lambda c: create(c, 9, {"Tus-Resumable": "0.2.2"})),
    "no length": (422, "Upload-Length", lambda c: c.post("/v1/uploads", headers=TUS)),
    "a negative length": (422, "Upload-Length", lambda c: create(c, -1)),
    "a length of nothing": (422, "Upload-Length", lambda c: create(c, 0)),
    "a length of 30 digits": (422, "Upload-Length", lambda c: create(c, "9" * 30)),
    "a length in words": (422, "Upload-Length", lambda c: create(c, "nine")),
    "a deferred length": (422, "Upload-Defer-Length", lambda c: create(c, 9, {"Upload-Defer-Length": "1"})),
    "parts to join": (422, "Upload-Concat", lambda c: create(c, 9, {"Upload-Concat": "partial"})),
    "too large a length": (413, "Upload-Length", lambda c: create(c, 2 * MIB + 1)),
    "metadata of no base64": (422, "Upload-Metadata", lambda c: create(c, 9, {"Upload-Metadata": "filename a.h5"})),
    "metadata beyond ASCII": (
        422,
        "Upload-Metadata",
        lambda c: create(c, 9, {"Upload-Metadata": "filename é".encode()}),
    ),
    "metadata twice": (422, "Upload-Metadata", lambda c: create(c, 9, {"Upload-Metadata": "a YQ==,a YQ=="})),
    "a digest of no hash": (422, "Upload-Metadata", lambda c: create(c, 9, {"Upload-Metadata": "sha256 YQ=="})),
    "first bytes of another type": (415, "Content-Type", lambda c: create(c, 9, content=b"abc")),
    "more first bytes than announced": (
        413,
        "body",
        lambda c: create(c, 9, {"Content-Type": MEDIA_TYPE}, content=b"0123456789"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_upload_begins_with(name: str, settings: Settings, storage: LocalStorage) -> None:
    status, field, ask = REFUSED[name]
    with TestClient(create_app(settings.model_copy(update={"max_upload_bytes": 2 * MIB}))) as client:
        answer = ask(client)
        assert (answer.status_code, answer.headers["tus-resumable"]) == (status, "1.0.0"), answer.text
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert client.get("/v1/uploads").json()["items"] == []
    assert files(storage) == []


def test_bytes_that_do_not_fit_are_refused_and_change_nothing(client: TestClient) -> None:
    path, data = begin(client, 10), b"0123456789"
    assert append(client, path, 0, data[:4]).status_code == 204
    chunked = (piece for piece in (data[:3], data))
    refused = {
        "another offset": (409, append(client, path, 3, data[4:])),
        "an offset beyond": (409, append(client, path, 11, b"")),
        "no offset": (422, append(client, path, "", data[4:])),
        "another version": (412, append(client, path, 4, data[4:], {"Tus-Resumable": "2.0.0"})),
        "another type": (415, append(client, path, 4, data[4:], {"Content-Type": "application/octet-stream"})),
        "too many": (413, append(client, path, 4, data)),
        "too many, of unknown number": (413, append(client, path, 4, chunked)),
        "unknown algorithm": (400, append(client, path, 4, data[4:], {"Upload-Checksum": "md5 YWFh"})),
        "checksum of no base64": (400, append(client, path, 4, data[4:], {"Upload-Checksum": "sha1 ?"})),
        "checksum beyond ASCII": (400, append(client, path, 4, data[4:], {"Upload-Checksum": "sha1 é".encode()})),
        "wrong checksum": (460, append(client, path, 4, data[4:], {"Upload-Checksum": "sha1 YWFh"})),
    }
    assert {name: answer.status_code for name, (_, answer) in refused.items()} == {
        name: status for name, (status, _) in refused.items()
    }
    assert all(answer.headers["tus-resumable"] == "1.0.0" for _, answer in refused.values())
    assert refused["another offset"][1].headers["upload-offset"] == "4"
    wrong = refused["wrong checksum"][1].json()
    assert (wrong["title"], wrong["errors"][0]["found"]) == ("Checksum Mismatch", "sha1 YWFh")
    assert offset(client, path) == 4
    assert append(client, path, 4, b"").headers["upload-offset"] == "4"
    assert append(client, path, 4, data[4:]).headers["upload-offset"] == "10"
    assert append(client, path, 10, b"1").status_code == 413


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_bytes_with_the_right_checksum_count_all_at_once(client: TestClient, algorithm: str) -> None:
    data = os.urandom(5 * MIB + 1)
    path = begin(client, 2 * len(data))
    for start in (0, len(data)):
        digest = hashlib.new(algorithm, data).digest()
        answer = append(client, path, start, data, {"Upload-Checksum": str(Checksum(algorithm, digest))})
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(start + len(data)))


def test_a_client_behind_a_proxy_that_knows_only_post_is_heard(client: TestClient) -> None:
    path = begin(client, 3)
    patch = {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0", "Content-Type": MEDIA_TYPE}
    assert client.post(path, content=b"abc", headers=TUS | patch).status_code == 204
    assert client.post(path, headers=TUS | {"X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert client.head(path).status_code == 404
    assert client.post(path, headers=TUS | {"X-HTTP-Method-Override": "GET"}).status_code == 405
    assert client.post("/v1/scans", headers={"X-HTTP-Method-Override": "DELETE"}, content=b"x").status_code == 415


def test_a_deleted_upload_is_gone_with_its_bytes(client: TestClient, storage: LocalStorage) -> None:
    path = begin(client, 5)
    append(client, path, 0, b"abc")
    assert files(storage) == [str(id_of(path))]
    assert [upload["offset_bytes"] for upload in client.get("/v1/uploads").json()["items"]] == [3]
    assert client.delete(path, headers=TUS).status_code == 204
    assert files(storage) == []
    answers = [client.head(path), client.delete(path), append(client, path, 3, b"de"), complete(client, path)]
    assert [answer.status_code for answer in answers] == [404] * 4


def test_an_upload_expires_unless_bytes_come_and_says_so_for_a_week(
    client: TestClient, database: sessionmaker[Session], storage: LocalStorage
) -> None:
    path, other = begin(client, 5, {"Upload-Metadata": f"filename {b64('a.h5')}"}), begin(client, 5)
    for each in (path, other):
        age(database, each, timedelta(hours=23))
    append(client, path, 0, b"abc")  # puts it off
    for each in (path, other):
        age(database, each, timedelta(hours=2))
    assert retention.expire(database, storage) == 1
    assert [client.head(each).status_code for each in (path, other)] == [200, 410]
    age(database, path, timedelta(hours=23))
    answers = [client.head(path), client.delete(path), append(client, path, 3, b"de"), complete(client, path)]
    assert [answer.status_code for answer in answers] == [410] * 4
    assert "UPLOAD_EXPIRY_HOURS" in complete(client, path).json()["detail"]
    assert files(storage) == [str(id_of(path))]
    retention.expire(database, storage)
    assert files(storage) == []
    assert client.head(path).status_code == 410
    with database() as session:
        assert set(session.scalars(select(ResumableUpload.filename))) == {""}
    age(database, path, timedelta(days=8))
    retention.expire(database, storage)
    assert client.head(path).status_code == 404


@pytest.mark.parametrize("wrong", ["text", "digest"])
def test_an_upload_whose_bytes_are_no_scan_is_deleted_with_them(
    client: TestClient, mri_file: bytes, storage: LocalStorage, wrong: str
) -> None:
    data = b"slice,value" if wrong == "text" else mri_file
    path = begin(client, len(data), {} if wrong == "text" else {"Upload-Metadata": f"sha256 {b64('0' * 64)}"})
    append(client, path, 0, data)
    assert complete(client, path).status_code == (415 if wrong == "text" else 422)
    assert client.head(path).status_code == 404
    assert [files(storage), list(storage.list(keys.SCANS))] == [[], []]


def test_unfinished_uploads_count_as_stored_by_the_length_they_will_have(
    keyed_api: KeyedApi, mri_file: bytes, database: sessionmaker[Session]
) -> None:
    _, headers = keyed_api.key("a")
    size, client = len(mri_file), keyed_api.client

    def usage() -> tuple[int, int]:
        used = client.get("/v1/tenant", headers=headers).json()["usage"]
        return used["stored_bytes"], used["unfinished_uploads"]

    path = begin(client, size, headers)
    assert usage() == (size, 1)
    keyed_api.limit("a", max_stored_bytes=2 * size - 1)
    refused = create(client, size, headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3600")
    assert "max_stored_bytes" in refused.json()["detail"]
    append(client, path, 0, mri_file, headers)
    keyed_api.limit("a", max_stored_bytes=size)  # no room for its prepared form
    assert complete(client, path, headers).status_code == 429
    assert usage() == (size, 1)
    with database() as session:
        assert session.scalars(select(Scan)).all() == []
    keyed_api.limit("a", max_stored_bytes=5 * size)
    scan = complete(client, path, headers)
    assert scan.status_code == 201, scan.text
    stored, unfinished = usage()
    assert (unfinished, size < stored < 5 * size) == (0, True)


def test_a_tenant_and_a_key_have_only_so_much(keyed_api: KeyedApi) -> None:
    _, mine = keyed_api.key("a")
    _, narrow = keyed_api.key("a", max_stored_bytes=10)
    keyed_api.limit("a", max_unfinished_uploads=2)
    first = begin(keyed_api.client, 6, narrow)
    assert create(keyed_api.client, 6, narrow).status_code == 429
    begin(keyed_api.client, 6, mine)
    refused = create(keyed_api.client, 6, mine)
    assert refused.status_code == 429
    assert "max_unfinished_uploads" in refused.json()["detail"]
    assert keyed_api.client.delete(first, headers=mine).status_code == 204
    assert create(keyed_api.client, 6, mine).status_code == 201
    assert create(keyed_api.client, 6, keyed_api.key("b")[1]).status_code == 201


def test_bytes_take_one_of_the_places_of_uploads(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_uploads": 2}))
    with TestClient(app) as client:
        path = begin(client, 3)
        with app.state.context.concurrency.uploads.slot("testclient"):
            assert append(client, path, 0, b"abc").status_code == 429
            assert create(client, 3, {"Content-Type": MEDIA_TYPE}, content=b"abc").status_code == 429
            assert create(client, 3).status_code == 201
        assert append(client, path, 0, b"abc").status_code == 204
        with app.state.context.concurrency.uploads.slot("testclient"):
            assert complete(client, path).status_code == 429


def test_a_full_disk_stops_an_upload_which_goes_on_when_there_is_room(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, at = os.urandom(3 * MIB), MIB
    path = begin(client, len(data))
    assert append(client, path, 0, data[:at]).status_code == 204

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    for step in ("sync", "write"):
        with monkeypatch.context() as patched:
            patched.setattr(UploadFile, step, full)
            assert append(client, path, at, data[at:]).status_code == 507
        assert offset(client, path) == at
    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "free_bytes", lambda _: 0)
        assert append(client, path, at, data[at:]).status_code == 507
        assert create(client, 9).status_code == 507
    assert offset(client, path) == at
    assert append(client, path, at, data[at:]).status_code == 204


def test_bytes_beyond_what_the_row_counts_are_written_again(
    client: TestClient, mri_file: bytes, storage: LocalStorage
) -> None:
    """As after a process was killed between a write and its commit, with whatever lies there."""
    path = begin(client, len(mri_file))
    append(client, path, 0, mri_file[:1000])
    with uploads.path_of(storage, id_of(path)).open("ab") as file:
        file.write(os.urandom(500))
    assert offset(client, path) == 1000
    assert append(client, path, 1000, mri_file[1000:]).status_code == 204
    assert complete(client, path).json()["sha256"] == hashlib.sha256(mri_file).hexdigest()


def test_an_upload_whose_file_is_shorter_than_its_row_says_is_never_filled_with_zeros(
    client: TestClient, storage: LocalStorage
) -> None:
    path, whole = begin(client, 5), begin(client, 3)
    append(client, path, 0, b"abc")
    append(client, whole, 0, b"abc")
    for each in (path, whole):
        os.truncate(uploads.path_of(storage, id_of(each)), 1)
    answers = [append(client, path, 3, b"de"), complete(client, whole)]
    uploads.delete_file(storage, id_of(path))
    answers.append(append(client, path, 3, b"de"))
    assert [answer.status_code for answer in answers] == [410] * 3
    assert "lost" in answers[0].json()["detail"]


def test_two_that_write_to_one_upload_at_once_never_mix(client: TestClient, storage: LocalStorage) -> None:
    """Each sends bytes of its own from the same offset on; one of them wins, and the other is told."""
    size = 6 * MIB
    path = begin(client, size)
    pieces = [bytes([mark]) * size for mark in (1, 2, 3)]
    answers: list[httpx2.Response] = []
    threads = [threading.Thread(target=lambda p=p: answers.append(append(client, path, 0, p))) for p in pieces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) in ([204, 409, 409], [204, 409, 423])
    assert uploads.path_of(storage, id_of(path)).read_bytes() in pieces


def test_a_request_waits_for_another_ones_block_and_then_gives_up(
    client: TestClient, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "LOCK_SECONDS", 0.1)
    path = begin(client, 3)
    other = UploadFile(uploads.path_of(storage, id_of(path)), 0)
    with contextlib.closing(other), other.locked():
        busy = append(client, path, 0, b"abc")
        assert (busy.status_code, busy.headers["retry-after"]) == (423, "1")
        assert offset(client, path) == 0
    assert append(client, path, 0, b"abc").status_code == 204
    other = UploadFile(uploads.path_of(storage, id_of(path)), 0)
    with contextlib.closing(other), other.locked():
        assert complete(client, path).status_code == 423


def test_an_upload_that_is_deleted_while_it_is_looked_into_becomes_no_scan(
    client: TestClient, mri_file: bytes, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = begin(client, len(mri_file))
    append(client, path, 0, mri_file)
    release = uploads.release

    def deleted(session: Session, upload_id: uuid.UUID) -> None:
        assert client.delete(path).status_code == 204
        release(session, upload_id)

    monkeypatch.setattr(ingest.uploads, "release", deleted)
    assert complete(client, path).status_code == 410
    assert client.get("/v1/scans").json()["items"] == []
    assert [files(storage), list(storage.list(keys.SCANS)), list(storage.list(keys.PREPARED))] == [[], [], []]


@pytest.mark.parametrize("took_effect", [True, False])
def test_a_scan_whose_commit_got_no_answer_is_asked_for_again(
    client: TestClient,
    mri_file: bytes,
    storage: LocalStorage,
    database: sessionmaker[Session],
    monkeypatch: pytest.MonkeyPatch,
    took_effect: bool,
) -> None:
    path = begin(client, len(mri_file))
    append(client, path, 0, mri_file)
    commit = Session.commit

    def unanswered(session: Session) -> None:
        if took_effect:
            commit(session)
        raise CommitUnknown("COMMIT", None, Exception("away"))

    with monkeypatch.context() as patched:
        patched.setattr(Session, "commit", unanswered)
        assert complete(client, path).status_code == 503
    assert complete(client, path).status_code == (200 if took_effect else 201)
    delete_orphans(database, storage, -60)
    assert files(storage) == []
    assert storage.read(keys.scan(hashlib.sha256(mri_file).hexdigest())) == mri_file


def test_a_storage_without_links_copies(
    client: TestClient, mri_file: bytes, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    path = begin(client, len(mri_file))
    append(client, path, 0, mri_file)
    assert complete(client, path).status_code == 201
    assert files(storage) == []
    assert storage.read(keys.scan(hashlib.sha256(mri_file).hexdigest())) == mri_file


def test_files_that_no_unfinished_upload_needs_are_tidied_away(
    client: TestClient, database: sessionmaker[Session], storage: LocalStorage
) -> None:
    path = begin(client, 5)
    append(client, path, 0, b"abc")
    stray = uuid.uuid4()
    uploads.create_file(storage, stray)
    (storage.uploads_folder() / f"{uuid.uuid4()}{uploads.LINK}").write_bytes(b"x")
    assert delete_orphans(database, storage, 3600) == 0
    assert delete_orphans(database, storage, -60) == 2
    assert files(storage) == [str(id_of(path))]
    assert offset(client, path) == 3


def test_what_changes_an_upload_is_in_the_audit_log(keyed_api: KeyedApi, mri_file: bytes) -> None:
    key_id, headers = keyed_api.key("a")
    path, other = begin(keyed_api.client, len(mri_file), headers), begin(keyed_api.client, 9, headers)
    append(keyed_api.client, path, 0, mri_file, headers)
    scan = complete(keyed_api.client, path, headers).json()
    keyed_api.client.delete(other, headers=headers)
    assert keyed_api.audited() == [
        (f"key:{key_id}", "upload.created", {"upload": str(id_of(path))}),
        (f"key:{key_id}", "upload.created", {"upload": str(id_of(other))}),
        (f"key:{key_id}", "scan.uploaded", {"scan": scan["id"]}),
        (f"key:{key_id}", "upload.deleted", {"upload": str(id_of(other))}),
    ]


def test_metadata_is_what_the_client_wrote_of_what_is_kept() -> None:
    kept = Metadata("brain.h5", "0" * 64)
    assert Metadata.of(str(kept)) == kept
    assert Metadata.of("") == Metadata.of("relativePath bnVsbA==") == Metadata()

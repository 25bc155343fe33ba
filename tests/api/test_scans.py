import base64
import dataclasses
import errno
import hashlib
import json
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tests.support import scans
from tests.support.bart_maker import cfl, hdr, in_bart_order
from tests.support.fake_worker import Drive
from udig_recon.api.app import create_app
from udig_recon.api.scans.upload import base_name
from udig_recon.core.formats import Prober
from udig_recon.core.formats.prepared import verify_prepared
from udig_recon.core.formats.sandbox.pool import ReaderPool
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

WRONG = (
    *("empty", "text", "truncated", "own_result", "rank_1", "nan", "all_zero", "mask_of_another_width"),
    *(
        "maps_of_fewer_coils",
        "million_wide",
        "degrees",
        "external_link",
        "external_storage",
        "hdf5_bomb",
        "pickled_npy",
    ),
)
PART = b"--x\r\nContent-Disposition: form-data; name=%s\r\n\r\n"

NO_FILES = [
    (b"", "application/octet-stream", 415),
    (PART % b"file" + b"no end", "multipart/form-data; boundary=x", 400),
    (b"whatever", "multipart/form-data", 415),
    (
        b"--x\r\nContent-Disposition: form-data; name=other\r\n\r\n1\r\n--x--",
        "multipart/form-data; boundary=x",
        422,
    ),
    (b"--x--\r\n", "multipart/form-data; boundary=x", 422),
]


def stored(storage: LocalStorage) -> list[str]:
    return [path.name for name in ("scans", "incoming") for path in (storage.root / name).iterdir()]


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


@pytest.mark.parametrize("name", ["fastmri", "npy_kspace", "npz_one_slice", "sinogram"])
def test_a_scan_is_taken_whatever_its_format(client: TestClient, tmp_path: Path, name: str) -> None:
    answer = client.post("/v1/scans", content=scans.GOOD[name](tmp_path / name).read_bytes())
    assert answer.status_code == 201, answer.text
    scan = answer.json()
    assert answer.headers["location"] == f"/v1/scans/{scan['id']}"
    assert scan["modality"] == ("ct" if name in scans.CT_SCANS else "mri")
    assert client.get(answer.headers["location"]).json() == scan


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_told_what_is_wrong_and_leaves_nothing(
    client: TestClient, storage: LocalStorage, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "scan"
    scans.HOSTILE[name].write(path)
    answer = client.post("/v1/scans", content=path.read_bytes())
    assert answer.status_code in (415, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["errors"][0]["found"]
    assert problem["errors"][0]["expected"]
    assert stored(storage) == []
    assert client.get("/v1/scans").json()["items"] == []


def test_the_same_bytes_are_one_scan_however_they_come(
    client: TestClient, storage: LocalStorage, mri_file: bytes, scan: dict[str, Any]
) -> None:
    raw = client.post("/v1/scans", content=mri_file, headers={"X-Filename": "other.h5"})
    form = client.post("/v1/scans", files={"file": ("third.h5", mri_file)})
    assert raw.status_code == form.status_code == 200
    # It is kept as long as a new one.
    assert [each.json() | {"expires_at": scan["expires_at"]} for each in (raw, form)] == [scan, scan]
    assert stored(storage) == [hashlib.sha256(mri_file).hexdigest()]
    assert storage.path(keys.scan(scan["sha256"])).read_bytes() == mri_file


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\brain.h5", "brain.h5"),
        ("/abs/brain.h5", "brain.h5"),
        ("Kopf 7 \u00fc.h5", "Kopf 7 \u00fc.h5"),
        ("a\x00b\x1b[31m\n.h5", "ab[31m.h5"),
        ("..", ""),
        ("x" * 4000, "x" * 255),
    ],
)
def test_of_a_name_only_the_last_part_is_kept(given: str, kept: str) -> None:
    assert base_name(given) == kept


def test_names_come_by_header_query_or_form(
    client: TestClient, mri_file: bytes, ct_file: bytes, tmp_path: Path
) -> None:
    third = scans.GOOD["npz_sinogram"](tmp_path / "scan").read_bytes()
    header = client.post("/v1/scans", content=mri_file, headers={"X-Filename": "../k\u00f6rper.h5".encode()})
    query = client.post("/v1/scans", content=ct_file, params={"filename": "/tmp/thorax.h5"})
    form = client.post("/v1/scans", files={"file": ("a/head.npz", third)})
    assert [answer.json()["filename"] for answer in (header, query, form)] == [
        "k\u00f6rper.h5",
        "thorax.h5",
        "head.npz",
    ]


def test_a_digest_is_checked_when_sent(client: TestClient, storage: LocalStorage, mri_file: bytes) -> None:
    wrong = client.post("/v1/scans", content=mri_file, headers={"Repr-Digest": digest(b"other")})
    garbled = client.post("/v1/scans", content=mri_file, headers={"Repr-Digest": "sha-256=nonsense"})
    assert wrong.status_code == garbled.status_code == 422
    assert wrong.json()["errors"][0] == {
        "field": "Repr-Digest",
        "found": digest(b"other"),
        "expected": digest(mri_file),
    }
    assert stored(storage) == []
    right = client.post("/v1/scans", content=mri_file, headers={"Repr-Digest": f"md5=:AA==:, {digest(mri_file)}"})
    assert right.status_code == 201


def test_a_part_of_a_form_may_bring_its_own_digest(client: TestClient, mri_file: bytes) -> None:
    wrong = {"Repr-Digest": digest(b"other")}
    part = ("brain.h5", mri_file, "application/octet-stream", wrong)
    assert client.post("/v1/scans", files={"file": part}).status_code == 422
    wrong = {"Repr-Digest": digest(b"other")}
    # On the request it would be the digest of the form, not of the file.
    assert client.post("/v1/scans", files={"file": ("brain.h5", mri_file)}, headers=wrong).status_code == 201


@pytest.mark.parametrize("header_first", [True, False])
def test_a_form_may_bring_the_header_of_a_file_as_a_part_of_its_own(client: TestClient, header_first: bool) -> None:
    array = in_bart_order(scans.mri()["kspace"], "slice coil phase_1 read")
    parts = [("file", ("ksp.cfl", cfl(array))), ("header", ("ksp.hdr", hdr(array)))]
    answer = client.post("/v1/scans", files=parts[::-1] if header_first else parts)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["format"], answer.json()["filename"], answer.json()["slices"]) == ("bart", "ksp.cfl", 2)
    same = client.post("/v1/scans", files=parts[::-1] if header_first else parts)
    assert (same.status_code, same.json()["id"]) == (200, answer.json()["id"])
    job = {"parameters": {"method": "zero_filled"}}
    queued = client.post("/v1/jobs", files=[("job", (None, json.dumps(job))), ("scan", parts[0][1]), parts[1]])
    assert queued.status_code == 202, queued.text


def test_a_header_beside_a_file_is_bounded_and_is_not_digested_apart(client: TestClient, mri_file: bytes) -> None:
    too_long = client.post("/v1/scans", files={"file": ("a.cfl", mri_file), "header": ("a.hdr", bytes(3 << 20))})
    assert too_long.status_code == 413
    part = ("ksp.cfl", mri_file, "application/octet-stream", {"Repr-Digest": digest(mri_file)})
    digested = client.post("/v1/scans", files={"file": part, "header": ("a.hdr", b"# Dimensions\n1\n")})
    assert digested.status_code == 422
    assert digested.json()["errors"][0]["field"] == "Repr-Digest"
    alone = client.post("/v1/scans", files={"header": ("a.hdr", b"# Dimensions\n1\n")})
    assert (alone.status_code, alone.json()["errors"][0]["field"]) == (422, "file")


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("form", [True, False])
def test_a_file_above_the_limit_is_413_and_the_limit_is_told(
    settings: Settings, storage: LocalStorage, announced: bool, form: bool
) -> None:
    small = settings.model_copy(update={"max_upload_bytes": 3_000_000})
    content = bytes(6_000_000)
    with TestClient(create_app(small)) as client:
        if form:
            answer = client.post("/v1/scans", files={"file": ("a.h5", content)})
        else:
            body = content if announced else (content[start : start + 65536] for start in range(0, 6_000_000, 65536))
            answer = client.post("/v1/scans", content=body)
    assert answer.status_code == 413
    assert "3000000" in answer.json()["errors"][0]["expected"]
    assert stored(storage) == []


def test_the_reserve_of_the_disk_is_not_touched(settings: Settings, storage: LocalStorage, mri_file: bytes) -> None:
    reserved = settings.model_copy(update={"disk_reserve_bytes": 1 << 60})
    with TestClient(create_app(reserved)) as client:
        answer = client.post("/v1/scans", content=mri_file)
    assert answer.status_code == 507
    assert str(1 << 60) in answer.json()["detail"]
    assert stored(storage) == []


def test_a_full_disk_is_507_and_the_next_upload_works(
    client: TestClient, storage: LocalStorage, mri_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("udig_recon.api.scans.upload.os.fsync", full)
        answer = client.post("/v1/scans", content=mri_file)
    assert answer.status_code == 507
    assert answer.headers["content-type"] == "application/problem+json"
    assert stored(storage) == []
    assert client.post("/v1/scans", content=mri_file).status_code == 201


def test_a_body_that_is_no_file_is_refused(client: TestClient, storage: LocalStorage) -> None:
    for content, kind, status in NO_FILES:
        answer = client.post("/v1/scans", content=content, headers={"Content-Type": kind})
        assert answer.status_code == status, content
        assert answer.json()["status"] == status
        assert stored(storage) == []


def test_a_list_goes_newest_first_page_by_page(client: TestClient, tmp_path: Path) -> None:
    for name in ("fastmri", "npz_kspace", "sinogram", "npz_sinogram"):
        client.post("/v1/scans", content=scans.GOOD[name](tmp_path / name).read_bytes())
    everything = client.get("/v1/scans").json()["items"]
    assert [each["id"] for each in everything] == sorted((each["id"] for each in everything), reverse=True)
    seen, link = [], "/v1/scans?limit=2"
    while link:
        page = client.get(link)
        seen += page.json()["items"]
        link = page.links.get("next", {}).get("url")
    assert seen == everything


def test_an_unknown_scan_is_404_and_a_senseless_id_is_422(client: TestClient) -> None:
    assert client.get(f"/v1/scans/{uuid.uuid4()}").status_code == 404
    senseless = client.get("/v1/scans/seven")
    assert senseless.status_code == 422
    assert senseless.json()["errors"][0]["field"] == "scan_id"
    assert client.delete(f"/v1/scans/{uuid.uuid4()}").status_code == 404


def test_a_scan_is_deleted_with_its_bytes_but_not_under_a_job(
    client: TestClient, storage: LocalStorage, drive: Drive, scan: dict[str, Any]
) -> None:
    asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
    job = client.post("/v1/jobs", json=asked).json()
    refused = client.delete(f"/v1/scans/{scan['id']}")
    assert refused.status_code == 409
    assert job["id"] in refused.json()["detail"]
    drive.complete(job)
    assert client.delete(f"/v1/scans/{scan['id']}").status_code == 204
    assert client.get(f"/v1/scans/{scan['id']}").status_code == 404
    assert stored(storage) == []
    left = client.get(f"/v1/jobs/{job['id']}").json()
    assert left["scan_id"] is None
    assert client.get(left["links"]["result"]).status_code == 200


def test_bytes_that_went_missing_come_back_with_the_next_post(
    client: TestClient, storage: LocalStorage, mri_file: bytes, scan: dict[str, Any]
) -> None:
    storage.delete(keys.scan(scan["sha256"]))
    storage.delete(keys.prepared_scan(scan["sha256"]))
    assert client.post("/v1/scans", content=mri_file).status_code == 200
    assert storage.path(keys.scan(scan["sha256"])).read_bytes() == mri_file


def test_a_scan_is_prepared_when_it_comes_and_both_go_together(
    client: TestClient, storage: LocalStorage, scan: dict[str, Any], database: sessionmaker[Session]
) -> None:
    path = storage.path(keys.prepared_scan(scan["sha256"]))
    verify_prepared(path)
    with database() as session:
        assert session.scalar(select(Scan.prepared_bytes)) == path.stat().st_size
    assert path.stat().st_mode & 0o777 == 0o600
    assert list((storage.root / "incoming").iterdir()) == []
    assert client.delete(f"/v1/scans/{scan['id']}").status_code == 204
    assert not path.exists()


@pytest.mark.parametrize("rotten", [("scan",), ("prepared_scan",), ("scan", "prepared_scan")])
def test_bytes_that_rotted_are_mended_by_the_next_post(
    client: TestClient, storage: LocalStorage, mri_file: bytes, scan: dict[str, Any], rotten: tuple[str, ...]
) -> None:
    paths = {name: storage.path(getattr(keys, name)(scan["sha256"])) for name in ("scan", "prepared_scan")}
    whole = {name: path.read_bytes() for name, path in paths.items()}
    for name in rotten:
        paths[name].write_bytes(whole[name][:2000] + b"rot" + whole[name][2003:])
    again = client.post("/v1/scans", content=mri_file)
    assert (again.status_code, again.json() | {"expires_at": scan["expires_at"]}) == (200, scan)
    assert {name: path.read_bytes() for name, path in paths.items()} == whole
    assert list((storage.root / "incoming").iterdir()) == []


def test_a_file_that_is_refused_leaves_nothing_prepared(client: TestClient, storage: LocalStorage) -> None:
    assert client.post("/v1/scans", content=b"\x89HDF\r\n\x1a\n" + bytes(5000)).status_code == 422
    assert list((storage.root / "incoming").iterdir()) == list(storage.list(keys.PREPARED)) == []


def test_readers_that_are_killed_are_a_503_and_not_the_files_fault(
    client: TestClient, storage: LocalStorage, mri_file: bytes
) -> None:
    context = client.app.state.context  # type: ignore[attr-defined]
    prober = Prober(ReaderPool([sys.executable, "-c", ""]))
    client.app.state.context = dataclasses.replace(context, prober=prober)  # type: ignore[attr-defined]
    lost = client.post("/v1/scans", content=mri_file)
    assert (lost.status_code, lost.json()["type"]) == (503, "urn:udig-recon:problem:unavailable")
    assert int(lost.headers["Retry-After"]) > 0
    assert list((storage.root / "incoming").iterdir()) == list(storage.list(keys.PREPARED)) == []


def test_a_scan_carries_an_entity_tag(client: TestClient, scan: dict[str, Any]) -> None:
    path = f"/v1/scans/{scan['id']}"
    tag = client.get(path).headers["etag"]
    assert client.get(path, headers={"If-None-Match": f'"other", W/{tag}'}).status_code == 304
    assert client.get(path, headers={"If-Match": '"other"'}).status_code == 412
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)


def test_what_is_kept_of_a_scan_is_one_row(
    client: TestClient, database: sessionmaker[Session], scan: dict[str, Any]
) -> None:
    with database() as session:
        row = session.get(Scan, uuid.UUID(scan["id"]))
    assert row is not None
    assert row.sha256 == scan["sha256"]


def test_who_only_reads_does_not_wait_for_those_who_write_files(settings: Settings, mri_file: bytes) -> None:
    app, written = create_app(settings), threading.Event()
    with TestClient(app) as client:
        path = f"/v1/scans/{client.post('/v1/scans', content=mri_file).json()['id']}"
        assert client.portal is not None
        writers = [client.portal.start_task_soon(app.state.context.file_threads.run, written.wait) for _ in range(100)]
        last = client.portal.start_task_soon(app.state.context.file_threads.run, time.monotonic)
        assert client.get(path).status_code == 200
        assert not last.done()
        written.set()
        assert all(writer.result() for writer in writers)
        assert client.delete(path).status_code == 204

"""One flipped bit in any stored file: no wrong byte leaves by any route, and the damage is named and counted."""

import base64
import hashlib
import os
import uuid
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from tests.support.bit_flips import flip
from tests.support.fake_worker import Drive, slice_result
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.core.results.png import magnitude_png
from udig_recon.worker.access import audit
from udig_recon.worker.database.tables import Job, JobSlice
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.integrity import BLOCK, Verified, Verifier
from udig_recon.worker.storage.local import LocalStorage

DAMAGED = "urn:udig-recon:problem:damaged"
VIEWS = ("magnitude", "comparison", "error")


@pytest.fixture
def job(client: TestClient, scan: dict[str, Any]) -> dict[str, Any]:
    """A queued job of both slices."""
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "outputs": ["h5", "png"]}
    posted: dict[str, Any] = client.post("/v1/jobs", json=body).json()
    return posted


@pytest.fixture
def done(job: dict[str, Any], drive: Drive) -> dict[str, Any]:
    """A job that has succeeded."""
    drive.complete(job)
    return job


@pytest.fixture
def folder(storage: LocalStorage, done: dict[str, Any]) -> Path:
    """Where its result lies."""
    (found,) = (storage.path(keys.job(uuid.UUID(done["id"]))) / "results").iterdir()
    return found


FORMATS = ("h5", "npy", "nifti", "png", "dicom")


def fetched(client: TestClient, job: dict[str, Any]) -> dict[str, httpx2.Response]:
    """Every file and picture of a job, whole and in part."""
    found = {}
    for output in map(OUTPUTS.__getitem__, FORMATS):
        found[output.name] = client.get(job["links"]["result"], params={"format": output.name})
        part = {"Range": "bytes=3-40"}
        found[f"{output}, a part"] = client.get(job["links"]["result"], params={"format": output.name}, headers=part)
    for view in VIEWS:
        for number in job["slice_numbers"]:
            query = {"view": view, "slice": number}
            found[f"{view} {number}"] = client.get(job["links"]["preview.png"], params=query)
    return found


def stored(storage: LocalStorage, job_id: str) -> list[Path]:
    return sorted(path for path in storage.path(keys.job(uuid.UUID(job_id))).rglob("*") if path.is_file())


@pytest.mark.parametrize("at", [0.0, 0.03, 0.3, 0.6, 0.97, 1.0])
@pytest.mark.parametrize("unseen", [False, True])
def test_no_wrong_byte_leaves_by_any_route(
    client: TestClient, storage: LocalStorage, done: dict[str, Any], at: float, unseen: bool
) -> None:
    right = fetched(client, done)
    assert {answer.status_code for answer in right.values()} == {200, 206}
    files = stored(storage, done["id"])
    assert {path.suffix for path in files} == {".h5", ".npy", ".gz", ".png", ".zip"}
    for path in files:
        whole = path.read_bytes()
        flip(path, at, unseen=unseen)
        for name, answer in fetched(client, done).items():
            if answer.is_success:
                assert answer.content == right[name].content, (path.name, name)
                assert answer.headers["etag"] == right[name].headers["etag"]
            else:
                assert (answer.status_code, answer.json()["type"]) == (500, DAMAGED), (path.name, name)
                assert path.suffix == ".h5"
                assert "etag" not in answer.headers
        path.write_bytes(whole)


def test_a_converted_file_that_is_damaged_is_made_anew(client: TestClient, folder: Path, done: dict[str, Any]) -> None:
    url = done["links"]["result"] + "?format=nifti"
    right = client.get(url).content
    (folder / "reconstruction.nii.gz").write_bytes(right[:-9])
    again = client.get(url)
    assert (again.status_code, again.content) == (200, right)
    assert (folder / "reconstruction.nii.gz").read_bytes() == right
    assert counted(client, "udig_damaged_files_found_total") == {"converted": 1.0}


@pytest.mark.parametrize("how", ["bit", "truncated", "empty"])
def test_damage_of_a_result_is_named_counted_and_told(
    client: TestClient, folder: Path, done: dict[str, Any], how: str
) -> None:
    whole = folder / "reconstruction.h5"
    whole.write_bytes({"bit": b"x" + whole.read_bytes()[1:], "truncated": whole.read_bytes()[:1000], "empty": b""}[how])
    # Before the first download: no digest is made of rotten bytes.
    answers = [client.get(done["links"]["result"]), client.get(done["links"]["result"], params={"format": "npy"})]
    answers += [client.get(done["links"]["preview.png"]), client.head(done["links"]["result"])]
    assert [answer.status_code for answer in answers] == [500] * 4
    problem = answers[0].json()
    assert (problem["type"], problem["title"]) == (DAMAGED, "Stored file damaged")
    assert "post the job again" in problem["detail"]
    assert not (folder / "reconstruction.npy").exists()
    (told,) = client.get(done["links"]["self"]).json()["warnings"]
    assert told.startswith("reconstruction.h5 was found damaged")
    assert client.get("/v1/jobs").json()["items"][0]["warnings"] == [told]
    assert counted(client, "udig_damaged_files_found_total") == {"result": 1.0}
    assert counted(client, "udig_damaged_files") == {"result": 1.0}


@pytest.mark.parametrize("how", ["device", "pipe", "folder", "loop", "another job's"])
def test_what_is_no_file_is_neither_read_nor_waited_for(
    client: TestClient, folder: Path, done: dict[str, Any], how: str
) -> None:
    whole = folder / "reconstruction.h5"
    other = whole.rename(folder / "other")
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    match how:
        case "pipe":
            os.mkfifo(whole)
        case "folder":
            whole.mkdir()
        case _:
            whole.symlink_to({"device": "/dev/zero", "loop": whole}.get(how, other))
    for answer in (client.get(done["links"]["result"]), client.get(done["links"]["preview.png"])):
        assert (answer.status_code, answer.json()["type"]) == (500, DAMAGED)
    assert counted(client, "udig_damaged_files") == {"result": 1.0}


def counted(client: TestClient, name: str) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return {each.labels["kind"]: each.value for each in samples if each.name == name and each.value}


def test_digests_are_kept_from_birth_and_written_into_the_log(
    database: sessionmaker[Session], client: TestClient, folder: Path, done: dict[str, Any]
) -> None:
    with database() as session:
        files = session.get_one(Job, uuid.UUID(done["id"])).result_files
        (ended,) = [entry for entry in audit.entries(session) if entry.action == "job.succeeded"]
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files == {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)} for name, content in found.items()
    }
    assert ended.ids == {"job": done["id"], **{name: each["sha256"] for name, each in files.items()}}
    answer = client.get(done["links"]["result"], params={"format": "png"})
    digest = base64.b64encode(bytes.fromhex(files["reconstruction.png"]["sha256"])).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"


def test_of_a_result_of_an_older_version_the_digest_that_lies_beside_it_counts(
    database: sessionmaker[Session], client: TestClient, folder: Path, done: dict[str, Any]
) -> None:
    with database.begin() as session:
        session.get_one(Job, uuid.UUID(done["id"])).result_files = None
    whole = folder / "reconstruction.h5"
    (folder / "reconstruction.h5.sha256").write_text(hashlib.sha256(whole.read_bytes()).hexdigest())
    content = whole.read_bytes()
    flip(whole)
    assert client.get(done["links"]["result"]).json()["type"] == DAMAGED
    whole.write_bytes(content)
    assert client.get(done["links"]["result"]).content == content
    (folder / "reconstruction.png.sha256").unlink(missing_ok=True)
    assert client.get(done["links"]["result"], params={"format": "png"}).status_code == 200
    with database() as session:
        assert set(session.get_one(Job, uuid.UUID(done["id"])).result_files or {}) == {whole.name, "reconstruction.png"}


@pytest.mark.parametrize("at", [0.01, 0.2, 0.5, 0.8, 0.999])
def test_a_rotten_slice_or_preview_of_a_running_job_is_never_shown(
    client: TestClient,
    drive: Drive,
    storage: LocalStorage,
    job: dict[str, Any],
    at: float,
    database: sessionmaker[Session],
) -> None:
    drive.finish(drive.claim(job, 0))
    drive.claim(job, 1)
    drive.show(job, 1)
    preview = storage.path(keys.preview(uuid.UUID(job["id"]), 1))
    with database() as session:
        job_slice = session.get_one(JobSlice, (uuid.UUID(job["id"]), 0))
    right = {path: picture(client, job, number) for number, path in enumerate((str(job_slice.result), preview))}
    assert {answer.status_code for answer in right.values()} == {200}
    flip(storage.path(str(job_slice.result)), at)
    damaged = picture(client, job, 0)
    assert (damaged.status_code, damaged.json()["type"]) == (500, DAMAGED)
    flip(preview, at)
    gone = picture(client, job, 1)
    assert gone.status_code == 409 or gone.content == right[preview].content
    assert counted(client, "udig_damaged_files_found_total")["slice"] == 1


def test_a_whole_preview_of_another_slice_is_never_shown(
    client: TestClient, drive: Drive, storage: LocalStorage, job: dict[str, Any]
) -> None:
    for number in range(2):
        drive.claim(job, number)
        drive.show(job, number)
    paths = [storage.path(keys.preview(uuid.UUID(job["id"]), number)) for number in range(2)]
    paths[1].replace(paths[0])
    assert picture(client, job, 0).status_code == 409
    assert not paths[0].exists()
    assert counted(client, "udig_damaged_files_found_total")["preview"] == 1


def picture(client: TestClient, job: dict[str, Any], number: int) -> httpx2.Response:
    return client.get(job["links"]["preview.png"], params={"slice": number})


def test_slices_and_previews_are_dropped_once_the_job_has_its_result_and_pictures_stay_the_same(
    client: TestClient, drive: Drive, storage: LocalStorage, job: dict[str, Any]
) -> None:
    drive.finish(drive.claim(job, 0))
    during = {view: client.get(job["links"]["preview.png"], params={"view": view}).content for view in VIEWS}
    drive.finish(drive.claim(job, 1))
    after = {view: client.get(job["links"]["preview.png"], params={"view": view}).content for view in VIEWS}
    assert after == during
    kept = storage.path(keys.job(uuid.UUID(job["id"])))
    assert [list((kept / name).glob("*")) for name in ("slices", "previews")] == [[], []]


@pytest.fixture
def large(storage: LocalStorage) -> tuple[Verified, bytes]:
    """A verified file of two blocks and a half."""
    content = os.urandom(2 * BLOCK + BLOCK // 2)
    storage.put("scans/large", content)
    return Verifier().check(storage, "scans/large", hashlib.sha256(content).hexdigest()), content


@pytest.mark.parametrize(
    "part", [(0, 10), (5, BLOCK), (BLOCK - 1, BLOCK + 1), (0, 5 * BLOCK // 2), (5 * BLOCK // 2 - 1, 5 * BLOCK // 2)]
)
def test_a_part_of_a_verified_file_is_that_part(large: tuple[Verified, bytes], part: tuple[int, int]) -> None:
    verified, content = large
    assert b"".join(verified.read(*part)) == content[slice(*part)]


def test_what_rots_after_it_was_verified_is_not_read(storage: LocalStorage, large: tuple[Verified, bytes]) -> None:
    verified, content = large
    flip(storage.path(verified.key), 0.99, unseen=True)
    blocks = verified.read(0, len(content))
    assert next(blocks) == content[:BLOCK]
    assert next(blocks) == content[BLOCK : 2 * BLOCK]
    with pytest.raises(Exception, match="no longer what was written"):
        next(blocks)


def test_a_picture_of_a_result_is_that_of_its_slice(client: TestClient, done: dict[str, Any]) -> None:
    for number in done["slice_numbers"]:
        assert picture(client, done, number).content == magnitude_png(slice_result(seed=number).image)

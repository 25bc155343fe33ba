import base64
import hashlib
import io
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from tests.support.fake_worker import Drive, slice_result
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

PARTS = [("bytes=0-99", slice(0, 100)), ("bytes=100-", slice(100, None)), ("bytes=-7", slice(-7, None))]

MEANINGLESS = ["bytes=5-2", "lines=1-2", "bytes=a-b", "bytes=-", "bytes=0-1,5-6", "nonsense"]

BEHIND = ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"]

ACCEPTED = [
    ("*/*", "application/x-hdf5"),
    ("image/png", "image/png"),
    ("text/html, image/*;q=0.5", "image/png"),
    ("application/gzip;q=0.9, application/x-hdf5;q=0.1", "application/gzip"),
    ("application/*, application/x-hdf5;q=0", "application/octet-stream"),
]

NO_PICTURES = [{"slice": 7}, {"slice": -1}, {"view": "x-ray"}, {"iteration": "3"}]


@pytest.fixture
def job(client: TestClient, scan: dict[str, Any]) -> dict[str, Any]:
    """A queued job of both slices."""
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, "outputs": ["h5", "npy"]}
    posted: dict[str, Any] = client.post("/v1/jobs", json=body).json()
    return posted


@pytest.fixture
def done(job: dict[str, Any], drive: Drive) -> dict[str, Any]:
    """A job that has succeeded."""
    drive.complete(job)
    return job


def get(client: TestClient, job: dict[str, Any], **headers: str) -> httpx2.Response:
    return client.get(job["links"]["result"], headers={name.replace("_", "-"): text for name, text in headers.items()})


def volume() -> np.ndarray:
    return np.stack([slice_result(seed=number).image for number in (0, 1)])


def test_a_result_comes_in_every_format(client: TestClient, done: dict[str, Any]) -> None:
    for output in OUTPUTS.values():
        answer = client.get(done["links"]["result"], params={"format": output.name})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == output.media_type
        assert answer.headers["content-disposition"] == f'attachment; filename="{done["id"]}{output.suffix}"'
        assert int(answer.headers["content-length"]) == len(answer.content)
        digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
        assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'


def test_what_is_downloaded_is_what_was_reconstructed(client: TestClient, done: dict[str, Any]) -> None:
    with h5py.File(io.BytesIO(get(client, done).content)) as file:
        np.testing.assert_array_equal(file["reconstruction"], volume())
    array = np.load(io.BytesIO(client.get(done["links"]["result"], params={"format": "npy"}).content))
    np.testing.assert_array_equal(array, volume())


def test_the_best_accepted_format_is_sent(client: TestClient, done: dict[str, Any]) -> None:
    for accept, media_type in ACCEPTED:
        answer = get(client, done, Accept=accept)
        assert answer.headers["content-type"] == media_type, accept
        assert answer.headers["vary"] == "Accept"


def test_what_cannot_be_made_is_406(client: TestClient, done: dict[str, Any]) -> None:
    answer = get(client, done, Accept="text/html")
    assert answer.status_code == 406
    assert "image/png" in answer.json()["errors"][0]["expected"]
    unknown = client.get(done["links"]["result"], params={"format": "tiff"})
    assert unknown.status_code == 422
    assert "nifti" in unknown.json()["errors"][0]["expected"]


def test_a_format_is_written_once_when_it_is_asked_for_first(
    client: TestClient, storage: LocalStorage, done: dict[str, Any]
) -> None:
    (folder,) = (storage.path(keys.job(uuid.UUID(done["id"]))) / "results").iterdir()
    assert not (folder / "reconstruction.nii.gz").exists()
    with ThreadPoolExecutor(8) as pool:
        url = done["links"]["result"] + "?format=nifti"
        answers = list(pool.map(lambda _: client.get(url), range(16)))
    assert len({answer.content for answer in answers}) == 1
    written = (folder / "reconstruction.nii.gz").stat()
    client.get(url)
    assert (folder / "reconstruction.nii.gz").stat().st_mtime_ns == written.st_mtime_ns
    assert not [path for path in folder.iterdir() if "part" in path.name]


def test_a_part_of_a_file_is_206(client: TestClient, done: dict[str, Any]) -> None:
    for text, part in PARTS:
        whole = get(client, done)
        answer = get(client, done, Range=text)
        assert answer.status_code == 206, text
        assert answer.content == whole.content[part]
        first, last, _ = part.indices(len(whole.content))
        assert answer.headers["content-range"] == f"bytes {first}-{last - 1}/{len(whole.content)}"
        assert answer.headers["etag"] == whole.headers["etag"]
        assert answer.headers["repr-digest"] == whole.headers["repr-digest"]


def test_a_range_that_means_nothing_is_ignored(client: TestClient, done: dict[str, Any]) -> None:
    for text in MEANINGLESS:
        answer = get(client, done, Range=text)
        assert answer.status_code == 200, text
        assert answer.content == get(client, done).content


def test_a_range_behind_the_end_is_416(client: TestClient, done: dict[str, Any]) -> None:
    for text in BEHIND:
        size = len(get(client, done).content)
        answer = get(client, done, Range=text)
        assert answer.status_code == 416, text
        assert answer.headers["content-range"] == f"bytes */{size}"
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_part_is_sent_only_of_the_file_that_the_client_knows(client: TestClient, done: dict[str, Any]) -> None:
    tag = get(client, done).headers["etag"]
    assert get(client, done, Range="bytes=0-9", If_Range=tag).status_code == 206
    assert get(client, done, Range="bytes=0-9", If_Range='"other"').status_code == 200
    assert get(client, done, Range="bytes=0-9", If_Range=f"W/{tag}").status_code == 200


def test_a_file_is_not_sent_twice_to_who_has_it(client: TestClient, done: dict[str, Any]) -> None:
    first = get(client, done)
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"a", {tag}', "*"):
        again = get(client, done, If_None_Match=known)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert get(client, done, If_None_Match='"other"').status_code == 200
    assert get(client, done, If_None_Match=tag, Range="bytes=0-9").status_code == 304
    assert get(client, done, If_Modified_Since=first.headers["last-modified"]).status_code == 304
    assert get(client, done, If_Modified_Since="Thu, 01 Jan 1970 00:00:00 GMT").status_code == 200
    for odd in ("yesterday", "Mon, 01 Jan 9999999999 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +9999999999999"):
        assert get(client, done, If_Modified_Since=odd).status_code == 200
    assert get(client, done, If_Match='"other"').status_code == 412
    assert get(client, done, If_Match=tag).status_code == 200


def test_head_tells_what_get_would_send(client: TestClient, done: dict[str, Any]) -> None:
    answer, head = get(client, done), client.head(done["links"]["result"], headers={"Range": "bytes=0-9"})
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "etag", "repr-digest", "content-disposition", "content-type", "accept-ranges"):
        assert head.headers[name] == answer.headers[name]


def test_there_is_no_result_before_the_end(client: TestClient, drive: Drive, job: dict[str, Any]) -> None:
    refused = get(client, job)
    assert refused.status_code == 409
    assert refused.json()["job_status"] == "queued"
    claim = drive.claim(job)
    assert get(client, job).json()["job_status"] == "running"
    drive.finish(claim)
    client.post(job["links"]["cancel"])
    assert get(client, job).json()["job_status"] == "cancelled"


def test_a_result_whose_files_are_gone_is_410(client: TestClient, storage: LocalStorage, done: dict[str, Any]) -> None:
    shutil.rmtree(storage.path(keys.job(uuid.UUID(done["id"]))) / "results")
    assert get(client, done).status_code == 410


def test_a_running_job_shows_its_latest_image(client: TestClient, drive: Drive, job: dict[str, Any]) -> None:
    preview = job["links"]["preview.png"]
    assert client.get(preview).status_code == 409
    drive.claim(job, 1)
    drive.show(job, 1)
    pictures = {view: client.get(preview, params={"view": view}) for view in ("magnitude", "error", "comparison")}
    assert {answer.headers["content-type"] for answer in pictures.values()} == {"image/png"}
    assert Image.open(io.BytesIO(pictures["magnitude"].content)).size == (16, 16)
    wide = Image.open(io.BytesIO(pictures["comparison"].content))
    assert wide.width > 3 * 320
    assert client.get(preview, params={"slice": 0}).status_code == 409
    tag = pictures["error"].headers["etag"]
    again = client.get(preview, params={"view": "error"}, headers={"If-None-Match": tag})
    assert again.status_code == 304


def test_there_is_no_error_to_see_without_a_reference(client: TestClient, drive: Drive, job: dict[str, Any]) -> None:
    drive.claim(job)
    drive.show(job, reference=False)
    preview = job["links"]["preview.png"]
    answer = client.get(preview, params={"view": "error"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "view"
    assert client.get(preview, params={"view": "comparison"}).status_code == 200


def test_a_picture_of_what_is_not_there_is_422(client: TestClient, done: dict[str, Any]) -> None:
    for query in NO_PICTURES:
        answer = client.get(done["links"]["preview.png"], params=query)
        assert answer.status_code == 422, query
        assert answer.json()["errors"][0]["field"] in query


def test_an_ended_job_shows_its_result_or_nothing(
    client: TestClient, drive: Drive, job: dict[str, Any], scan: dict[str, Any]
) -> None:
    drive.complete(job)
    shown = Image.open(io.BytesIO(client.get(job["links"]["preview.png"], params={"slice": 1}).content))
    assert shown.size == (16, 16)
    other = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}).json()
    client.post(other["links"]["cancel"])
    assert client.get(other["links"]["preview.png"]).status_code == 404


def test_a_preview_is_drawn_on_the_window_that_is_asked_for_and_tells_its_levels(
    client: TestClient, scan: dict[str, Any], drive: Drive
) -> None:
    job = client.post("/v1/jobs", json={"scan_id": scan["id"], "slices": [0], "parameters": {"method": "zero_filled"}})
    drive.complete(job.json())
    url, made = job.json()["links"]["preview.png"], slice_result(seed=0)
    assert made.reference is not None

    def drawn(view: str, **query: str) -> NDArray[np.uint8]:
        answer = client.get(url, params={"view": view, **query})
        assert answer.status_code == 200, answer.text
        if "window" in query:
            assert answer.headers["window-levels"] == query["window"]
        return np.asarray(Image.open(io.BytesIO(answer.content)))

    def greys(image: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
        return np.asarray(np.clip((image - low) / (high - low) * 255 + 0.5, 0, 255), np.uint8)

    low, high = map(float, client.get(url).headers["window-levels"].split(","))
    assert (low, high) == (0, pytest.approx(np.percentile(made.image, 99.8), rel=1e-5))
    arrays = {"magnitude": made.image, "direct": made.direct, "reference": made.reference}
    for view, image in arrays.items():
        assert np.array_equal(drawn(view, window="0.2,0.7"), greys(image, 0.2, 0.7)), view
        assert np.abs(drawn(view).astype(int) - greys(image, low, high)).max() <= 1, view
    for view, image in {"error": made.image, "direct_error": made.direct}.items():
        difference = 5 * np.abs(image - made.reference)
        assert np.abs(drawn(view, window="0.2,0.7").astype(int) - greys(difference, 0, 0.5)).max() <= 1, view
    for window in ("0.7,0.2", "1,1", "a,b", "0", "0,1e999", "nan,1", ""):
        refused = client.get(url, params={"window": window})
        assert refused.status_code == 422, window
        assert refused.json()["errors"][0]["field"].endswith("window")

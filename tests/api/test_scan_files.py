"""The file of a scan comes back as it was uploaded, and a picture of each slice of it is there at once."""

import base64
import hashlib
import io
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.support import scans
from tests.support.bit_flips import flip
from tests.support.keyed_client import KeyedApi, bring
from udig_recon.api.scans.previews import PreviewKey, RememberedPreviews
from udig_recon.worker.access.limits import Scope
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage


def link(scan: dict[str, Any], name: str) -> str:
    return f"/v1/scans/{scan['id']}/{name}"


def test_the_file_comes_back_byte_for_byte_with_its_digest(
    client: TestClient, scan: dict[str, Any], mri_file: bytes
) -> None:
    answer = client.get(link(scan, "file"))
    assert (answer.status_code, answer.content) == (200, mri_file)
    assert answer.headers["content-type"] == "application/octet-stream"
    digest = base64.b64encode(hashlib.sha256(mri_file).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["etag"] == f'"{scan["sha256"]}"'
    assert client.get(link(scan, "file"), headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    again = client.post("/v1/scans", content=answer.content)
    assert (again.status_code, again.json()["id"]) == (200, scan["id"])


def test_a_download_goes_on_where_it_was_cut_off(client: TestClient, scan: dict[str, Any], mri_file: bytes) -> None:
    part = client.get(link(scan, "file"), headers={"Range": "bytes=1000-", "If-Range": f'"{scan["sha256"]}"'})
    assert (part.status_code, part.content) == (206, mri_file[1000:])
    assert part.headers["content-range"] == f"bytes 1000-{len(mri_file) - 1}/{len(mri_file)}"
    assert client.get(link(scan, "file"), headers={"Range": "bytes=99999999-"}).status_code == 416
    head = client.head(link(scan, "file"))
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(mri_file)))


UMLAUT = "Kopf-Übersicht;50%.h5"


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("knee 7.h5", 'attachment; filename="knee 7.h5"'),
        (UMLAUT, f"attachment; filename=\"Kopf-_bersicht;50_.h5\"; filename*=UTF-8''{quote(UMLAUT)}"),
        ("", 'attachment; filename="{id}"'),
    ],
)
def test_it_is_saved_under_the_name_that_it_came_with(
    client: TestClient, mri_file: bytes, name: str, saved: str
) -> None:
    scan = client.post("/v1/scans", content=mri_file, params={"filename": name}).json()
    assert client.get(link(scan, "file")).headers["content-disposition"] == saved.format(id=scan["id"])


def test_a_damaged_file_is_not_sent_and_the_scan_says_so(
    client: TestClient, scan: dict[str, Any], storage: LocalStorage
) -> None:
    flip(storage.path(keys.scan(scan["sha256"])), 0.5)
    answer = client.get(link(scan, "file"))
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:udig-recon:problem:damaged")
    (warning,) = client.get(f"/v1/scans/{scan['id']}").json()["warnings"][-1:]
    assert "post the scan again" in warning


def picture(client: TestClient, scan: dict[str, Any], **query: Any) -> np.ndarray:
    answer = client.get(link(scan, "preview.png"), params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("L"), np.float64)


def test_a_scan_has_a_picture_of_each_slice_as_soon_as_it_is_there(
    client: TestClient, scan: dict[str, Any], ct_file: bytes
) -> None:
    of_ct = client.post("/v1/scans", content=ct_file).json()
    for posted in (scan, of_ct):
        truth = scans.phantom(2, 32)
        for number in (0, 1):
            shown = picture(client, posted, slice=number)
            assert shown.shape == tuple(posted["matrix"])
            assert np.corrcoef(shown.ravel(), truth[number].ravel())[0, 1] > 0.7
        assert np.array_equal(picture(client, posted), picture(client, posted, slice=1))
    first = client.get(link(scan, "preview.png"))
    tagged = client.get(link(scan, "preview.png"), headers={"If-None-Match": first.headers["etag"]})
    assert tagged.status_code == 304


def test_pixels_of_unlike_sides_are_drawn_square(client: TestClient, tmp_path: Path) -> None:
    parts = scans.mri(1)
    parts["ismrmrd_header"] = scans.header(parts["kspace"], 32, 32).encode()
    path = scans.write_hdf5(tmp_path / "scan", **parts)
    content = path.read_bytes()
    scan = client.post("/v1/scans", content=content).json()
    height, width = picture(client, scan).shape
    ratio = scan["pixel_spacing_mm"][0] / scan["pixel_spacing_mm"][1]
    assert height / width == pytest.approx(ratio * scan["matrix"][0] / scan["matrix"][1], rel=0.05)


def test_a_slice_that_is_not_there_is_refused_with_those_that_are(client: TestClient, scan: dict[str, Any]) -> None:
    answer = client.get(link(scan, "preview.png"), params={"slice": 2})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["found"], error["expected"]) == ("slice", "2", "0 to 1")


def test_a_scan_that_an_older_version_took_says_what_prepares_it(
    client: TestClient, scan: dict[str, Any], storage: LocalStorage, mri_file: bytes
) -> None:
    storage.delete(keys.prepared_scan(scan["sha256"]))
    answer = client.get(link(scan, "preview.png"))
    assert (answer.status_code, "posting it again" in answer.json()["detail"]) == (409, True)
    assert client.post("/v1/scans", content=mri_file).status_code == 200
    picture(client, scan)
    storage.put(keys.prepared_scan(scan["sha256"]), b"something else")
    answer = client.get(link(scan, "preview.png"), params={"slice": 0})
    assert (answer.status_code, "cannot be read" in answer.json()["detail"]) == (404, True)


def test_pictures_go_with_their_scan(client: TestClient, scan: dict[str, Any], storage: LocalStorage) -> None:
    previews = client.app.state.context.previews  # type: ignore[attr-defined]
    picture(client, scan, slice=0)
    key = PreviewKey("default", scan["sha256"], 0)
    assert previews.get(key) is not None
    assert client.delete(f"/v1/scans/{scan['id']}").status_code == 204
    assert previews.get(key) is None
    for name in ("file", "preview.png"):
        assert client.get(link(scan, name)).status_code == 404
    assert list(storage.path("incoming").glob("*")) == []


def test_of_remembered_pictures_those_asked_for_last_stay() -> None:
    remembered = RememberedPreviews(most_bytes=10)
    first, second, third = (PreviewKey("a", "0" * 64, number) for number in range(3))
    for key in (first, second):
        remembered.add(key, bytes(5))
    assert remembered.get(first) is not None
    remembered.add(third, bytes(5))
    assert [remembered.get(key) is not None for key in (first, second, third)] == [True, False, True]
    remembered.forget("a", "0" * 64)
    assert remembered.get(first) is None


def test_whoever_reads_a_file_or_a_picture_is_written_down(keyed_api: KeyedApi, mri_file: bytes) -> None:
    _, headers = keyed_api.key("a")
    reader_id, reader = keyed_api.key("a", Scope.READ)
    scan = bring(keyed_api, headers, mri_file)
    for name in ("file", "preview.png"):
        assert keyed_api.client.get(link(scan, name), headers=reader).status_code == 200
        assert keyed_api.client.get(link(scan, name), headers=keyed_api.key("b")[1]).status_code == 404
    read = [(action, ids) for actor, action, ids in keyed_api.audited() if actor == f"key:{reader_id}"]
    assert read == [("file.read", {"scan": scan["id"]}), ("preview.read", {"scan": scan["id"]})]

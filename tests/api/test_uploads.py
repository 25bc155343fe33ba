"""Resumable uploads by the tus protocol, from the first byte to the scan."""

import base64
import hashlib
from typing import Any

import httpx2
from fastapi.testclient import TestClient

from udig_recon.api.uploads.protocol import MEDIA_TYPE
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

TUS = {"Tus-Resumable": "1.0.0"}


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def begin(client: TestClient, size: int, headers: dict[str, str] | None = None, **more: str) -> str:
    """The path of a new upload."""
    sent = (
        TUS | {"Upload-Length": str(size)} | (headers or {}) | {name.replace("_", "-"): v for name, v in more.items()}
    )
    answer = client.post("/v1/uploads", headers=sent)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def append(client: TestClient, path: str, offset: int, data: bytes, **more: Any) -> httpx2.Response:
    headers = TUS | {"Upload-Offset": str(offset), "Content-Type": MEDIA_TYPE} | more.pop("headers", {})
    return client.patch(path, content=data, headers=headers, **more)


def complete(client: TestClient, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    return client.post("/v1/scans", json={"upload_id": path.rpartition("/")[2]}, headers=headers)


def files(storage: LocalStorage) -> list[str]:
    folder = storage.uploads_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_server_tells_what_it_can_do(client: TestClient, settings: Settings) -> None:
    answer = client.options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-resumable"] == answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-extension"] == "creation,creation-with-upload,expiration,termination,checksum"
    assert answer.headers["tus-max-size"] == str(settings.max_upload_bytes)
    assert answer.headers["tus-checksum-algorithm"] == "sha256,sha1"


def test_an_upload_in_pieces_becomes_a_scan(client: TestClient, mri_file: bytes, storage: LocalStorage) -> None:
    sha256 = hashlib.sha256(mri_file).hexdigest()
    metadata = f"filename {b64('a/brain.h5')},sha256 {b64(sha256)},filetype {b64('x')}"
    path = begin(client, len(mri_file), Upload_Metadata=metadata)
    half = len(mri_file) // 2
    first = append(client, path, 0, mri_file[:half])
    assert (first.status_code, first.headers["upload-offset"]) == (204, str(half))
    assert first.headers["tus-resumable"] == "1.0.0"
    head = client.head(path, headers=TUS)
    assert (head.status_code, head.headers["upload-offset"], head.headers["upload-length"]) == (
        200,
        str(half),
        str(len(mri_file)),
    )
    assert head.headers["cache-control"] == "no-store"
    assert head.headers["upload-metadata"] == f"filename {b64('brain.h5')},sha256 {b64(sha256)}"
    assert head.headers["upload-expires"].endswith(" GMT")
    early = complete(client, path)
    assert (early.status_code, early.headers["upload-offset"]) == (409, str(half))
    assert append(client, path, half, mri_file[half:]).headers["upload-offset"] == str(len(mri_file))
    scan = complete(client, path)
    assert scan.status_code == 201, scan.text
    assert (scan.json()["sha256"], scan.json()["filename"]) == (sha256, "brain.h5")
    assert scan.headers["location"] == f"/v1/scans/{scan.json()['id']}"
    again = complete(client, path)
    assert (again.status_code, again.json()) == (200, scan.json())
    assert client.get(path).json()["scan_id"] == scan.json()["id"]
    assert storage.read(keys.scan(sha256)) == mri_file
    assert storage.path(keys.scan(sha256)).stat().st_nlink == 1
    assert files(storage) == []

"""A template DICOM beside a scan: its identity is kept with the scan's files, and told to nobody."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.core.test_dicom import HOSTILE, IDENTITY, template
from udig_recon.api.scans import ingest
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage
from udig_recon.worker.storage.scans import UnknownIdentity, identity_of

JOB = '{"parameters": {"method": "fbp"}}'


def form(scan: bytes, content: bytes, name: str = "file", **others: Any) -> dict[str, Any]:
    parts = {name: ("scan.h5", scan), "template": ("t.dcm", content)}
    return {**parts, **{key: (None, value) for key, value in others.items()}}


def test_a_template_is_kept_beside_the_scan_and_deleted_with_it(
    client: TestClient, storage: LocalStorage, ct_file: bytes
) -> None:
    answer = client.post("/v1/scans", files=form(ct_file, template()))
    assert answer.status_code == 201, answer.text
    scan = answer.json()
    assert identity_of(storage, "default", scan["sha256"]) == IDENTITY
    for told in (answer.text, client.get(f"/v1/scans/{scan['id']}").text):
        assert "PAT-1" not in told
    # Posted again without one, it keeps what it has; with another, it takes that.
    assert client.post("/v1/scans", content=ct_file).status_code == 200
    assert identity_of(storage, "default", scan["sha256"]) == IDENTITY
    job = client.post("/v1/jobs", files=form(ct_file, template(PatientID="PAT-2"), "scan", job=JOB))
    assert job.status_code == 202, job.text
    changed = identity_of(storage, "default", scan["sha256"])
    assert changed is not None
    assert changed.patient_id == "PAT-2"
    assert client.delete(f"/v1/jobs/{job.json()['id']}").status_code == 204
    assert client.delete(f"/v1/scans/{scan['id']}").status_code == 204
    assert list(storage.list(keys.IDENTITIES)) == []
    with pytest.raises(UnknownIdentity):
        identity_of(storage, "default", scan["sha256"])


@pytest.mark.parametrize("content", [HOSTILE["text"], HOSTILE["cut off"], HOSTILE["nobody"]])
def test_what_is_no_template_is_refused_and_nothing_is_kept(
    content: bytes, client: TestClient, storage: LocalStorage, ct_file: bytes
) -> None:
    answer = client.post("/v1/scans", files=form(ct_file, content))
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "template"
    assert error["expected"] == "a DICOM file of the study that the images are to belong to"
    assert list(storage.list(keys.SCANS)) == list(storage.list(keys.IDENTITIES)) == []


def test_a_template_that_is_too_large_is_413(
    client: TestClient, ct_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "MOST_TEMPLATE_BYTES", 1 << 20)
    answer = client.post("/v1/scans", files=form(ct_file, template() + bytes(2 << 20)))
    assert answer.status_code == 413
    assert answer.json()["errors"][0]["field"] == "template"

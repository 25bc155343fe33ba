"""Frames, affine and corrections of a scan, as clients see them with scans, jobs and pictures."""

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.fake_worker import Drive
from udig_recon.worker.database.tables import Scan

AFFINE = [[0.0, 0.5, 0.0, -80.0], [0.0, 0.0, -2.0, 12.5], [0.5, 0.0, 0.0, 40.0], [0.0, 0.0, 0.0, 1.0]]
FRAMES = [{"slice": 0, "contrast": contrast, "phase": 0, "repetition": 0, "set": 0} for contrast in (0, 1)]
CORRECTIONS = ["readout oversampling was removed"]


@pytest.fixture
def framed(scan: dict[str, Any], database: sessionmaker[Session]) -> dict[str, Any]:
    """The MR scan, its two slices two contrasts of one slice position."""
    with database.begin() as session:
        header = session.get_one(Scan, scan["id"]).header
        told = {"affine": AFFINE, "frames": FRAMES, "corrections": CORRECTIONS, "averages": 2, "prewhitened": True}
        session.execute(update(Scan).where(Scan.id == scan["id"]).values(header={**header, **told}))
    return scan


def post_job(client: TestClient, scan: dict[str, Any], **body: Any) -> Any:
    return client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, **body})


def test_a_scan_shows_its_frames_affine_and_corrections(client: TestClient, framed: dict[str, Any]) -> None:
    shown = client.get(f"/v1/scans/{framed['id']}").json()
    assert (shown["frames"], shown["affine"], shown["corrections"]) == (FRAMES, AFFINE, CORRECTIONS)
    (listed,) = client.get("/v1/scans").json()["items"]
    assert listed == {name: value for name, value in shown.items() if name != "frames"}
    assert (shown["averages"], shown["prewhitened"], shown["geometry"]) == (2, True, None)


def test_a_job_shows_the_frame_of_each_slice_while_its_scan_is_there(
    client: TestClient, framed: dict[str, Any], drive: Drive
) -> None:
    job = post_job(client, framed, slices=[1]).json()
    drive.complete(job)
    shown = client.get(f"/v1/jobs/{job['id']}").json()
    assert [each["frame"] for each in shown["slices"]] == [FRAMES[1]]
    assert (shown["affine"], shown["corrections"]) == (AFFINE, CORRECTIONS)
    assert client.delete(f"/v1/scans/{framed['id']}").status_code == 204
    shown = client.get(f"/v1/jobs/{job['id']}").json()
    assert (shown["slices"][0]["frame"], shown["affine"], shown["corrections"]) == (None, None, [])


def test_a_number_beyond_the_frames_is_refused_with_what_numbers_mean(
    client: TestClient, framed: dict[str, Any]
) -> None:
    refused = post_job(client, framed, slices=[2]).json()
    assert refused["errors"][0]["expected"] == (
        "numbers from 0 to 1, indices of the 2 frames in the scan's header (1 slice x 2 contrasts)"
    )


def test_a_comparison_picture_is_titled_with_its_frame(
    client: TestClient, scan: dict[str, Any], framed: dict[str, Any], drive: Drive, database: sessionmaker[Session]
) -> None:
    job = post_job(client, framed).json()
    drive.complete(job)
    url = f"/v1/jobs/{job['id']}/preview.png?slice=1&view=comparison"
    titled = np.asarray(Image.open(io.BytesIO(client.get(url).content)))
    with database.begin() as session:
        header = session.get_one(Scan, scan["id"]).header
        session.execute(update(Scan).where(Scan.id == scan["id"]).values(header={**header, "frames": []}))
    untitled = np.asarray(Image.open(io.BytesIO(client.get(url).content)))
    assert titled.shape[0] >= untitled.shape[0]
    assert titled.shape != untitled.shape or (titled != untitled).any()

"""What judged a job reaches whoever asked for it: in the job, in its file, from a worker that really reconstructs."""

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.support import scans
from tests.support.fake_worker import Drive
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.quality.rating import LEVELS, Rating
from udig_recon.worker.runtime.process import WorkerProcess, set_up
from udig_recon.worker.runtime.tasks import run_next_slice
from udig_recon.worker.settings import Settings

FAMILIAR = PriorCheck(prior_weight=1.0, best_at=1.0, residuals={"start": 0.3, "tv": 0.2, "udig_dip": 0.1})
FOREIGN = PriorCheck(prior_weight=0.0, best_at=0.2, residuals={"start": 0.3, "tv": 0.2, "udig_dip": 0.25})
GOOD, CHECK = Rating("good", ("within limits",)), Rating("check", ("the prior hardly improves on total variation",))
JUDGED = {"method": "udig_dip", "preset": "preview", "outer_iterations": 4, "holdout_share": 0.1}


@pytest.fixture
def process(settings: Settings) -> Iterator[WorkerProcess]:
    """A worker in this process."""
    made = set_up(settings)
    yield made
    made.sessions.kw["bind"].dispose()


def post(client: TestClient, scan: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": parameters})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def ended(client: TestClient, process: WorkerProcess, job: dict[str, Any]) -> dict[str, Any]:
    for number in job["slice_numbers"]:
        run_next_slice(process, uuid.UUID(job["id"]), number)
    found: dict[str, Any] = client.get(job["links"]["self"]).json()
    assert found["status"] == "succeeded", found["error"]
    return found


def slices_in_file(client: TestClient, job: dict[str, Any]) -> list[dict[str, Any]]:
    content = client.get(job["links"]["result"], params={"format": "h5"}).content
    with h5py.File(io.BytesIO(content)) as file:
        slices: list[dict[str, Any]] = json.loads(file.attrs["slices"])
    return slices


def test_ratings_and_prior_checks_come_with_the_slices_that_are_finished(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    job = post(client, scan, JUDGED)
    unrated = {"frame": None, "status": "queued", "quality": None, "prior_check": None, "reference_slice": None}
    assert (job["quality"], job["warnings"]) == (None, [])
    assert job["slices"] == [{"slice": 0, **unrated}, {"slice": 1, **unrated}]
    drive.finish(drive.claim(job, 1), FOREIGN, CHECK)
    found = client.get(job["links"]["self"]).json()
    assert found["quality"] is None
    first, second = found["slices"]
    assert first == {"slice": 0, **unrated}
    assert (second["slice"], second["status"], second["reference_slice"]) == (1, "succeeded", None)
    assert second["quality"] == {"rating": "check", "reasons": list(CHECK.reasons)}
    assert second["prior_check"] == {
        "selected": "tv",
        "prior_weight": 0.0,
        "out_of_distribution": True,
        "ood_score": FOREIGN.ood_score,
        "residuals": FOREIGN.residuals,
        "tv_weight": FOREIGN.tv_weight,
        "reason": FOREIGN.reason,
    }
    drive.finish(drive.claim(job, 0), FAMILIAR, GOOD)
    found = client.get(job["links"]["self"]).json()
    assert [each["slice"] for each in found["slices"]] == [0, 1]
    assert [each["quality"]["rating"] for each in found["slices"]] == ["good", "check"]
    assert found["quality"] == {"rating": "check", "reasons": [f"slice 1: {CHECK.reasons[0]}"]}
    (warning,) = found["warnings"]
    assert warning.startswith("slice 1: the scan is unlike the prior's training data")


def test_one_sentence_warns_of_all_foreign_slices_in_the_list_too(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    job = post(client, scan, JUDGED)
    for number in (1, 0):
        drive.finish(drive.claim(job, number), FOREIGN)
    (listed,) = client.get("/v1/jobs").json()["items"]
    found = client.get(job["links"]["self"]).json()
    assert found["warnings"][0].startswith("slices 0, 1: ")
    of_one_job = ("slices", "webhook", "deliveries", "affine", "corrections")
    assert listed == {name: value for name, value in found.items() if name not in of_one_job}


def test_a_judged_job_says_what_was_chosen_and_why_in_its_answer_and_its_file(
    client: TestClient, process: WorkerProcess, ct_file: bytes
) -> None:
    scan = client.post("/v1/scans", content=ct_file).json()
    job = ended(client, process, post(client, scan, JUDGED))
    assert [each["slice"] for each in job["slices"]] == [0, 1]
    checks = [each["prior_check"] for each in job["slices"]]
    for check in checks:
        assert {"start", "tv"} <= set(check["residuals"])
        assert check["selected"] in ("udig_dip", "tv", "blend")
        assert check["reason"].startswith("residual on held-out measurements")
    best = [min(check["residuals"].values()) for check in checks]
    assert job["metrics"]["validation_residual"] == pytest.approx(sum(best) / len(best))
    assert len(job["warnings"]) == any(check["out_of_distribution"] for check in checks)
    told = [{name: value for name, value in each.items() if name not in ("status", "frame")} for each in job["slices"]]
    assert slices_in_file(client, job) == told


def test_a_job_that_is_not_judged_tells_what_its_slices_are_worth_and_no_more(
    client: TestClient, process: WorkerProcess, scan: dict[str, Any]
) -> None:
    job = ended(client, process, post(client, scan, {"method": "cg_sense"}))
    assert (job["warnings"], job["metrics"]["validation_residual"]) == ([], None)
    assert [(each["slice"], each["prior_check"], each["reference_slice"]) for each in job["slices"]] == [
        (0, None, None),
        (1, None, None),
    ]
    told = [{"slice": each["slice"], "quality": each["quality"]} for each in job["slices"]]
    assert slices_in_file(client, job) == told
    assert job["quality"]["rating"] == max((each["quality"]["rating"] for each in job["slices"]), key=LEVELS.index)


def test_several_seeds_leave_mean_deviation_map_and_their_pictures(
    client: TestClient, process: WorkerProcess, ct_file: bytes
) -> None:
    scan = client.post("/v1/scans", content=ct_file).json()
    asked = {"scan_id": scan["id"], "parameters": {"method": "dds", "steps": 2}, "slices": [1], "seeds": 2}
    job = ended(client, process, client.post("/v1/jobs", json=asked).json())
    assert job["seeds"] == 2
    assert job["metrics"]["seed_std"] > 0
    assert 0 <= job["metrics"]["hallucination_share"] <= 1
    with h5py.File(io.BytesIO(client.get(job["links"]["result"]).content)) as file:
        assert file["standard_deviation"].shape == file["hallucination_map"].shape == file["reconstruction"].shape
        assert file["standard_deviation"][:].max() > 0
    preview = job["links"]["preview.png"]
    pictures = [client.get(preview, params={"view": view}) for view in ("magnitude", "deviation", "hallucination")]
    assert [picture.status_code for picture in pictures] == [200, 200, 200]
    assert len({picture.content for picture in pictures}) == 3


def test_what_one_seed_and_no_prior_do_not_have_is_not_drawn(
    client: TestClient, process: WorkerProcess, scan: dict[str, Any]
) -> None:
    job = ended(client, process, post(client, scan, {"method": "cg_sense"}))
    for view, word in (("deviation", "one seed"), ("hallucination", "no prior")):
        answer = client.get(job["links"]["preview.png"], params={"view": view})
        assert answer.status_code == 422
        assert word in answer.json()["detail"]


@pytest.mark.parametrize(
    ("parameters", "seeds", "field"),
    [({"method": "cg_sense"}, 2, "seeds"), ({"method": "dds"}, 0, "seeds"), ({"method": "dds"}, 65, "seeds")],
)
def test_seeds_that_cannot_be_are_refused_with_what_would_be_right(
    client: TestClient, scan: dict[str, Any], parameters: dict[str, Any], seeds: int, field: str
) -> None:
    answer = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": parameters, "seeds": seeds})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert error["expected"]


def test_what_was_odd_about_a_scan_is_told_of_its_job_wherever_the_job_is_told_of(
    client: TestClient, drive: Drive
) -> None:
    parts = scans.mri()
    content = io.BytesIO()
    np.savez(content, ksp=parts["kspace"], sampling_mask=parts["mask"], colour=np.zeros(3))
    scan = client.post("/v1/scans", content=content.getvalue()).json()
    told = scan["warnings"]
    assert {"ksp is read as kspace", "sampling_mask is read as mask"} <= set(told)
    assert any("not used" in warning and "colour" in warning for warning in told)
    job = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}).json()
    assert job["warnings"] == told
    for number in job["slice_numbers"]:
        drive.finish(drive.claim(job, number), FOREIGN, CHECK)
    (listed,) = client.get("/v1/jobs").json()["items"]
    found = client.get(job["links"]["self"]).json()
    assert found["warnings"] == listed["warnings"] == [*told, found["warnings"][-1]]
    assert found["warnings"][-1].startswith("slices 0, 1: ")
    events = client.get(job["links"]["events"]).text
    assert all(json.dumps(warning) in events for warning in told)
    client.delete(f"/v1/scans/{scan['id']}")
    assert client.get(job["links"]["self"]).json()["warnings"] == found["warnings"]


def test_what_was_odd_about_a_scan_is_in_the_result_file(client: TestClient, process: WorkerProcess) -> None:
    content = io.BytesIO()
    np.save(content, scans.mri()["kspace"])
    scan = client.post("/v1/scans", content=content.getvalue()).json()
    assert scan["warnings"] == ["the file gives no pixel spacing: 1 mm is assumed"]
    job = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}).json()
    ended(client, process, job)
    with h5py.File(io.BytesIO(client.get(job["links"]["result"], params={"format": "h5"}).content)) as file:
        assert json.loads(file.attrs["warnings"]) == scan["warnings"]

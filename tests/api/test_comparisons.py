"""Methods held against each other over HTTP: filed as ordinary jobs, told as one."""

import csv
import io
import threading
import time
import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy.orm import Session, sessionmaker

from tests.support import scans
from tests.support.fake_worker import Drive
from tests.support.worker_processes import working
from udig_recon.api.app import create_app
from udig_recon.core.quality.rating import LEVELS
from udig_recon.worker.access import audit
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.local import LocalStorage

ZERO_FILLED = {"parameters": {"method": "zero_filled"}}
CG = {"parameters": {"method": "cg_sense"}}
RIDGE = {"label": "ridge 0.1", "parameters": {"method": "cg_sense", "ridge": 0.1}}
FBP = {"parameters": {"method": "fbp"}}
DIP = {"parameters": {"method": "dip", "iterations": 20}}
DDS = {"parameters": {"method": "dds", "steps": 3}}

WRONG = [
    ({"scan_ids": []}, "scan_ids", "1 item"),
    ({"scan_ids": ["seven"]}, "scan_ids.0", "UUID"),
    ({"methods": []}, "methods", "1 item"),
    ({"methods": [CG, CG]}, "methods", "label"),
    ({"methods": [CG, RIDGE, RIDGE]}, "methods", "label"),
    ({"methods": [{"label": "a|b", **CG}]}, "methods.0.label", "pattern"),
    ({"methods": [{"label": "=1+1", **CG}]}, "methods.0.label", "pattern"),
    ({"methods": [CG, {"parameters": {"method": "magic"}}]}, "methods.1.parameters.method", "udig_dip"),
    ({"methods": [CG, {"parameters": {"method": "tv", "wieght": 1}}]}, "methods.1.parameters.wieght", "weight"),
    ({"methods": [CG, {"parameters": {"method": "dps", "prior": "ct"}}]}, "methods.1.parameters.prior", "mri"),
    ({"methods": [CG, FBP]}, "methods.1.parameters.method", "zero_filled"),
    ({"methods": [{"parameters": {"method": "ref_guided_dip", "guide": "file"}}]}, "methods.0.scan.guide", "guide"),
    ({"seeds": []}, "seeds", "1 item"),
    ({"seeds": [0, 0]}, "seeds", "each once"),
    ({"seeds": [-1]}, "seeds.0", ">= 0"),
    ({"seeds": list(range(251))}, "body", "at most 500"),
    ({"slices": [0, 2]}, "slices", "0 to 1"),
    ({"slices": [0, 0]}, "slices", "each slice once"),
    ({"tags": {"a:b": "c"}}, "tags", "pattern"),
    ({"colour": "red"}, "colour", "no such field"),
]


def asked(*scans_: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"scan_ids": [scan["id"] for scan in scans_], "methods": [ZERO_FILLED, CG], **more}


def post(client: TestClient, *scans_: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/comparisons", json=asked(*scans_, **more))
    assert answer.status_code == 202, answer.text
    comparison: dict[str, Any] = answer.json()
    return comparison


def jobs_of(client: TestClient, comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Its jobs, the one that was filed first before the others."""
    items: list[dict[str, Any]] = client.get(comparison["links"]["jobs"] + "&limit=200").json()["items"]
    return items[::-1]


def now(client: TestClient, comparison: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.get(comparison["links"]["self"]).json()
    return found


def audited(database: sessionmaker[Session]) -> list[tuple[str, dict[str, str]]]:
    with database() as session:
        return [(entry.action, entry.ids) for entry in audit.verify_entries(audit.entries(session))]


@pytest.fixture
def ct_scan(client: TestClient, ct_file: bytes) -> dict[str, Any]:
    """The CT scan, posted."""
    posted: dict[str, Any] = client.post("/v1/scans", content=ct_file).json()
    return posted


def test_each_method_on_each_scan_with_each_seed_is_an_ordinary_job(client: TestClient, scan: dict[str, Any]) -> None:
    answer = client.post("/v1/comparisons", json=asked(scan, seeds=[3, 5], slices=[1], tags={"study": "7"}))
    assert answer.status_code == 202, answer.text
    comparison = answer.json()
    assert answer.headers["location"] == comparison["links"]["self"] == f"/v1/comparisons/{comparison['id']}"
    assert int(answer.headers["retry-after"]) > 0
    assert (comparison["status"], comparison["entries"], comparison["errors"]) == ("queued", [], [])
    assert comparison["progress"] == {
        "fraction": 0.0,
        "jobs_done": 0,
        "jobs": 4,
        "slices_done": 0,
        "slices": 4,
        "eta_seconds": None,
    }
    jobs = jobs_of(client, comparison)
    assert [(job["parameters"]["method"], job["seed"]) for job in jobs] == [
        ("zero_filled", 3),
        ("cg_sense", 3),
        ("zero_filled", 5),
        ("cg_sense", 5),
    ]
    for job in jobs:
        assert (job["scan_id"], job["slice_numbers"], job["tags"]) == (scan["id"], [1], {"study": "7"})
        assert job["comparison_id"] == comparison["id"]
        assert job["links"]["comparison"] == comparison["links"]["self"]
        assert client.get(job["links"]["self"]).json()["comparison_id"] == comparison["id"]
    alone = client.post("/v1/jobs", json={"scan_id": scan["id"], **CG}).json()
    assert alone["comparison_id"] is None
    assert alone["id"] not in {job["id"] for job in jobs_of(client, comparison)}


def test_methods_are_told_apart_by_labels_and_keep_the_knobs_that_were_given(
    client: TestClient, scan: dict[str, Any]
) -> None:
    comparison = post(client, scan, methods=[CG, RIDGE])
    assert comparison["methods"] == [
        {"label": "cg_sense", "parameters": {"method": "cg_sense"}},
        {"label": "cg_sense ridge 0.1", "parameters": RIDGE["parameters"]},
    ]


def test_what_is_wrong_is_told_with_what_would_be_right(
    client: TestClient, scan: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for change, field, expected in WRONG:
        with subtests.test(str(change)):
            answer = client.post("/v1/comparisons", json=asked(scan) | change)
            assert answer.status_code == 422, answer.text
            (error,) = answer.json()["errors"]
            assert error["field"].startswith(field)
            assert expected in error["expected"]
    assert client.get("/v1/jobs").json()["items"] == client.get("/v1/comparisons").json()["items"] == []


def test_a_comparison_of_an_unknown_scan_is_404(client: TestClient, scan: dict[str, Any]) -> None:
    unknown = str(uuid.uuid4())
    refused = client.post("/v1/comparisons", json=asked(scan, {"id": unknown}))
    assert refused.status_code == 404
    assert unknown in refused.json()["detail"]
    assert scan["id"] not in refused.json()["detail"]


def test_among_scans_of_both_modalities_a_method_takes_those_that_it_applies_to(
    client: TestClient, scan: dict[str, Any], ct_scan: dict[str, Any]
) -> None:
    comparison = post(client, scan, ct_scan, methods=[ZERO_FILLED, FBP, {"parameters": {"method": "tv"}}])
    assert [(job["scan_id"], job["parameters"]["method"]) for job in jobs_of(client, comparison)] == [
        (scan["id"], "zero_filled"),
        (scan["id"], "tv"),
        (ct_scan["id"], "fbp"),
        (ct_scan["id"], "tv"),
    ]
    refused = client.post("/v1/comparisons", json=asked(scan, ct_scan, methods=[ZERO_FILLED]))
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"field": "scan_ids", "found": ct_scan["id"], "expected": "a method for ct too"}
    ]


def test_all_jobs_are_filed_or_none(settings: Settings, mri_file: bytes) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_open_jobs": 5}))) as client:
        scan = client.post("/v1/scans", content=mri_file).json()
        first = post(client, scan)
        refused = client.post("/v1/comparisons", json=asked(scan, seeds=[0, 1]))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert "no 4 jobs more" in refused.json()["detail"]
        assert [job["comparison_id"] for job in client.get("/v1/jobs").json()["items"]] == [first["id"]] * 2
        assert len(client.get("/v1/comparisons").json()["items"]) == 1


def test_the_same_key_and_request_answer_with_the_first_comparison(client: TestClient, scan: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "abc"}
    first = client.post("/v1/comparisons", json=asked(scan), headers=key)
    again = client.post("/v1/comparisons", json=dict(reversed(asked(scan).items())), headers=key)
    assert first.status_code == again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    other = client.post("/v1/comparisons", json=asked(scan, seeds=[1]), headers=key)
    assert other.status_code == 409
    assert first.json()["id"] in other.json()["detail"]
    assert len(jobs_of(client, first.json())) == 2


def test_how_it_stands_follows_from_its_jobs(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    comparison = post(client, scan, slices=[0])
    first, second = jobs_of(client, comparison)
    claim = drive.claim(first)
    drive.report(claim, 5)
    found = now(client, comparison)
    assert (found["status"], found["progress"]["fraction"]) == ("running", 0.25)
    assert found["progress"]["eta_seconds"] is None  # of the other method nothing is known
    drive.finish(claim)
    assert now(client, comparison)["status"] == "running"
    drive.report(drive.claim(second), 4)
    found = now(client, comparison)
    assert found["progress"]["jobs_done"] == found["progress"]["slices_done"] == 1
    assert found["progress"]["eta_seconds"] == 3.0
    (entry,) = found["entries"]
    assert (entry["label"], entry["job_id"], entry["scan_id"]) == ("zero_filled", first["id"], scan["id"])
    assert (entry["seed"], entry["psnr"], entry["seconds"], entry["slices"]) == (0, 30.0, 2.5, 1)
    assert entry["sampling"].endswith("x")


def test_a_comparison_fails_with_a_job_and_goes_on_when_that_is_retried(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    comparison = post(client, scan)
    first, second = jobs_of(client, comparison)
    drive.complete(first)
    drive.fail(second)
    found = now(client, comparison)
    assert found["status"] == "failed"
    (failure,) = found["errors"]
    assert (failure["label"], failure["job_id"], failure["error"]["detail"]) == ("cg_sense", second["id"], "it broke")
    assert client.get(comparison["links"]["table"]).status_code == 200
    client.post(second["links"]["retry"])
    assert now(client, comparison)["status"] == "running"
    drive.complete(second)
    ended = client.get(comparison["links"]["self"])
    assert (ended.json()["status"], ended.json()["errors"]) == ("succeeded", [])
    assert "retry-after" not in ended.headers


def test_an_answer_waits_for_the_next_status_and_is_not_sent_twice(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    comparison = post(client, scan)
    known = {"If-None-Match": client.get(comparison["links"]["self"]).headers["etag"]}
    assert client.get(comparison["links"]["self"], headers=known).status_code == 304
    starter = threading.Timer(0.5, lambda: drive.claim(jobs_of(client, comparison)[0]))
    starter.start()
    before = time.monotonic()
    found = client.get(comparison["links"]["self"], params={"wait": 30}, headers=known)
    starter.join()
    assert found.json()["status"] == "running"
    assert time.monotonic() - before < 20


def test_a_table_comes_in_every_form(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    comparison = post(client, scan, methods=[CG, RIDGE])
    table = comparison["links"]["table"]
    assert client.get(table).status_code == client.get(comparison["links"]["ranking"]).status_code == 409
    for job in jobs_of(client, comparison):
        drive.complete(job)
    for form, accept, sign in (
        ("md", "text/markdown", "| cg_sense ridge 0.1 |"),
        ("csv", "text/csv", "cg_sense ridge 0.1,"),
        ("tex", "application/x-tex", r"cg\_sense ridge 0.1 &"),
    ):
        answer = client.get(table, params={"format": form})
        assert answer.headers["content-type"].startswith(accept)
        assert sign in answer.text
        assert client.get(table, headers={"Accept": accept}).text == answer.text
    assert client.get(table, headers={"Accept": "image/png"}).status_code == 406
    rows = list(csv.DictReader(io.StringIO(client.get(table, params={"format": "csv"}).text)))
    assert [(row["method"], row["runs"], float(row["psnr_mean"])) for row in rows] == [
        ("cg_sense", "2", 30.0),
        ("cg_sense ridge 0.1", "2", 30.0),
    ]


def test_a_panel_shows_the_reference_and_each_method_that_is_done(
    client: TestClient, drive: Drive, database: sessionmaker[Session], scan: dict[str, Any]
) -> None:
    comparison = post(client, scan, methods=[CG, RIDGE])
    panel = comparison["links"]["panel.png"]
    first, second = jobs_of(client, comparison)
    assert client.get(panel).status_code == 409
    drive.finish(drive.claim(first, 1))
    alone = client.get(panel)
    assert alone.status_code == 200
    assert alone.headers["content-type"] == "image/png"
    assert client.get(panel, params={"slice": 0}).status_code == 409
    drive.finish(drive.claim(second, 1))
    picture = client.get(panel, params={"scan_id": scan["id"], "slice": 1, "seed": 0})
    widths = [Image.open(io.BytesIO(answer.content)).width for answer in (alone, picture)]
    assert widths[0] > 2 * 320
    assert widths[1] > widths[0]
    tag = {"If-None-Match": picture.headers["etag"]}
    assert client.get(panel, headers=tag).status_code == 304
    assert audited(database)[-1] == ("panel.read", {"comparison": comparison["id"]})
    with database.begin() as session:
        row = session.get_one(Scan, uuid.UUID(scan["id"]))
        row.header = {**row.header, "pixel_spacing_mm": [2.0, 1.0]}
    tall = client.get(panel, params={"scan_id": scan["id"], "slice": 1, "seed": 0})
    sizes = [Image.open(io.BytesIO(answer.content)).size for answer in (picture, tall)]
    assert sizes[1][1] / sizes[1][0] > 1.5 * sizes[0][1] / sizes[0][0]  # pixels are twice as high as they are wide
    for query in ({"slice": 2}, {"slice": -1}, {"seed": 1}, {"scan_id": str(uuid.uuid4())}, {"scan_id": "x"}):
        refused = client.get(panel, params=query)
        assert refused.status_code == 422, query
        assert refused.json()["errors"][0]["field"] in query


def test_what_is_cancelled_keeps_what_it_has_found(
    client: TestClient, drive: Drive, database: sessionmaker[Session], scan: dict[str, Any]
) -> None:
    comparison = post(client, scan)
    first, second = jobs_of(client, comparison)
    drive.complete(first)
    cancelled = client.post(comparison["links"]["cancel"])
    assert cancelled.status_code == 202
    assert (cancelled.json()["status"], len(cancelled.json()["entries"])) == ("cancelled", 1)
    assert client.get(second["links"]["self"]).json()["status"] == "cancelled"
    assert client.post(comparison["links"]["cancel"]).status_code == 409
    assert audited(database)[-2:] == [
        ("comparison.cancelled", {"comparison": comparison["id"]}),
        ("job.cancelled", {"job": second["id"]}),
    ]


def test_what_is_deleted_takes_its_jobs_and_their_files_along(
    client: TestClient, drive: Drive, storage: LocalStorage, scan: dict[str, Any]
) -> None:
    kept = client.post("/v1/jobs", json={"scan_id": scan["id"], **CG}).json()
    comparison = post(client, scan)
    drive.complete(jobs_of(client, comparison)[0])
    assert client.delete(comparison["links"]["self"]).status_code == 204
    assert [job["id"] for job in client.get("/v1/jobs").json()["items"]] == [kept["id"]]
    assert [folder.name for folder in (storage.root / "jobs").iterdir()] == [kept["id"]]
    for method, link in (("GET", "self"), ("GET", "table"), ("POST", "cancel"), ("DELETE", "self")):
        answer = client.request(method, comparison["links"][link])
        assert answer.status_code == 404, link
        assert comparison["id"] in answer.json()["detail"]


def test_a_comparison_outlives_its_scans(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    comparison = post(client, scan)
    for job in jobs_of(client, comparison):
        drive.complete(job)
    table = client.get(comparison["links"]["table"]).text
    assert client.delete(f"/v1/scans/{scan['id']}").status_code == 204
    assert client.get(comparison["links"]["table"]).text == table
    assert {entry["scan_id"] for entry in now(client, comparison)["entries"]} == {scan["id"]}


def test_a_comparison_whose_jobs_were_deleted_has_none(client: TestClient, scan: dict[str, Any]) -> None:
    comparison = post(client, scan)
    for job in jobs_of(client, comparison):
        client.delete(job["links"]["self"])
    found = now(client, comparison)
    assert (found["status"], found["progress"]["jobs"]) == ("cancelled", 0)


def test_comparisons_are_listed_page_by_page(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    made = [post(client, scan)["id"] for _ in range(3)]
    page = client.get("/v1/comparisons", params={"limit": 2})
    rest = client.get(page.links["next"]["url"]).json()
    assert [each["id"] for each in page.json()["items"] + rest["items"]] == made[::-1]
    assert rest["next_cursor"] is None
    assert page.json()["items"][0].keys() == now(client, {"links": {"self": f"/v1/comparisons/{made[0]}"}}).keys() - {
        "entries",
        "errors",
    }


def test_a_real_worker_brings_a_comparison_to_its_end(
    client: TestClient, settings: Settings, scan: dict[str, Any]
) -> None:
    labels = ("cg_sense", "dip", "dds")
    comparison = post(client, scan, methods=[CG, DIP, DDS], seeds=[0, 1])
    with working(settings):
        while comparison["status"] in ("queued", "running"):
            comparison = client.get(comparison["links"]["self"], params={"wait": 10}).json()
    assert (comparison["status"], comparison["progress"]["fraction"]) == ("succeeded", 1.0)
    entries = {(entry["label"], entry["seed"]): entry for entry in comparison["entries"]}
    assert set(entries) == {(label, seed) for label in labels for seed in (0, 1)}
    psnr = {key: entry["psnr"] for key, entry in entries.items()}
    assert psnr["cg_sense", 0] == psnr["cg_sense", 1]
    assert psnr["dip", 0] != psnr["dip", 1]
    spent = {label: (entries[label, 0]["prior_evaluations"], entries[label, 0]["optimizer_steps"]) for label in labels}
    assert spent == {"cg_sense": (0, 0), "dip": (0, 20), "dds": (3, 0)}
    (ranking,) = client.get(comparison["links"]["ranking"]).json()["items"]
    best = max(labels, key=lambda label: psnr[label, 0] + psnr[label, 1])
    assert [method["rank"] for method in ranking["methods"]] == [1, 2, 3]
    assert (ranking["modality"], ranking["n_slices"], ranking["methods"][0]["method"]) == ("mri", 2, best)
    table = client.get(comparison["links"]["table"], params={"format": "csv"}).text
    assert {row["method"]: row["runs"] for row in csv.DictReader(io.StringIO(table))} == dict.fromkeys(labels, "4")
    assert client.get(comparison["links"]["panel.png"], params={"seed": 1}).status_code == 200


def test_scans_without_references_are_compared_by_residuals_and_ratings(
    client: TestClient, settings: Settings, scan: dict[str, Any], tmp_path: Any
) -> None:
    bare = scans.write_hdf5(tmp_path / "bare.h5", **scans.without(scans.mri(1), "reference")).read_bytes()
    without = client.post("/v1/scans", content=bare).json()
    alone, mixed = post(client, without), post(client, without, scan, slices=[0])
    with working(settings):
        for comparison in (alone, mixed):
            while comparison["status"] in ("queued", "running"):
                comparison = client.get(comparison["links"]["self"], params={"wait": 10}).json()
            assert comparison["status"] == "succeeded"
            for entry in comparison["entries"]:
                assert (entry["psnr"] is None) == (entry["scan_id"] == without["id"])
                assert entry["data_residual"] is not None
                assert entry["rating"] in LEVELS
    assert [item["methods"] for item in client.get(alone["links"]["ranking"]).json()["items"]] == [[]]
    assert "data residual" in client.get(alone["links"]["table"]).text
    assert "PSNR" not in client.get(alone["links"]["table"]).text
    (ranking,) = client.get(mixed["links"]["ranking"]).json()["items"]
    assert ranking["n_slices"] == 1
    for comparison in (alone, mixed):
        panel = client.get(comparison["links"]["panel.png"], params={"scan_id": without["id"]})
        assert Image.open(io.BytesIO(panel.content)).width > 320

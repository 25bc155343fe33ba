import hashlib
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tests.support.fake_worker import Drive
from udig_recon.api.app import create_app
from udig_recon.core.parameters import UDiGDIP
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

QUICK = {"method": "zero_filled"}

WRONG = [
    (
        {"parameters": {"method": "udig_dip", "outer_iteration": 5}},
        "parameters.outer_iteration",
        "outer_iterations",
    ),
    ({"parameters": {"method": "udig_dip", "outer_iterations": 0}}, "parameters.outer_iterations", ">= 1"),
    ({"parameters": {"method": "udig_dip", "outer_iterations": "5"}}, "parameters.outer_iterations", "integer"),
    ({"parameters": {"method": "udig_dip", "outer_iterations": True}}, "parameters.outer_iterations", "integer"),
    ({"parameters": {"method": "udig_dip", "network": "big"}}, "parameters.network", "residual"),
    ({"parameters": {"method": "udig_dip", "noise_level": 0.001}}, "parameters", "levels must fall"),
    ({"parameters": {"method": "udig_dip", "prior": "knees"}}, "parameters.prior", "mri"),
    ({"parameters": {"method": "magic"}}, "parameters.method", "udig_dip"),
    ({"parameters": {}}, "parameters.method", "udig_dip"),
    ({"parameters": 5}, "parameters", "object"),
    ({"parameters": {"method": "fbp"}}, "parameters.method", "zero_filled"),
    ({"outputs": ["h5", "tiff"]}, "outputs.1", "nifti"),
    ({"outputs": []}, "outputs", "1 item"),
    ({"slices": [0, 2]}, "slices", "0 to 1"),
    ({"slices": [-1]}, "slices.0", ">= 0"),
    ({"slices": [0, 0]}, "slices", "each slice once"),
    ({"slices": []}, "slices", "1 item"),
    ({"seed": -1}, "seed", ">= 0"),
    ({"seed": 1 << 63}, "seed", "<"),
    ({"tags": {"a:b": "c"}}, "tags", "pattern"),
    ({"tags": {"a": 5}}, "tags.a", "string"),
    ({"webhook_url": "https://example.org"}, "webhook_url", "null"),
    ({"colour": "red"}, "colour", "no such field"),
    ({"scan_id": "seven"}, "scan_id", "UUID"),
]


def asked(scan: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"scan_id": scan["id"], "parameters": QUICK, **more}


def post(client: TestClient, scan: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json=asked(scan, **more))
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def test_a_job_is_queued_with_all_its_parameters(client: TestClient, scan: dict[str, Any]) -> None:
    parameters = {"method": "udig_dip", "outer_iterations": 7}
    body = asked(scan, parameters=parameters, outputs=["npy", "png", "npy"], slices=[1], seed=5, tags={"study": "7"})
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    assert int(answer.headers["retry-after"]) > 0
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert job["status"] == "queued"
    assert set(job["parameters"]) == set(UDiGDIP.model_fields)
    assert job["parameters"]["outer_iterations"] == 7
    assert (job["outputs"], job["slice_numbers"], job["seed"], job["tags"]) == (["npy", "png"], [1], 5, {"study": "7"})
    assert job["progress"] == {
        "fraction": 0.0,
        "slices_done": 0,
        "slices": 1,
        "iteration": 0,
        "iterations": None,
        "eta_seconds": None,
    }
    assert uuid.UUID(job["id"]).version == 7


def test_what_is_left_out_has_defaults(client: TestClient, scan: dict[str, Any]) -> None:
    job = post(client, scan)
    assert (job["outputs"], job["slice_numbers"], job["seed"], job["tags"]) == (["h5"], [0, 1], 0, {})


def test_what_is_wrong_is_told_with_what_would_be_right(
    client: TestClient, scan: dict[str, Any], subtests: pytest.Subtests
) -> None:
    for change, field, expected in WRONG:
        with subtests.test(str(change)):
            answer = client.post("/v1/jobs", json=asked(scan) | change)
            assert answer.status_code == 422, answer.text
            (error,) = answer.json()["errors"]
            assert error["field"].startswith(field)
            assert expected in error["expected"]
            assert error["found"]
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"method": "ref_guided_dip", "guide": "file"}, "scan.guide"),
        ({"method": "mcg"}, "parameters.method"),
        ({"method": "dps", "prior": "ct"}, "parameters.prior"),
        ({"method": "dds", "noise_level": 0.1, "final_noise_level": 0.2}, "parameters"),
        ({"method": "score_mri", "coils": "separate", "samples": 2}, "parameters"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_would(
    client: TestClient, scan: dict[str, Any], parameters: dict[str, Any], field: str
) -> None:
    refused = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": parameters})
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"].startswith(field)


def test_an_axis_of_rotation_off_the_detector_is_refused_at_once(client: TestClient, ct_file: bytes) -> None:
    posted = client.post("/v1/scans", content=ct_file).json()
    body = {"scan_id": posted["id"], "parameters": {"method": "fbp", "rotation_center": 9999}}
    refused = client.post("/v1/jobs", json=body)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"] == "parameters.rotation_center"
    body["parameters"] = {"method": "fbp", "rotation_center": 3}
    assert client.post("/v1/jobs", json=body).json()["parameters"]["rotation_center"] == 3


@pytest.mark.parametrize("method", ["dip", "sirt", "fbp"])
def test_more_views_left_out_than_can_be_spared_are_refused_with_how_many_can(
    client: TestClient, ct_file: bytes, method: str
) -> None:
    posted = client.post("/v1/scans", content=ct_file).json()
    parameters = {"method": method, "holdout": "lines", "holdout_share": 0.99}
    refused = client.post("/v1/jobs", json={"scan_id": posted["id"], "parameters": parameters})
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert error["field"] == "parameters.holdout_share"
    assert (error["found"], error["expected"]) == ("24 of 24 views", "22 views or fewer; 0 holds out none")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused(client: TestClient, scan: dict[str, Any], number: str) -> None:
    body = f'{{"scan_id": "{scan["id"]}", "parameters": {{"method": "cg_sense", "ridge": {number}}}}}'
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "parameters.ridge"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "text/plain", 415),
        (b"{}", "", 415),
        (b"not json", "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b'"' + b"x" * (1 << 20) + b'"', "application/json", 413),
    ],
    ids=["text", "no type", "not JSON", "not UTF-8", "nested", "too large"],
)
def test_a_body_that_is_no_job_is_refused(client: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/v1/jobs", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_job_of_an_unknown_scan_is_404(client: TestClient) -> None:
    assert client.post("/v1/jobs", json=asked({"id": str(uuid.uuid4())})).status_code == 404


@pytest.mark.parametrize("scan_first", [True, False])
def test_one_call_brings_the_scan_and_queues_the_job(client: TestClient, ct_file: bytes, scan_first: bool) -> None:
    job = ("job", (None, json.dumps({"parameters": {"method": "fbp"}, "slices": [1]})))
    parts = [("scan", ("thorax.h5", ct_file)), job]
    answer = client.post("/v1/jobs", files=parts if scan_first else parts[::-1])
    assert answer.status_code == 202, answer.text
    scan = client.get(answer.json()["links"]["scan"]).json()
    assert (scan["filename"], scan["sha256"]) == ("thorax.h5", hashlib.sha256(ct_file).hexdigest())


@pytest.mark.parametrize(
    "job", [b'{"parameters": {"method": "zero_filled"}}', b'{"parameters": {"method": "nope"}}', b"{", b""]
)
def test_a_refused_job_leaves_no_scan_behind(
    client: TestClient, storage: LocalStorage, ct_file: bytes, job: bytes
) -> None:
    answer = client.post("/v1/jobs", files=[("scan", ("thorax.h5", ct_file)), ("job", (None, job))])
    assert answer.status_code == 422, answer.text
    assert client.get("/v1/scans").json()["items"] == []
    assert not [
        path
        for folder in ((storage.root / "scans"), (storage.root / "incoming"), (storage.root / "jobs"))
        for path in folder.iterdir()
    ]


def test_a_refused_job_leaves_a_scan_that_was_there_alone(
    client: TestClient, storage: LocalStorage, mri_file: bytes, scan: dict[str, Any]
) -> None:
    job = ("job", (None, b'{"parameters": {"method": "fbp"}}'))
    assert client.post("/v1/jobs", files=[("scan", ("brain.h5", mri_file)), job]).status_code == 422
    assert storage.path(keys.scan(scan["sha256"])).read_bytes() == mri_file
    assert client.get(f"/v1/scans/{scan['id']}").status_code == 200


@pytest.mark.parametrize("parts", [["scan"], ["job"], ["scan", "job", "job"], ["scan", "job", "more"]])
def test_a_form_has_the_parts_that_it_must_have(client: TestClient, ct_file: bytes, parts: list[str]) -> None:
    known = {"scan": ("a.h5", ct_file), "job": (None, b"{}"), "more": (None, b"1")}
    answer = client.post("/v1/jobs", files=[(name, known[name]) for name in parts])
    assert answer.status_code == 422
    assert "part" in answer.json()["detail"]


def test_the_same_key_and_request_answer_with_the_first_job(
    client: TestClient, mri_file: bytes, scan: dict[str, Any]
) -> None:
    key = {"Idempotency-Key": "abc"}
    first = client.post("/v1/jobs", json=asked(scan, tags={"a": "b"}), headers=key)
    again = client.post("/v1/jobs", json=dict(reversed(asked(scan, tags={"a": "b"}).items())), headers=key)
    assert first.status_code == again.status_code == 202
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    other = client.post("/v1/jobs", json=asked(scan, seed=1), headers=key)
    assert other.status_code == 409
    assert first.json()["id"] in other.json()["detail"]
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_parallel_posts_with_one_key_make_one_job(client: TestClient, scan: dict[str, Any]) -> None:
    def one(_: int) -> httpx2.Response:
        return client.post("/v1/jobs", json=asked(scan), headers={"Idempotency-Key": "abc"})

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(one, range(60)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1


def test_no_more_jobs_are_open_than_allowed(settings: Settings, mri_file: bytes) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_open_jobs": 2}))) as client:
        scan = client.post("/v1/scans", content=mri_file).json()
        post(client, scan)
        second = post(client, scan)
        refused = client.post("/v1/jobs", json=asked(scan))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert "2" in refused.json()["detail"]
        client.post(second["links"]["cancel"])
        post(client, scan)


def test_a_job_of_slices_of_different_lengths_counts_each_as_it_is(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    job = post(client, scan)
    for number, iteration, iterations in ((1, 10, 10), (0, 3, 6)):
        claim = drive.claim(job, number)
        drive.report(claim, iteration, iterations)
        if number == 1:
            drive.finish(claim)
    progress = client.get(job["links"]["self"]).json()["progress"]
    assert (progress["fraction"], progress["iteration"], progress["iterations"]) == (0.75, 13, 16)


def test_a_job_tells_how_far_it_is(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    job = post(client, scan)
    claim = drive.claim(job, 1)
    drive.report(claim, 4)
    found = client.get(job["links"]["self"])
    assert int(found.headers["retry-after"]) > 0
    body = found.json()
    assert (body["status"], body["attempt"], body["worker"]) == ("running", 1, "host:1:a")
    assert body["progress"] == {
        "fraction": 0.2,
        "slices_done": 0,
        "slices": 2,
        "iteration": 4,
        "iterations": 20,
        "eta_seconds": 8.0,
    }
    drive.finish(claim)
    assert client.get(job["links"]["self"]).json()["progress"]["slices_done"] == 1
    drive.finish(drive.claim(job, 0))
    ended = client.get(job["links"]["self"])
    assert "retry-after" not in ended.headers
    body = ended.json()
    assert body["status"] == "succeeded"
    assert body["progress"]["fraction"] == 1.0
    assert body["progress"]["eta_seconds"] is None
    assert body["metrics"] == {
        "psnr": 30.0,
        "ssim": 0.9,
        "nmse": 0.01,
        "data_residual": 0.05,
        "validation_residual": None,
        "prior_evaluations": None,
        "optimizer_steps": None,
        "noise_discrepancy": None,
        "iterate_variance": None,
        "hallucination_share": None,
        "seed_std": None,
    }
    assert datetime.fromisoformat(body["created_at"]) <= datetime.fromisoformat(body["finished_at"])


def test_a_job_is_not_sent_twice_to_who_has_it(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    job = post(client, scan)
    tag = client.get(job["links"]["self"]).headers["etag"]
    known = {"If-None-Match": tag}
    same = client.get(job["links"]["self"], headers=known)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    drive.report(drive.claim(job), 1)
    assert client.get(job["links"]["self"], headers=known).status_code == 200


def test_an_answer_waits_for_the_next_status(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    job = post(client, scan)
    starter = threading.Timer(0.5, lambda: drive.report(drive.claim(job), 1))
    starter.start()
    before = time.monotonic()
    found = client.get(job["links"]["self"], params={"wait": 30})
    starter.join()
    assert found.json()["status"] == "running"
    assert time.monotonic() - before < 20
    assert client.get(job["links"]["self"], params={"wait": 0.2}).json()["status"] == "running"
    client.post(job["links"]["cancel"])
    assert client.get(job["links"]["self"], params={"wait": 61}).status_code == 422


def test_jobs_are_found_by_status_scan_and_tag(
    client: TestClient, drive: Drive, ct_file: bytes, scan: dict[str, Any]
) -> None:
    other = client.post("/v1/scans", content=ct_file).json()
    first = post(client, scan, tags={"study": "7", "who": "a"})
    second = post(client, scan, tags={"study": "8"})
    third = post(client, other, parameters={"method": "fbp"})
    drive.complete(first)

    def ids(**query: str) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=query).json()["items"]]

    assert ids() == [third["id"], second["id"], first["id"]]
    assert ids(status="succeeded") == [first["id"]]
    assert ids(status="queued") == [third["id"], second["id"]]
    assert ids(scan_id=scan["id"]) == [second["id"], first["id"]]
    assert ids(tag="study") == [second["id"], first["id"]]
    assert ids(tag="study:7") == [first["id"]]
    assert ids(tag="study:9") == []
    assert ids(tag="study:7", status="queued") == []
    assert client.get("/v1/jobs", params={"status": "lost"}).json()["errors"][0]["field"] == "status"
    assert client.get("/v1/jobs", params={"cursor": "!"}).status_code == 422
    assert [client.get("/v1/jobs", params={"tag": tag}).status_code for tag in ("\0", "study:\0")] == [422, 422]


def test_a_list_of_jobs_is_read_page_by_page_with_one_query_each(client: TestClient, scan: dict[str, Any]) -> None:
    made = [post(client, scan)["id"] for _ in range(7)]
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        seen, link, pages = [], "/v1/jobs?limit=3&status=queued", 0
        while link:
            page = client.get(link)
            seen += [job["id"] for job in page.json()["items"]]
            link, pages = page.links.get("next", {}).get("url"), pages + 1
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert seen == made[::-1]
    assert len(statements) == pages == 3


def test_a_queued_job_is_cancelled_at_once_and_only_once(client: TestClient, scan: dict[str, Any]) -> None:
    job = post(client, scan)
    cancelled = client.post(job["links"]["cancel"])
    assert cancelled.status_code == 202
    assert cancelled.json()["status"] == "cancelled"
    again = client.post(job["links"]["cancel"])
    assert again.status_code == 409
    assert "cancelled" in again.json()["detail"]


def test_a_running_job_is_asked_to_stop(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    job = post(client, scan)
    drive.report(drive.claim(job), 1)
    cancelled = client.post(job["links"]["cancel"]).json()
    assert (cancelled["status"], cancelled["cancel_requested"]) == ("running", True)


def test_only_a_failed_job_is_retried(client: TestClient, drive: Drive, scan: dict[str, Any]) -> None:
    job = post(client, scan)
    assert client.post(job["links"]["retry"]).status_code == 409
    drive.fail(job)
    failed = client.get(job["links"]["self"]).json()
    assert failed["status"] == "failed"
    assert failed["error"]["detail"] == "it broke"
    again = client.post(job["links"]["retry"])
    assert again.status_code == 202
    assert (again.json()["status"], again.json()["error"]) == ("queued", None)
    drive.complete(job)
    assert client.get(job["links"]["self"]).json()["status"] == "succeeded"


def test_a_deleted_job_leaves_nothing(
    client: TestClient, drive: Drive, storage: LocalStorage, scan: dict[str, Any]
) -> None:
    job = post(client, scan)
    drive.complete(job)
    assert storage.path(keys.job(uuid.UUID(job["id"]))).is_dir()
    assert client.delete(job["links"]["self"]).status_code == 204
    assert not list((storage.root / "jobs").iterdir())
    for method, link in (("GET", "self"), ("GET", "result"), ("POST", "cancel"), ("POST", "retry"), ("DELETE", "self")):
        answer = client.request(method, job["links"][link])
        assert answer.status_code == 404, link
        assert job["id"] in answer.json()["detail"]


def test_a_job_is_queued_while_the_queue_is_away(settings: Settings, mri_file: bytes) -> None:
    lonely = settings.model_copy(update={"redis_url": "unix:///nowhere/valkey.sock"})
    with TestClient(create_app(lonely)) as client:
        scan = client.post("/v1/scans", content=mri_file).json()
        assert post(client, scan)["status"] == "queued"


def test_a_time_limit_is_told_bounded_and_raised_by_a_retry(
    client: TestClient, drive: Drive, settings: Settings, scan: dict[str, Any]
) -> None:
    assert post(client, scan)["max_seconds"] == settings.max_job_seconds
    refused = client.post("/v1/jobs", json=asked(scan, max_seconds=settings.max_job_seconds + 1))
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "max_seconds"
    job = post(client, scan, max_seconds=60)
    assert (job["max_seconds"], job["compute_seconds"]) == (60, 0)
    drive.fail(job)
    for wrong in (b"{", b'{"max_seconds": 0}', b'{"seconds": 1}'):
        answer = client.post(job["links"]["retry"], content=wrong, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
    again = client.post(job["links"]["retry"], json={"max_seconds": 120})
    assert (again.status_code, again.json()["max_seconds"]) == (202, 120)


def test_without_keys_a_job_may_be_urgent_and_is_the_same_request_only_as_such(
    client: TestClient, scan: dict[str, Any]
) -> None:
    headers = {"Idempotency-Key": "k"}
    urgent = client.post("/v1/jobs", json=asked(scan, priority="urgent"), headers=headers)
    assert urgent.json()["priority"] == "urgent"
    assert client.post("/v1/jobs", json=asked(scan), headers=headers).status_code == 409
    assert post(client, scan)["priority"] == "routine"
    assert client.post("/v1/jobs", json=asked(scan, priority="now")).status_code == 422

"""What a tenant may do is counted over all its keys; what a job will cost is told when it is posted, and bounded."""

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from tests.support.fake_worker import Drive
from tests.support.keyed_client import QUICK, Headers, KeyedApi, ask, bring
from udig_recon.api.app import create_app
from udig_recon.api.http.problems import LONGEST_DETAIL, TooManyAtOnce
from udig_recon.api.http.tenant_queue import TenantQueue
from udig_recon.worker.access import tenants
from udig_recon.worker.access.limits import Scope
from udig_recon.worker.database.tables import ComputeUsage, Job
from udig_recon.worker.jobs import estimates
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import accounting, keys
from udig_recon.worker.storage.local import LocalStorage


def post(
    keyed_api: KeyedApi, headers: Headers, scan: dict[str, Any], parameters: dict[str, Any] | None = None, **more: Any
) -> Any:
    body = {"scan_id": scan["id"], "parameters": parameters or QUICK, **more}
    return keyed_api.client.post("/v1/jobs", json=body, headers=headers)


def told(answer: Any, status: int, word: str) -> str:
    """The detail of a refusal, which names that word."""
    assert answer.status_code == status, answer.text
    detail: str = answer.json()["detail"]
    assert word in detail
    if status == 429:
        assert int(answer.headers["retry-after"]) > 0
    return detail


@pytest.fixture
def minted(keyed_api: KeyedApi) -> list[Headers]:
    """Keys of one tenant: an admin's, and two that it made itself."""
    _, admin = keyed_api.key("a")
    made = [
        keyed_api.client.post(
            "/v1/keys", json={"name": f"n{number}", "scopes": ["read", "write"]}, headers=admin
        ).json()
        for number in range(2)
    ]
    return [admin, *({"Authorization": f"Bearer {each['key']}"} for each in made)]


def test_open_jobs_are_counted_over_all_keys_of_a_tenant(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes
) -> None:
    keyed_api.limit("a", max_open_jobs=2)
    scan = bring(keyed_api, minted[0], mri_file)
    ask(keyed_api, minted[0], scan)
    ask(keyed_api, minted[1], scan)
    for headers in minted:
        assert "has 2; 0 would fit" in told(post(keyed_api, headers, scan), 429, "max_open_jobs")
    _, other = keyed_api.key("b")
    ask(keyed_api, other, bring(keyed_api, other, mri_file))


def test_slices_days_and_compute_are_counted_over_all_keys_of_a_tenant(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes, drive: Drive
) -> None:
    scan = bring(keyed_api, minted[0], mri_file)  # of two slices
    keyed_api.limit("a", max_open_slices=3)
    drive_me = ask(keyed_api, minted[0], scan)
    assert "has 2; this is 2 at once; 1 would fit" in told(post(keyed_api, minted[1], scan), 429, "max_open_slices")
    drive.complete(drive_me)
    keyed_api.limit("a", max_open_slices=100, max_jobs_per_day=2)
    second = ask(keyed_api, minted[1], scan)
    assert keyed_api.client.delete(second["links"]["self"], headers=minted[1]).status_code == 204
    told(post(keyed_api, minted[2], scan), 429, "max_jobs_per_day")
    keyed_api.limit("a", max_jobs_per_day=100, max_compute_seconds_per_day=1000)
    with keyed_api.database.begin() as session:
        session.add(ComputeUsage(tenant="a", job_id=uuid.uuid4(), priority=0, seconds=999.9))
    told(post(keyed_api, minted[2], scan), 429, "max_compute_seconds_per_day")
    with keyed_api.database.begin() as session:
        session.execute(text("UPDATE compute_usage SET at = now() - interval '25 hours'"))
    ask(keyed_api, minted[2], scan)


def test_what_open_jobs_will_need_counts_as_had_until_they_end(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes
) -> None:
    scan = bring(keyed_api, minted[0], mri_file)
    first = ask(keyed_api, minted[0], scan)
    keyed_api.limit("a", max_compute_seconds_per_day=max(1, int(1.5 * first["estimate"]["seconds"])))
    told(post(keyed_api, minted[1], scan), 429, "would fit")
    keyed_api.client.post(first["links"]["cancel"], headers=minted[0])
    ask(keyed_api, minted[1], scan)


def test_a_retry_reserves_what_it_may_need_with_its_new_limit(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes, drive: Drive
) -> None:
    scan = bring(keyed_api, minted[0], mri_file)
    lasting = {"method": "dip", "iterations": 99_999}
    first = post(keyed_api, minted[0], scan, lasting, max_seconds=1).json()
    assert first["estimate"]["seconds"] == 1
    drive.fail(first)
    keyed_api.limit("a", max_compute_seconds_per_day=100)
    retry = partial(keyed_api.client.post, first["links"]["retry"], headers=minted[0])
    told(retry(json={"max_seconds": 1000}), 429, "max_compute_seconds_per_day")
    again = retry(json={"max_seconds": 90})
    assert (again.status_code, again.json()["estimate"]["seconds"]) == (202, 90)
    told(post(keyed_api, minted[1], scan, lasting, max_seconds=20), 429, "max_compute_seconds_per_day")


def test_a_retry_reserves_the_bytes_of_its_results(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes, drive: Drive, storage: LocalStorage
) -> None:
    job = ask(keyed_api, minted[0], bring(keyed_api, minted[0], mri_file))
    drive.fail(job)
    assert accounting.count_ended(keyed_api.database, storage, timedelta(0)) == 1
    keyed_api.limit("a", max_stored_bytes=_stored(keyed_api, minted[0]) + job["estimate"]["result_bytes"] // 2)
    retry = partial(keyed_api.client.post, job["links"]["retry"], headers=minted[0])
    told(retry(), 429, "max_stored_bytes")
    keyed_api.limit("a", max_stored_bytes=None)
    assert retry().status_code == 202


def test_the_jobs_of_a_comparison_are_counted_as_any_others(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes
) -> None:
    scan = bring(keyed_api, minted[0], mri_file)
    body = {"scan_ids": [scan["id"]], "methods": [{"parameters": QUICK}], "seeds": [0, 1, 2]}
    for name, most in (("max_open_jobs", 2), ("max_open_slices", 5), ("max_jobs_per_day", 2)):
        keyed_api.limit("a", **{name: most})
        told(keyed_api.client.post("/v1/comparisons", json=body, headers=minted[1]), 429, name)
        keyed_api.limit("a", **{name: 1000})
    with keyed_api.database() as session:
        assert session.scalar(text("SELECT count(*) FROM jobs")) == 0
    keyed_api.limit("a", max_job_seconds=1)
    slow = {"parameters": {"method": "dip", "iterations": 50_000}}
    refused = keyed_api.client.post("/v1/comparisons", json=body | {"methods": [slow]}, headers=minted[1])
    told(refused, 422, "max_job_seconds")
    assert refused.json()["errors"][0]["field"].startswith("methods.0.")


def test_a_tenant_leaves_others_their_part_of_the_service(
    settings: Settings, database: sessionmaker[Session], mri_file: bytes
) -> None:
    crowded = settings.model_copy(update={"authentication": "on", "max_open_jobs": 6})
    with TestClient(create_app(crowded)) as client:
        keyed_api = KeyedApi(client, database)
        everyone = [keyed_api.key(tenant)[1] for tenant in ("a", "a", "b")]
        scans = [bring(keyed_api, headers, mri_file) for headers in everyone[1:]]
        answers = [post(keyed_api, everyone[number % 2], scans[0]).status_code for number in range(6)]
        assert answers == [202, 202, 202, 429, 429, 429]
        told(post(keyed_api, everyone[0], scans[0]), 429, "MAX_OPEN_JOBS")
        assert post(keyed_api, everyone[2], scans[1]).status_code == 202


def test_a_tenant_has_so_many_keys_and_revoking_gives_no_more_that_day(keyed_api: KeyedApi) -> None:
    keyed_api.limit("a", max_keys=3)
    _, admin = keyed_api.key("a")
    made = [keyed_api.client.post("/v1/keys", json={"name": "x", "scopes": ["read"]}, headers=admin) for _ in range(3)]
    assert [answer.status_code for answer in made] == [201, 201, 429]
    told(made[-1], 429, "max_keys")
    keyed_api.client.delete(f"/v1/keys/{made[0].json()['id']}", headers=admin)
    again = {"name": "y", "scopes": ["read"]}
    told(keyed_api.client.post("/v1/keys", json=again, headers=admin), 429, "max_keys")
    with keyed_api.database.begin() as session:
        session.execute(text("UPDATE keys SET created_at = now() - interval '25 hours'"))
    assert keyed_api.client.post("/v1/keys", json=again, headers=admin).status_code == 201


def test_a_key_has_no_more_than_its_tenant(keyed_api: KeyedApi) -> None:
    keyed_api.limit("a", max_open_jobs=5)
    _, admin = keyed_api.key("a")
    body = {"name": "x", "scopes": ["read"]}
    refused = keyed_api.client.post("/v1/keys", json=body | {"max_open_jobs": 6}, headers=admin)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "max_open_jobs")
    assert keyed_api.client.post("/v1/keys", json=body | {"max_open_jobs": 5}, headers=admin).status_code == 201


def test_keys_are_listed_page_by_page(keyed_api: KeyedApi) -> None:
    _, admin = keyed_api.key("a", Scope.ADMIN)
    ids = {str(keyed_api.key("a")[0]) for _ in range(4)}
    keyed_api.key("b")
    found: list[str] = []
    path: str | None = "/v1/keys?limit=2"
    while path is not None:
        answer = keyed_api.client.get(path, headers=admin)
        found += [key["id"] for key in answer.json()["items"]]
        path = answer.links["next"]["url"] if "next" in answer.links else None
    assert len(found) == 5
    assert ids < set(found)


def test_requests_are_counted_over_all_keys_of_a_tenant(keyed_api: KeyedApi, minted: list[Headers]) -> None:
    keyed_api.limit("a", max_requests_per_minute=4)
    answers = [keyed_api.client.get("/v1/jobs", headers=minted[number % 3]).status_code for number in range(6)]
    assert 429 in answers
    told(keyed_api.client.get("/v1/jobs", headers=minted[0]), 429, "this tenant may make 4 requests a minute")
    assert keyed_api.client.get("/v1/jobs", headers=keyed_api.key("b")[1]).status_code == 200


def test_uploads_and_waits_of_all_keys_are_their_tenants(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes
) -> None:
    room = keyed_api.client.app.state.context.concurrency  # type: ignore[attr-defined]
    job = ask(keyed_api, minted[0], bring(keyed_api, minted[0], mri_file))
    keyed_api.limit("a", max_uploads=1, max_waits=1)
    with room.uploads.slot("tenant:a"):
        told(keyed_api.client.post("/v1/scans", content=mri_file, headers=minted[1]), 429, "uploads at once")
    with room.polls.slot("tenant:a"):
        told(keyed_api.client.get(f"{job['links']['self']}?wait=1", headers=minted[2]), 429, "long polls at once")
    with room.streams.slot("tenant:a"):
        told(keyed_api.client.get(job["links"]["events"], headers=minted[2]), 429, "event streams at once")
    assert (room.uploads.free, room.polls.free) == (room.uploads.most, room.polls.most)


def test_long_polls_of_one_tenant_keep_no_other_out_at_the_same_address(
    settings: Settings, database: sessionmaker[Session], mri_file: bytes
) -> None:
    narrow = settings.model_copy(update={"authentication": "on", "max_waiting_requests": 4})
    with TestClient(create_app(narrow)) as client:
        keyed_api = KeyedApi(client, database)
        (_, greedy), (_, modest) = keyed_api.key("a"), keyed_api.key("b")
        job = ask(keyed_api, greedy, bring(keyed_api, greedy, mri_file))
        room = client.app.state.context.concurrency  # type: ignore[attr-defined]
        waits = [
            threading.Thread(target=client.get, args=(f"{job['links']['self']}?wait=20",), kwargs={"headers": greedy})
            for _ in range(6)
        ]
        for number, each in enumerate(waits, 1):
            each.start()
            _until(lambda number=number: room.polls.count_held("tenant:a") == number)  # type: ignore[misc]
        assert room.requests.free == room.requests.most
        assert client.get("/v1/jobs", headers=modest).status_code == 200
        client.post(job["links"]["cancel"], headers=greedy)
        for each in waits:
            each.join()
        assert room.polls.free == room.polls.most


def _until(true: Any) -> None:
    for _ in range(2000):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("waited in vain")


def _stored(keyed_api: KeyedApi, headers: Headers) -> int:
    usage: int = keyed_api.client.get("/v1/tenant", headers=headers).json()["usage"]["stored_bytes"]
    return usage


def test_no_byte_is_read_of_what_may_not_be_kept(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes, ct_file: bytes, storage: LocalStorage
) -> None:
    scan = bring(keyed_api, minted[0], mri_file)
    keyed_api.limit("a", max_stored_bytes=_stored(keyed_api, minted[0]) + 1000)
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for start in range(0, len(large), 1 << 16):
            sent += 1
            yield large[start : start + (1 << 16)]

    large = bytes(8 << 20)
    for headers in minted:
        declared = headers | {"Content-Length": str(len(large))}
        told(keyed_api.client.post("/v1/scans", content=large, headers=declared), 429, "1000 bytes more may be kept")
        told(keyed_api.client.post("/v1/scans", content=body(), headers=headers), 429, "max_stored_bytes")
    assert not list((storage.root / "incoming").iterdir())
    # What is here already takes no room, however full it is.
    keyed_api.limit("a", max_stored_bytes=1)
    again = keyed_api.client.post("/v1/scans", content=mri_file, headers=minted[1])
    assert (again.status_code, again.json()["id"]) == (200, scan["id"])
    told(keyed_api.client.post("/v1/scans", content=ct_file, headers=minted[1]), 429, "max_stored_bytes")


@pytest.mark.parametrize("declared", [1 << 62, 1 << 63, 1 << 64, 10**30])
def test_a_length_that_no_file_has_is_too_large_whatever_its_number(keyed_api: KeyedApi, declared: int) -> None:
    _, headers = keyed_api.key("a")
    for kind in ("application/octet-stream", "multipart/form-data; boundary=b"):
        sent = {**headers, "Content-Length": str(declared), "Content-Type": kind}
        told(keyed_api.client.post("/v1/scans", content=b"x", headers=sent), 413, "MAX_UPLOAD_BYTES")


def test_results_are_counted_and_reserved(
    keyed_api: KeyedApi, minted: list[Headers], mri_file: bytes, drive: Drive
) -> None:
    scan = bring(keyed_api, minted[0], mri_file)
    first = ask(keyed_api, minted[0], scan)
    reserved = first["estimate"]["result_bytes"]
    assert reserved > 0

    of_scan = _stored(keyed_api, minted[0]) - reserved
    assert of_scan > len(mri_file)  # its prepared form counts
    keyed_api.limit("a", max_stored_bytes=of_scan + 2 * reserved - 1)
    assert f"{reserved - 1} would fit" in told(post(keyed_api, minted[1], scan), 429, "max_stored_bytes")
    keyed_api.client.delete(first["links"]["self"], headers=minted[0])
    assert _stored(keyed_api, minted[0]) == of_scan
    ask(keyed_api, minted[1], scan)


def test_a_job_tells_its_estimate_and_one_beyond_the_limits_is_told_what_would_fit(
    keyed_api: KeyedApi, mri_file: bytes
) -> None:
    _, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    job = ask(keyed_api, headers, scan)
    assert set(job["estimate"]) == {"seconds", "memory_bytes", "result_bytes"}
    assert keyed_api.client.get(job["links"]["self"], headers=headers).json()["estimate"] == job["estimate"]
    months = {"method": "dip", "iterations": 99_999}
    detail = told(post(keyed_api, headers, scan, months, seeds=64), 422, "max_job_seconds")
    assert " seeds" in detail
    assert "slice would fit" in detail or "seeds would fit" in detail
    fitting = int(detail.split("at most ")[1].split(" seed")[0])
    accepted = post(keyed_api, headers, scan, months, seeds=fitting)
    assert accepted.status_code == 202, accepted.text
    # Whoever names a time after which it ends need not be told.
    limited = post(keyed_api, headers, scan, months, seeds=64, max_seconds=60).json()
    assert limited["estimate"]["seconds"] == limited["max_seconds"] == 60
    wide = {"method": "dps", "samples": 64}
    keyed_api.limit("a", max_job_memory_bytes=400 << 20)
    detail = told(post(keyed_api, headers, scan, wide), 422, "max_job_memory_bytes")
    samples = int(detail.split("samples ")[1].split(" ")[0])
    assert post(keyed_api, headers, scan, wide | {"samples": samples}).status_code == 202


def test_what_no_worker_can_hold_is_refused(keyed_api: KeyedApi, mri_file: bytes, drive: Drive) -> None:
    _, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    drive.worker()
    with keyed_api.database.begin() as session:
        session.execute(text("UPDATE workers SET memory_bytes = :bytes"), {"bytes": 400 << 20})
    told(post(keyed_api, headers, scan, {"method": "dps", "samples": 64}), 422, "the largest worker")
    ask(keyed_api, headers, scan)


def test_estimates_follow_what_the_workers_were_found_to_take(
    keyed_api: KeyedApi, mri_file: bytes, database: sessionmaker[Session]
) -> None:
    _, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    before = ask(keyed_api, headers, scan, parameters={"method": "cg_sense"})["estimate"]["seconds"]
    for _ in range(3):
        ask(keyed_api, headers, scan, parameters={"method": "cg_sense"})
    with database.begin() as session:
        session.execute(text("UPDATE jobs SET status = 'succeeded', basis_seconds = 10, seconds = 5"))
    factors = estimates.Factors()
    with database() as session:
        assert factors.of(session, "cg_sense") == factors.of(session, "never seen") == 0.5
    keyed_api.client.app.state.context.factors._until = 0.0  # type: ignore[attr-defined]
    after = ask(keyed_api, headers, scan, parameters={"method": "cg_sense"})["estimate"]["seconds"]
    assert after == pytest.approx(before / 2, rel=0.02)
    with database.begin() as session:
        session.execute(text("UPDATE jobs SET seconds = 1e-9 WHERE status = 'succeeded'"))
        assert estimates.Factors().of(session, "cg_sense") == estimates.BOUNDS[0]


def test_a_tenants_submission_waits_for_no_other_tenants(
    keyed_api: KeyedApi, database: sessionmaker[Session], mri_file: bytes
) -> None:
    (_, theirs), (_, mine) = keyed_api.key("a"), keyed_api.key("b")
    scans = [bring(keyed_api, headers, mri_file) for headers in (theirs, mine)]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with database.begin() as session:
            tenants.hold(session, "a")
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    waiting = threading.Thread(target=post, args=(keyed_api, theirs, scans[0]))
    waiting.start()
    try:
        ask(keyed_api, mine, scans[1])
        assert keyed_api.client.post("/v1/scans", content=mri_file, headers=mine).status_code == 200
        with database() as session:
            assert session.scalars(text("SELECT tenant FROM jobs")).all() == ["b"]
    finally:
        done.set()
        holder.join()
        waiting.join()
    with database() as session:
        assert sorted(session.scalars(text("SELECT tenant FROM jobs"))) == ["a", "b"]


def test_who_waits_for_its_turn_holds_no_thread_and_keeps_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("udig_recon.api.http.tenant_queue.LONGEST_SECONDS", 0.05)

    async def scenario() -> None:
        turns = TenantQueue(2)
        async with turns.turn("a"), turns.turn("a"), turns.turn("b"):
            with pytest.raises(TooManyAtOnce):
                async with turns.turn("a"):
                    raise AssertionError("a third turn")
        async with turns.turn("a"), turns.turn("a"):
            pass

    asyncio.run(scenario())


def test_a_tenants_limits_and_usage_are_told_to_its_readers(keyed_api: KeyedApi, mri_file: bytes) -> None:
    _, headers = keyed_api.key("a")
    keyed_api.limit("a", max_open_jobs=7)
    ask(keyed_api, headers, bring(keyed_api, headers, mri_file))
    found = keyed_api.client.get("/v1/tenant", headers=headers).json()
    assert found["tenant"] == "a"
    assert found["limits"]["max_open_jobs"] == 7
    assert found["limits"]["max_keys"] == 100
    assert {name: found["usage"][name] for name in ("open_jobs", "open_slices", "jobs_today", "keys")} == {
        "open_jobs": 1,
        "open_slices": 2,
        "jobs_today": 1,
        "keys": 1,
    }


def test_a_replayed_request_is_counted_once(keyed_api: KeyedApi, mri_file: bytes) -> None:
    _, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    keyed_api.limit("a", max_open_jobs=1, max_jobs_per_day=1)
    key = headers | {"Idempotency-Key": "k"}
    first, again = (post(keyed_api, key, scan) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]


def test_a_wrong_value_is_told_in_part_however_long_it_is(keyed_api: KeyedApi, mri_file: bytes) -> None:
    _, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    long = "x" * 500_000
    for body in (
        {"parameters": {"method": "udig_dip", "prior": long}},
        {"parameters": {"method": long}},
        {"parameters": QUICK, long: 1},
        {"parameters": {"method": "udig_dip", **{f"{number}{long[:100]}": 1 for number in range(3000)}}},
    ):
        answer = keyed_api.client.post("/v1/jobs", json={"scan_id": scan["id"], **body}, headers=headers)
        assert answer.status_code == 422
        assert len(answer.json()["detail"]) <= LONGEST_DETAIL
        assert len(answer.content) < 100_000


def test_a_full_disk_of_the_database_is_called_that(
    keyed_api: KeyedApi, mri_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)

    class Full(Exception):
        sqlstate = "53100"

    def full(*_: Any, **__: Any) -> Any:
        raise OperationalError("INSERT", None, Full("could not extend file"))

    monkeypatch.setattr("udig_recon.worker.jobs.lifecycle.file", full)
    refused = post(keyed_api, headers, scan)
    assert (refused.status_code, refused.json()["title"]) == (507, "Insufficient Storage")


def test_without_keys_the_default_tenants_limits_hold(
    client: TestClient, database: sessionmaker[Session], scan: dict[str, Any]
) -> None:
    with database.begin() as session:
        tenants.set_limits(session, "default", {"max_open_jobs": 1, "retention_days": 0})
    body = {"scan_id": scan["id"], "parameters": QUICK}
    answers = [client.post("/v1/jobs", json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 429]
    assert "max_open_jobs" in answers[1].json()["detail"]
    assert client.get("/v1/tenant").json()["limits"]["max_open_jobs"] == 1
    with database() as session:
        (job,) = session.query(Job).all()
        assert job.result_bytes is not None
    assert json.loads(answers[0].text)["expires_at"] is not None


def test_what_a_job_leaves_is_counted_when_it_has_ended_and_again_when_it_grows(
    keyed_api: KeyedApi, mri_file: bytes, drive: Drive, storage: LocalStorage, database: sessionmaker[Session]
) -> None:
    _, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    drive.complete(job := ask(keyed_api, headers, scan))
    drive.fail(failed := ask(keyed_api, headers, scan))
    waiting = ask(keyed_api, headers, scan)

    def counted() -> dict[str, int | None]:
        with database() as session:
            return {str(each.id): each.stored_bytes for each in session.query(Job)}

    assert accounting.count_ended(database, storage) == 0  # its worker may still be tidying up
    assert accounting.count_ended(database, storage, timedelta(0)) == 2
    assert accounting.count_ended(database, storage, timedelta(0)) == 0
    sizes = {name: storage.size(keys.job(uuid.UUID(name))) for name in (job["id"], failed["id"])}
    assert counted() == {**sizes, waiting["id"]: None}
    assert sizes[job["id"]] > 0
    # A format that is made on demand takes room too; a job that is tried again counts as it was estimated.
    assert keyed_api.client.get(job["links"]["result"], params={"format": "npy"}, headers=headers).status_code == 200
    assert keyed_api.client.post(failed["links"]["retry"], headers=headers).status_code == 202
    assert counted() == dict.fromkeys(counted())
    assert accounting.count_ended(database, storage, timedelta(0)) == 1
    assert (counted()[job["id"]] or 0) > sizes[job["id"]]

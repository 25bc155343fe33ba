"""No key, no answer; and no tenant finds anything of another's, whatever it asks for."""

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select, text, update
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, sessionmaker

from tests.support.api_server import serving
from tests.support.fake_worker import Drive
from tests.support.keyed_client import QUICK, KeyedApi, ask, bring, compare, filled
from udig_recon.api.app import create_app
from udig_recon.api.database.async_queries import AsyncQueries, AsyncQuery
from udig_recon.api.http.problems import MEDIA_TYPE
from udig_recon.api.http.rate_limit import RateLimiter
from udig_recon.core.priors.card import BUNDLED
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import Scope
from udig_recon.worker.database.tables import Audit, Key
from udig_recon.worker.jobs import retention
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys as stored_keys
from udig_recon.worker.storage.local import LocalStorage


@pytest.fixture(autouse=True)
def _audited_when_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written beside the requests of a test."""
    monkeypatch.setattr("udig_recon.api.access.audit.WRITE_SECONDS", 3600)


def test_without_a_valid_key_nothing_below_v1_answers(keyed_api: KeyedApi) -> None:
    unknown = {"Authorization": f"Bearer {keys.PREFIX}{'x' * 43}"}
    basic = {"Authorization": "Basic dXNlcjpwYXNz"}
    assert len(keyed_api.v1()) > 15
    for method, path in keyed_api.v1():
        for headers in ({}, unknown, basic):
            answer = keyed_api.client.request(method, filled(path, 7), headers=headers)
            assert answer.status_code == 401, (method, path, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            assert answer.headers["content-type"] == "application/problem+json"
    assert keyed_api.audited() == []
    for path in ("/healthz", "/metrics", "/docs", "/openapi.json"):
        assert keyed_api.client.get(path).status_code == 200


def test_the_document_says_which_scope_an_operation_needs_and_a_key_without_it_is_refused(keyed_api: KeyedApi) -> None:
    for method, path in keyed_api.v1():
        operation = keyed_api.operations[method, path]
        ((scope,),) = (each["key"] for each in operation["security"])
        assert {"401", "403", "429"} <= set(operation["responses"])
        key_id, headers = keyed_api.key("a", *(set(Scope) - {Scope(scope)}))
        answer = keyed_api.client.request(
            method,
            filled(path.replace("{key_id}", str(key_id)), uuid.uuid4()),
            headers=headers,
        )
        assert answer.status_code == 403, (method, path, answer.text)
        assert f'scope="{scope}"' in answer.headers["www-authenticate"]
        assert keyed_api.audited()[-1][:2] == (f"key:{key_id}", "refused.403")
    assert all(
        "security" not in keyed_api.operations[each] for each in keyed_api.operations if each not in keyed_api.v1()
    )


@pytest.fixture
def theirs(keyed_api: KeyedApi, drive: Drive, mri_file: bytes, settings: Settings) -> dict[str, str]:
    """What tenant `a` has: ids of each kind, of jobs in every state."""
    key_id, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    jobs = {
        name: ask(keyed_api, headers | {"Idempotency-Key": name}, scan, tags={"study": "theirs"})
        for name in ("done", "failed", "running", "queued")
    }
    drive.complete(jobs["done"])
    drive.fail(jobs["failed"])
    drive.report(drive.claim(jobs["running"]), 1)
    drive.show(jobs["running"])
    comparison = compare(keyed_api, headers | {"Idempotency-Key": "done"}, scan, tags={"study": "theirs"})
    (compared,) = keyed_api.client.get(comparison["links"]["jobs"], headers=headers).json()["items"]
    drive.complete(compared)
    begun = keyed_api.client.post("/v1/uploads", headers=headers | {"Upload-Length": "9"})
    ids = {
        "upload": begun.headers["location"].rpartition("/")[2],
        "key": str(key_id),
        "scan": scan["id"],
        "comparison": comparison["id"],
        "compared": compared["id"],
    }
    return ids | {name: job["id"] for name, job in jobs.items()}


def stands(keyed_api: KeyedApi) -> str:
    """All rows but the log and the last use of keys."""
    tables = dict.fromkeys(("scans", "jobs", "comparisons", "job_slices", "snapshots", "uploads"), "*")
    tables["keys"] = "id, sha256, revoked_at"
    with keyed_api.database() as session:
        return str(
            [
                session.execute(text(f"SELECT {columns} FROM {name} ORDER BY 1, 2")).all()
                for name, columns in tables.items()
            ]
        )


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the database is asked, by threads and by the event loop."""
    asked: list[str] = []
    one = AsyncQueries.one

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    async def noted(reads: AsyncQueries, read: AsyncQuery, **named: Any) -> Any:
        asked.append(read.text)
        return await one(reads, read, **named)

    monkeypatch.setattr(AsyncQueries, "one", noted)
    event.listen(Engine, "before_cursor_execute", note)
    yield asked
    event.remove(Engine, "before_cursor_execute", note)


def test_every_endpoint_answers_another_tenants_ids_as_it_answers_unknown_ones(
    keyed_api: KeyedApi, theirs: dict[str, str], statements: list[str]
) -> None:
    _, mine = keyed_api.key("b")
    before = stands(keyed_api)

    def tried(method: str, path: str, **more: Any) -> tuple[Any, ...]:
        statements.clear()
        answer = keyed_api.client.request(method, path, headers=mine, **more)
        return answer.status_code, answer.text, sorted(answer.headers), list(statements)

    keyed_api.client.get("/v1/methods", headers=mine)  # the first use of a key writes that it was used
    for method, path in keyed_api.v1():
        names = re.findall(r"{(\w+)}", path)
        for id_ in theirs.values() if names else ():
            unknown = str(uuid.uuid4())
            foreign = tried(method, path.format(**dict.fromkeys(names, id_)))
            nobodys = tried(method, path.format(**dict.fromkeys(names, unknown)))
            assert foreign[0] == 404
            assert str(foreign).replace(id_, unknown) == str(nobodys), (method, path)
            # The key, and what the path names.
            assert len(foreign[3]) >= 2, (method, path)
    for id_ in theirs.values():
        unknown = str(uuid.uuid4())
        for path, body in (
            ("/v1/scans", {"upload_id": id_}),
            ("/v1/jobs", {"scan_id": id_, "parameters": QUICK}),
            ("/v1/comparisons", {"scan_ids": [id_], "methods": [{"parameters": QUICK}]}),
        ):
            foreign = tried("POST", path, json=body)
            nobodys = tried("POST", path, json=json.loads(json.dumps(body).replace(id_, unknown)))
            assert foreign[0] == 404
            assert str(foreign).replace(id_, unknown) == str(nobodys)
    assert stands(keyed_api) == before
    assert keyed_api.audited()[-1][1] == "refused.404"


def test_places_are_shared_by_tenant_not_by_key_or_address(
    settings: Settings, database: sessionmaker[Session], mri_file: bytes
) -> None:
    narrow = settings.model_copy(update={"authentication": "on", "max_uploads": 2, "max_event_streams": 2})
    app = create_app(narrow)
    room = app.state.context.concurrency
    with TestClient(app) as client:
        keyed_api = KeyedApi(client, database)
        everyone = [keyed_api.key(tenant)[1] for tenant in ("greedy", "greedy", "modest")]
        scans = [bring(keyed_api, everyone[number], mri_file) for number in (0, 2)]
        jobs = [ask(keyed_api, headers, scan) for headers, scan in ((everyone[0], scans[0]), (everyone[2], scans[1]))]
        for job, headers in zip(jobs, everyone[::2], strict=True):
            client.post(job["links"]["cancel"], headers=headers)
        links = [jobs[0]["links"]["events"], jobs[0]["links"]["events"], jobs[1]["links"]["events"]]
        with room.uploads.slot("tenant:greedy"), room.streams.slot("tenant:greedy"):
            uploads = [client.post("/v1/scans", content=mri_file, headers=each) for each in everyone]
            streams = [client.get(link, headers=each) for link, each in zip(links, everyone, strict=True)]
    assert [answer.status_code for answer in uploads] == [429, 429, 200]
    assert [answer.status_code for answer in streams] == [429, 429, 200]


def test_no_list_shows_what_is_another_tenants(keyed_api: KeyedApi, theirs: dict[str, str]) -> None:
    _, mine = keyed_api.key("b")
    for path in (
        "/v1/scans",
        "/v1/jobs",
        f"/v1/jobs?scan_id={theirs['scan']}",
        f"/v1/jobs?comparison_id={theirs['comparison']}",
        "/v1/jobs?tag=study:theirs",
        "/v1/comparisons",
        "/v1/keys",
        "/v1/uploads",
    ):
        answer = keyed_api.client.get(path, headers=mine)
        assert answer.status_code == 200
        assert not any(id_ in answer.text for id_ in theirs.values()), path
    # A cursor is a place in time and no right to see what lies there.
    cursor = keyed_api.client.get("/v1/jobs?limit=1", headers=keyed_api.key("a")[1]).json()["next_cursor"]
    assert keyed_api.client.get(f"/v1/jobs?cursor={cursor}", headers=mine).json()["items"] == []


def test_the_same_bytes_are_two_scans_to_two_tenants(
    keyed_api: KeyedApi, theirs: dict[str, str], mri_file: bytes, storage: LocalStorage
) -> None:
    _, mine = keyed_api.key("b")
    scan = bring(keyed_api, mine, mri_file)
    assert scan["id"] != theirs["scan"]
    assert keyed_api.client.post("/v1/scans", content=mri_file, headers=mine).status_code == 200
    files = [storage.path(stored_keys.scan(scan["sha256"], tenant)) for tenant in ("a", "b")]
    assert [path.read_bytes() == mri_file and path.stat().st_nlink for path in files] == [1, 1]
    assert keyed_api.client.delete(f"/v1/scans/{scan['id']}", headers=mine).status_code == 204
    assert [path.exists() for path in files] == [True, False]


def test_idempotency_keys_of_two_tenants_do_not_meet(
    keyed_api: KeyedApi, theirs: dict[str, str], ct_file: bytes
) -> None:
    _, mine = keyed_api.key("b")
    scan = bring(keyed_api, mine, ct_file)
    body = {"scan_id": scan["id"], "parameters": {"method": "fbp"}}
    first = keyed_api.client.post("/v1/jobs", json=body, headers=mine | {"Idempotency-Key": "done"})
    again = keyed_api.client.post("/v1/jobs", json=body, headers=mine | {"Idempotency-Key": "done"})
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"] not in theirs.values()


def test_a_tenants_own_prior_is_nobody_elses(keyed_api: KeyedApi, settings: Settings, mri_file: bytes) -> None:
    folder = settings.priors_folder / "a"
    folder.mkdir(parents=True)
    card = json.loads((BUNDLED / "mri.json").read_text()) | {"name": "knees"}
    (folder / "knees.json").write_text(json.dumps(card))
    (folder / "odd.json").write_text("{}")
    shutil.copy(BUNDLED / "mri.safetensors", folder / "knees.safetensors")
    names: dict[str, set[str]] = {}
    for tenant in ("a", "b"):
        _, headers = keyed_api.key(tenant)
        names[tenant] = {prior["name"] for prior in keyed_api.client.get("/v1/priors", headers=headers).json()["items"]}
        scan = bring(keyed_api, headers, mri_file)
        told = {}
        for prior in ("knees", "odd", "none"):
            parameters = {"method": "udig_dip", "prior": prior}
            answer = keyed_api.client.post(
                "/v1/jobs", json={"scan_id": scan["id"], "parameters": parameters}, headers=headers
            )
            told[prior] = (answer.status_code, "" if answer.is_success else answer.json()["detail"].replace(prior, "?"))
        if tenant == "a":
            assert told["knees"][0] == 202
            assert "is not a prior's card" in told["odd"][1]
        else:
            assert told["knees"] == told["odd"] == told["none"]
            assert told["none"][0] == 422
    assert names == {"a": {"mri", "ct", "knees"}, "b": {"mri", "ct"}}


def test_a_key_is_shown_once_and_only_its_hash_is_kept(keyed_api: KeyedApi) -> None:
    _, admin = keyed_api.key("a", Scope.ADMIN)
    made = keyed_api.client.post("/v1/keys", json={"name": "scanner 3", "scopes": ["read"]}, headers=admin)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    secret = made.json()["key"]
    assert re.fullmatch(r"udig_[\w-]{43}", secret)
    assert keyed_api.client.get("/v1/scans", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    assert secret not in keyed_api.client.get("/v1/keys", headers=admin).text
    assert keys.hash_secret(secret) not in keyed_api.client.get("/v1/keys", headers=admin).text
    with keyed_api.database() as session:
        rows = str(session.execute(text("SELECT * FROM keys")).all())
    assert secret not in rows
    assert keys.hash_secret(secret) in rows


def test_rotation_gives_a_new_secret_to_the_same_key_and_may_leave_time_to_change_it(keyed_api: KeyedApi) -> None:
    _, admin = keyed_api.key("a", Scope.ADMIN)
    key_id, old = keyed_api.key("a")
    turned = keyed_api.client.post(f"/v1/keys/{key_id}/rotate?overlap_minutes=5", headers=admin).json()
    new = {"Authorization": f"Bearer {turned['key']}"}
    assert turned["id"] == str(key_id)
    assert [keyed_api.client.get("/v1/scans", headers=each).status_code for each in (old, new)] == [200, 200]
    newest = keyed_api.client.post(f"/v1/keys/{key_id}/rotate", headers=admin).json()["key"]
    assert [keyed_api.client.get("/v1/scans", headers=each).status_code for each in (old, new)] == [401, 401]
    assert keyed_api.client.get("/v1/scans", headers={"Authorization": f"Bearer {newest}"}).status_code == 200


def test_a_key_that_is_revoked_or_expired_cannot_be_rotated(keyed_api: KeyedApi) -> None:
    _, admin = keyed_api.key("a", Scope.ADMIN)
    (revoked, _), (expired, _) = keyed_api.key("a"), keyed_api.key("a", expires_days=1)
    assert keyed_api.client.delete(f"/v1/keys/{revoked}", headers=admin).status_code == 204
    with keyed_api.database.begin() as session:
        session.execute(update(Key).where(Key.id == expired).values(expires_at=text("now() - interval '1 second'")))
    for key_id, state in ((revoked, "revoked"), (expired, "expired")):
        before = keyed_api.row(key_id).sha256
        refused = keyed_api.client.post(f"/v1/keys/{key_id}/rotate", headers=admin)
        assert (refused.status_code, refused.json()["title"]) == (409, "Conflict")
        assert state in refused.json()["detail"]
        assert keyed_api.row(key_id).sha256 == before


def test_a_revoked_and_an_expired_key_are_refused_at_once(keyed_api: KeyedApi) -> None:
    _, admin = keyed_api.key("a", Scope.ADMIN)
    revoked, first = keyed_api.key("a")
    expired, second = keyed_api.key("a", expires_days=1)
    assert [keyed_api.client.get("/v1/jobs", headers=each).status_code for each in (first, second)] == [200, 200]
    assert keyed_api.client.delete(f"/v1/keys/{revoked}", headers=admin).status_code == 204
    with keyed_api.database.begin() as session:
        session.execute(update(Key).where(Key.id == expired).values(expires_at=text("now() - interval '1 second'")))
    assert [keyed_api.client.get("/v1/jobs", headers=each).status_code for each in (first, second)] == [401, 401]
    assert [(action, ids) for _, action, ids in keyed_api.audited()] == [("key.revoked", {"key": str(revoked)})]


def test_the_last_use_of_a_key_is_written_at_most_once_a_minute(keyed_api: KeyedApi) -> None:
    key_id, headers = keyed_api.key("a")
    assert keyed_api.row(key_id).last_used_at is None
    keyed_api.client.get("/v1/jobs", headers=headers)
    first = keyed_api.row(key_id).last_used_at
    keyed_api.client.get("/v1/jobs", headers=headers)
    assert keyed_api.row(key_id).last_used_at == first is not None
    with keyed_api.database.begin() as session:
        session.execute(update(Key).values(last_used_at=text("last_used_at - interval '61 seconds'")))
    keyed_api.client.get("/v1/jobs", headers=headers)
    assert keyed_api.row(key_id).last_used_at > first


def test_a_key_makes_none_that_may_more_than_itself(keyed_api: KeyedApi) -> None:
    maker, admin = keyed_api.key("a", Scope.ADMIN, max_open_jobs=5, retention_days=7, expires_days=3)
    more = keyed_api.client.post("/v1/keys", json={"name": "x", "scopes": ["read"], "max_open_jobs": 6}, headers=admin)
    assert more.status_code == 422
    assert more.json()["errors"] == [{"field": "max_open_jobs", "found": "6", "expected": "at most 5"}]
    body = {"name": "x", "scopes": ["read"], "max_open_jobs": 2, "max_jobs_per_day": 9, "expires_days": 9}
    made = keyed_api.client.post("/v1/keys", json=body, headers=admin).json()
    assert (made["max_open_jobs"], made["max_jobs_per_day"], made["retention_days"]) == (2, 9, 7)
    row = keyed_api.row(uuid.UUID(made["id"]))
    assert (row.tenant, row.expires_at) == ("a", keyed_api.row(maker).expires_at)


def test_a_key_asks_for_no_more_urgent_jobs_than_it_may(keyed_api: KeyedApi, mri_file: bytes) -> None:
    (_, plain), (swift_id, swift) = keyed_api.key("a"), keyed_api.key("a", max_priority="urgent")
    scan = bring(keyed_api, plain, mri_file)
    body = {"scan_id": scan["id"], "parameters": QUICK, "priority": "urgent"}
    refused = keyed_api.client.post("/v1/jobs", json=body, headers=plain)
    assert refused.status_code == 403
    assert "max_priority" in refused.json()["detail"]
    assert ask(keyed_api, swift, scan, priority="urgent")["priority"] == "urgent"
    more = {"name": "x", "scopes": ["write"], "max_priority": "urgent"}
    assert keyed_api.client.post("/v1/keys", json=more, headers=plain).json()["errors"][0]["field"] == "max_priority"
    assert keyed_api.client.post(f"/v1/keys/{swift_id}/rotate", headers=plain).status_code == 403
    assert keyed_api.client.post("/v1/keys", json=more, headers=swift).json()["max_priority"] == "urgent"
    shown = keyed_api.client.get("/v1/keys", headers=plain).json()["items"]
    assert [key["max_priority"] for key in shown] == ["routine", "urgent", "urgent"]


def test_a_key_turns_none_that_may_more_than_itself(keyed_api: KeyedApi) -> None:
    _, narrow = keyed_api.key("a", Scope.ADMIN, max_open_jobs=5, expires_days=3)
    _, free = keyed_api.key("a", Scope.ADMIN)
    others = [keyed_api.key("a", **limits)[0] for limits in ({}, {"max_open_jobs": 6}, {"max_open_jobs": 5})]
    less, _ = keyed_api.key("a", max_open_jobs=4, expires_days=2)
    turned = [keyed_api.client.post(f"/v1/keys/{each}/rotate", headers=narrow) for each in (*others, less)]
    assert [answer.status_code for answer in turned] == [403, 403, 403, 200]
    assert ["max_open_jobs" in answer.json()["detail"] for answer in turned[:2]] == [True, True]
    assert "expires_at" in turned[2].json()["detail"]
    assert {keyed_api.client.post(f"/v1/keys/{each}/rotate", headers=free).status_code for each in others} == {200}


def test_a_body_is_looked_at_after_the_key_and_is_bounded(keyed_api: KeyedApi) -> None:
    for _, path in (each for each in keyed_api.v1() if each[0] == "POST"):
        headers = {"Content-Type": "application/json"}
        assert keyed_api.client.post(filled(path, uuid.uuid4()), content=b"{", headers=headers).status_code == 401
    _, admin = keyed_api.key("a", Scope.ADMIN)
    more = keyed_api.client.post(
        "/v1/keys", content=bytes(2 << 20), headers=admin | {"Content-Type": "application/json"}
    )
    assert more.status_code == 413
    odd = b'{"name": "\\ud800", "scopes": ["read"]}'
    refused = keyed_api.client.post("/v1/keys", content=odd, headers=admin | {"Content-Type": "application/json"})
    assert refused.status_code == 422


def test_a_retried_job_counts_as_open_again(keyed_api: KeyedApi, mri_file: bytes, drive: Drive) -> None:
    _, narrow = keyed_api.key("a", max_open_jobs=1, max_jobs_per_day=2)
    scan = bring(keyed_api, narrow, mri_file)
    drive.fail(failed := ask(keyed_api, narrow, scan))
    waiting = ask(keyed_api, narrow, scan)
    _, other = keyed_api.key("a")
    for headers in (narrow, other):  # whoever asks: it is the job's key that has so many
        refused = keyed_api.client.post(failed["links"]["retry"], headers=headers)
        assert refused.status_code == 429
        assert "max_open_jobs" in refused.json()["detail"]
    drive.complete(waiting)
    assert keyed_api.client.post(failed["links"]["retry"], headers=narrow).status_code == 202


def test_a_scan_that_comes_with_its_job_is_written_down_and_comes_once(
    keyed_api: KeyedApi, mri_file: bytes, drive: Drive
) -> None:
    _, headers = keyed_api.key("a")

    def post() -> dict[str, Any]:
        form = {"scan": ("a.h5", mri_file), "job": (None, json.dumps({"parameters": QUICK}))}
        job = keyed_api.client.post("/v1/jobs", files=form, headers=headers | {"Idempotency-Key": "k"})
        assert job.status_code == 202, job.text
        found: dict[str, Any] = job.json()
        return found

    drive.complete(job := post())
    assert keyed_api.client.delete(f"/v1/scans/{job['scan_id']}", headers=headers).status_code == 204
    assert post()["id"] == job["id"]
    assert keyed_api.client.get("/v1/scans", headers=headers).json()["items"] == []
    told = [(action, ids.get("scan")) for _, action, ids in keyed_api.audited()]
    assert told == [(action, job["scan_id"]) for action in ("scan.uploaded", "job.filed", "scan.deleted")]


def test_quotas_are_each_keys_own(keyed_api: KeyedApi, mri_file: bytes, drive: Drive) -> None:
    _, free = keyed_api.key("a")
    scan = bring(keyed_api, free, mri_file)
    ask(keyed_api, free, scan)
    _, narrow = keyed_api.key("a", max_open_jobs=1, max_jobs_per_day=2)
    drive.complete(first := ask(keyed_api, narrow, scan))
    ask(keyed_api, narrow, scan)
    refused = keyed_api.client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": QUICK}, headers=narrow)
    assert (refused.status_code, refused.json()["type"].split(":")[-1]) == (429, "quota-exceeded")
    assert "max_open_jobs" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    # What was deleted was filed all the same.
    for job in (first["id"], keyed_api.client.get("/v1/jobs", headers=free).json()["items"][0]["id"]):
        assert keyed_api.client.delete(f"/v1/jobs/{job}", headers=narrow).status_code == 204
    refused = keyed_api.client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": QUICK}, headers=narrow)
    assert "max_jobs_per_day" in refused.json()["detail"]
    assert 86000 < int(refused.headers["retry-after"]) <= 86401
    ask(keyed_api, free, scan)


def test_the_jobs_of_a_comparison_count_as_any_others(keyed_api: KeyedApi, mri_file: bytes, drive: Drive) -> None:
    key_id, narrow = keyed_api.key("a", max_open_jobs=2, max_jobs_per_day=5)
    scan = bring(keyed_api, narrow, mri_file)
    body = {"scan_ids": [scan["id"]], "methods": [{"parameters": QUICK}]}
    refused = keyed_api.client.post("/v1/comparisons", json=body | {"seeds": [0, 1, 2]}, headers=narrow)
    assert (refused.status_code, refused.json()["type"].split(":")[-1]) == (429, "quota-exceeded")
    assert "2 jobs queued or running (max_open_jobs); this is 3 at once" in refused.json()["detail"]
    for _ in range(2):
        comparison = compare(keyed_api, narrow, scan, seeds=[0, 1])
        for job in keyed_api.client.get(comparison["links"]["jobs"], headers=narrow).json()["items"]:
            drive.complete(job)
    refused = keyed_api.client.post("/v1/comparisons", json=body | {"seeds": [0, 1]}, headers=narrow)
    assert "5 jobs in 24 hours (max_jobs_per_day); this is 2 at once" in refused.json()["detail"]
    ask(keyed_api, narrow, scan)
    told = [action for _, action, _ in keyed_api.audited()]
    assert told == ["scan.uploaded", *2 * ["comparison.filed", "job.filed", "job.filed"], "job.filed"]
    with keyed_api.database() as session:
        assert set(session.scalars(text("SELECT key_id FROM comparisons"))) == {key_id}


def test_a_comparison_is_kept_as_long_as_its_key_says_and_its_labels_no_longer(
    keyed_api: KeyedApi, mri_file: bytes, drive: Drive, storage: LocalStorage
) -> None:
    _, brief = keyed_api.key("a", retention_days=2)
    scan = bring(keyed_api, brief, mri_file)
    comparison = compare(keyed_api, brief, scan, methods=[{"label": "of Doe", "parameters": QUICK}], seeds=[0, 1])
    first, second = keyed_api.client.get(comparison["links"]["jobs"], headers=brief).json()["items"]
    assert first["expires_at"] == comparison["expires_at"] > comparison["created_at"]
    drive.complete(first)
    with keyed_api.database.begin() as session:
        session.execute(text("UPDATE comparisons SET expires_at = now() - interval '1 second'"))
    assert retention.expire(keyed_api.database, storage) == 0  # a job of it is to come
    drive.complete(second)
    assert retention.expire(keyed_api.database, storage) == 1
    assert keyed_api.client.get(comparison["links"]["self"], headers=brief).status_code == 404
    assert keyed_api.audited()[-2][1] == "comparison.expired"
    # Its jobs have ends of their own.
    assert keyed_api.client.get(second["links"]["result"], headers=brief).status_code == 200
    with keyed_api.database() as session:
        assert "of Doe" not in str(session.execute(text("SELECT * FROM jobs")).all())


def test_no_key_keeps_more_bytes_than_it_may(
    keyed_api: KeyedApi, mri_file: bytes, ct_file: bytes, storage: LocalStorage
) -> None:
    # What a scan takes is its file and its prepared form.
    wide = bring(keyed_api, keyed_api.key("b")[1], mri_file)
    takes = len(mri_file) + storage.path(stored_keys.prepared_scan(wide["sha256"], "b")).stat().st_size
    _, narrow = keyed_api.key("a", max_stored_bytes=takes + 1)
    kept = bring(keyed_api, narrow, mri_file)
    refused = keyed_api.client.post("/v1/scans", content=ct_file, headers=narrow)
    assert refused.status_code == 429
    assert "max_stored_bytes" in refused.json()["detail"]
    assert [path.name for path in storage.path(stored_keys.scan("", "a")).iterdir()] == [kept["sha256"]]
    assert not list((storage.root / "incoming").iterdir())
    assert keyed_api.client.delete(f"/v1/scans/{kept['id']}", headers=narrow).status_code == 204
    bring(keyed_api, narrow, ct_file)


def test_no_key_asks_more_often_than_it_may(keyed_api: KeyedApi) -> None:
    _, narrow = keyed_api.key("a", max_requests_per_minute=3)
    answers = [keyed_api.client.get("/v1/jobs", headers=narrow) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 20
    assert keyed_api.client.get("/v1/jobs", headers=keyed_api.key("a")[1]).status_code == 200


def test_a_minutes_worth_of_requests_comes_back_within_a_minute() -> None:
    now = 0.0
    rates, key = RateLimiter(lambda: now), uuid.uuid4()
    assert [rates.wait(key, 2) for _ in range(3)] == [0, 0, 30]
    now = 29.0
    assert rates.wait(key, 2) == pytest.approx(1)
    now = 30.0
    assert rates.wait(key, 2) == 0
    now = 1000.0
    assert [rates.wait(key, 2) for _ in range(3)] == [0, 0, 30]


def test_while_authentication_is_off_everything_is_the_default_tenants(
    client: TestClient, database: sessionmaker[Session], scan: dict[str, Any]
) -> None:
    with database() as session:
        (row,) = session.execute(text("SELECT tenant, key_id FROM scans")).all()
        (told,) = session.scalars(select(Audit)).all()
    assert tuple(row) == ("default", None)
    assert (told.actor, told.action, told.ids) == ("open", "scan.uploaded", {"scan": scan["id"]})
    assert client.post("/v1/keys", json={"name": "first", "scopes": ["admin"]}).status_code == 201


def test_no_answer_may_be_framed_sniffed_or_read_by_another_site(keyed_api: KeyedApi) -> None:
    for path in ("/v1/jobs", "/healthz", "/nowhere", "/openapi.json"):
        headers = keyed_api.client.get(path).headers
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in keyed_api.client.get("/docs").headers["content-security-policy"]


def test_a_key_says_how_long_what_it_makes_is_kept_and_then_the_result_is_gone(
    keyed_api: KeyedApi, drive: Drive, mri_file: bytes, settings: Settings, storage: LocalStorage
) -> None:
    _, brief = keyed_api.key("a", retention_days=2)
    scan = bring(keyed_api, brief, mri_file)
    job = ask(keyed_api, brief, scan)
    drive.complete(job)
    assert all(made["created_at"] < made["expires_at"] for made in (scan, job))
    with keyed_api.database.begin() as session:
        session.execute(text("UPDATE jobs SET expires_at = now() - interval '1 second'"))
    assert retention.expire(keyed_api.database, storage) == 1
    for path in ("result", "preview.png"):
        answer = keyed_api.client.get(f"{job['links']['self']}/{path}", headers=brief)
        assert (answer.status_code, answer.json()["type"]) == (410, "urn:udig-recon:problem:gone")
    assert keyed_api.client.get(job["links"]["self"], headers=brief).json()["status"] == "succeeded"
    assert keyed_api.client.post(job["links"]["retry"], headers=brief).status_code == 409
    # The scan was brought again by a key that keeps for longer, and by one whose tenant keeps for ever.
    longer = keyed_api.client.post("/v1/scans", content=mri_file, headers=keyed_api.key("a")[1])
    assert (longer.status_code, longer.json()["id"]) == (200, scan["id"])
    assert longer.json()["expires_at"] > scan["expires_at"]
    keyed_api.limit("a", retention_days=0)
    again = keyed_api.client.post("/v1/scans", content=mri_file, headers=keyed_api.key("a")[1])
    assert (again.status_code, again.json()["id"], again.json()["expires_at"]) == (200, scan["id"], None)


def test_what_is_done_and_read_is_written_down_with_its_ids(keyed_api: KeyedApi, drive: Drive, mri_file: bytes) -> None:
    key_id, headers = keyed_api.key("a")
    scan = bring(keyed_api, headers, mri_file)
    job = ask(keyed_api, headers, scan, tags={"patient": "Doe"})
    drive.complete(job)
    for path in ("result", "preview.png"):
        assert keyed_api.client.get(f"{job['links']['self']}/{path}", headers=headers).status_code == 200
    assert keyed_api.client.delete(job["links"]["self"], headers=headers).status_code == 204
    assert keyed_api.client.delete(f"/v1/scans/{scan['id']}", headers=headers).status_code == 204
    ids = {"job": job["id"]}
    assert keyed_api.audited() == [
        (f"key:{key_id}", action, named)
        for action, named in (
            ("scan.uploaded", {"scan": scan["id"]}),
            ("job.filed", {**ids, "scan": scan["id"]}),
            ("result.read", ids),
            ("preview.read", ids),
            ("job.deleted", ids),
            ("scan.deleted", {"scan": scan["id"]}),
        )
    ]


def test_a_path_that_holds_no_id_is_refused_without_being_written_down(keyed_api: KeyedApi) -> None:
    key_id, headers = keyed_api.key("a", Scope.ADMIN)
    assert keyed_api.client.get("/v1/scans/Mustermann", headers=headers).status_code == 403
    assert keyed_api.audited() == [(f"key:{key_id}", "refused.403", {})]


def test_a_page_of_another_site_may_not_post_where_no_key_is_asked_for(client: TestClient, mri_file: bytes) -> None:
    for origin, status in (("https://example.org", 403), ("null", 403), ("http://[", 403), ("http://testserver", 201)):
        assert client.post("/v1/scans", content=mri_file, headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize(("method", "how"), [("DELETE", ""), ("POST", "/rotate")], ids=["revoked", "rotated"])
def test_a_stream_ends_with_the_secret_that_opened_it(
    keyed_api: KeyedApi, settings: Settings, mri_file: bytes, method: str, how: str
) -> None:
    (_, headers), (reader_id, reader) = keyed_api.key("a"), keyed_api.key("a", Scope.READ)
    job = ask(keyed_api, headers, bring(keyed_api, headers, mri_file))
    quick = settings.model_copy(update={"authentication": "on", "event_keep_alive_seconds": 0.05})
    lines = []
    with (
        serving(quick) as served,
        httpx2.stream("GET", served.url + job["links"]["events"], headers=reader, timeout=60) as stream,
    ):
        for line in stream.iter_lines():
            if line == ": still here" and line not in lines:
                assert keyed_api.client.request(method, f"/v1/keys/{reader_id}{how}", headers=headers).is_success
            lines.append(line)
    assert ": still here" in lines
    assert "event: done" not in lines


def test_only_by_its_own_names_it_is_called_where_no_key_is_asked_for(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"allowed_hosts": None}))) as client:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.2", "[::1]:8000"):
            assert client.get("/v1/scans", headers={"Host": host}).status_code == 200, host
        for host in (
            "example.org",
            "127.0.0.1.example.org:8000",
            "localhost@example.org",
            "10.0.0.1",
            "0.0.0.0",
            "[::1",
            "",
        ):
            for path in ("/v1/scans", "/docs", "/nowhere"):
                answer = client.get(path, headers={"Host": host, "Origin": f"http://{host}"})
                assert (answer.status_code, answer.headers["content-type"]) == (421, MEDIA_TYPE), host
        (error,) = answer.json()["errors"]
        assert (error["field"], error["expected"]) == ("Host", "localhost | 127.0.0.1")


def test_with_keys_it_is_called_by_any_name_unless_some_are_allowed(keyed_api: KeyedApi, settings: Settings) -> None:
    _, headers = keyed_api.key("a", Scope.READ)
    for allowed, statuses in ((None, (200, 200, 200)), ("scans.example.org Other", (200, 421, 200))):
        keyed = settings.model_copy(update={"authentication": "on", "allowed_hosts": allowed})
        with TestClient(create_app(keyed)) as client:
            hosts = ("Scans.example.org:8443", "example.org", "localhost")
            answers = [client.get("/v1/scans", headers={**headers, "Host": host}) for host in hosts]
        assert tuple(answer.status_code for answer in answers) == statuses

"""Pages that list jobs, comparisons, priors and workers, as HTML: what they show, of whom, and by which filter."""

import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tests.support.browser import Html
from tests.support.fake_worker import Drive
from tests.support.keyed_client import KeyedApi, ask, bring, compare
from udig_recon.core.priors.card import cards
from udig_recon.core.quality.rating import Rating
from udig_recon.worker.access.limits import Scope
from udig_recon.worker.database.tables import JobSlice, Worker

CHECK = Rating("check", ("the data are noisy: share of noise is 0.31, limit 0.2",))
REFRESH = {"HX-Request": "true"}


def post(client: TestClient, scan: dict[str, Any], method: str = "zero_filled", **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": method}, **more})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def shown(client: TestClient, path: str, **query: str) -> Html:
    answer = client.get(path, params=query or None)
    assert answer.status_code == 200, answer.text
    assert "no-store" in answer.headers["cache-control"]
    html = Html(answer.text)
    assert html.faults() == [], path
    return html


def listed(html: Html) -> list[str]:
    """Ids of the jobs in a list."""
    ids = [each.attributes.get("id", "") for each in html.all("tr")]
    return [each.removeprefix("job-") for each in ids if each.startswith("job-")]


def words(html: Html, *names: str) -> str:
    return " ".join(" ".join(each.text.split()) for each in html.all(*names))


def test_jobs_are_filtered_by_status_rating_method_and_tag(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    queued = post(client, scan, tags={"study": "knee-7"})
    other = post(client, scan, "cg_sense", slices=[0])
    checked = post(client, scan, slices=[0])
    drive.finish(drive.claim(checked), rating=CHECK)
    all_of_them = [checked["id"], other["id"], queued["id"]]
    assert listed(shown(client, "/jobs")) == all_of_them
    for query, expected in (
        ({"status": "queued"}, [other["id"], queued["id"]]),
        ({"rating": "check"}, [checked["id"]]),
        ({"method": "cg_sense"}, [other["id"]]),
        ({"tag": "study:knee-7"}, [queued["id"]]),
        ({"tag": "study"}, [queued["id"]]),
        ({"scan_id": scan["id"], "status": "succeeded"}, [checked["id"]]),
        ({"status": "", "rating": "", "method": "", "tag": ""}, all_of_them),  # as the form sends what nobody chose
        ({"status": "failed"}, []),
    ):
        html = shown(client, "/jobs", **query)
        assert listed(html) == expected, query
        chosen = [each.attributes["value"] for each in html.all("option") if "selected" in each.attributes]
        assert chosen == [value for name, value in query.items() if name in ("status", "rating", "method") and value]
    assert "No job fits this filter" in words(shown(client, "/jobs", status="failed"), "p")


def test_a_job_in_the_list_tells_its_scan_rating_and_reasons(client: TestClient, drive: Drive, mri_file: bytes) -> None:
    scan = client.post("/v1/scans", content=mri_file, params={"filename": "knee 7.h5"}).json()
    job = post(client, scan, slices=[0], tags={"<b>": "<script>alert(1)</script>"})
    drive.finish(drive.claim(job), rating=CHECK)
    html = shown(client, "/jobs")
    row = words(html, "tr")
    for word in ("knee 7.h5", "zero_filled", "succeeded", "check", f"slice 0: {CHECK.reasons[0]}", "30.00 dB"):
        assert word in row
    assert "<script>alert(1)</script>" in row  # as text
    assert [each for each in html.all("script") if "src" not in each.attributes] == []
    assert client.delete(f"/v1/scans/{scan['id']}").status_code == 204
    assert "scan deleted" in words(shown(client, "/jobs"), "tr")


def test_pages_of_a_list_follow_each_other_with_their_filter(client: TestClient, scan: dict[str, Any]) -> None:
    ids = [post(client, scan)["id"] for _ in range(3)][::-1]
    first = shown(client, "/jobs", status="queued", limit="2")
    assert listed(first) == ids[:2]
    (older,) = [each for each in first.all("a") if each.attributes.get("rel") == "next"]
    address = older.attributes["href"]
    assert address.startswith("/jobs?status=queued&")
    second = shown(client, address)
    assert listed(second) == ids[2:]
    assert [each.text for each in second.all("a") if "Newest" in each.text]


@pytest.mark.parametrize("path", ["/jobs?status=queued", "/comparisons", "/workers"])
def test_a_list_is_refreshed_without_the_page_around_it(client: TestClient, scan: dict[str, Any], path: str) -> None:
    post(client, scan)
    answer = client.get(path, headers=REFRESH)
    assert answer.status_code == 200
    part = Html(answer.text)
    assert part.all("html", "body", "form", "script") == []
    assert "HX-Request" in answer.headers["vary"]
    (refreshed,) = [each for each in shown(client, path).elements if "hx-get" in each.attributes]
    assert refreshed.attributes["hx-get"] == path


@pytest.mark.parametrize(
    "query", ["status=done", "rating=bad", "cursor=x", "limit=0", "scan_id=7", "tag=%00", f"method={'x' * 65}"]
)
def test_a_filter_that_makes_no_sense_is_a_page_that_says_so(client: TestClient, query: str) -> None:
    answer = client.get(f"/jobs?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert Html(answer.text).faults() == []


def test_where_there_is_nothing_yet_pages_say_what_to_do(client: TestClient) -> None:
    assert "no jobs yet" in words(shown(client, "/jobs"), "p")
    assert "no comparisons yet" in words(shown(client, "/comparisons"), "p")
    assert "no scans to compare methods on" in words(shown(client, "/comparisons/new"), "p")
    assert "No worker was seen" in words(shown(client, "/workers"), "p")


def comparison(client: TestClient, scan: dict[str, Any]) -> dict[str, Any]:
    methods = [{"parameters": {"method": name}} for name in ("zero_filled", "cg_sense")]
    answer = client.post("/v1/comparisons", json={"scan_ids": [scan["id"]], "methods": methods, "slices": [0, 1]})
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_comparison_shows_progress_then_images_ranking_and_table(
    client: TestClient, drive: Drive, scan: dict[str, Any]
) -> None:
    made = comparison(client, scan)
    path = f"/comparisons/{made['id']}"
    begun = shown(client, path)
    assert "0 of 2 have ended" in words(begun, "dd")
    assert [each for each in begun.elements if "hx-get" in each.attributes]
    first, second = client.get(made["links"]["jobs"]).json()["items"]
    drive.complete(first)
    half = shown(client, path)
    (panel,) = half.all("img")
    assert client.get(panel.attributes["src"]).headers["content-type"] == "image/png"
    drive.fail(second)
    html = shown(client, path)
    assert [each for each in html.elements if "hx-get" in each.attributes] == []
    assert "it broke" in words(html, "p")
    tables = words(html, "table")
    assert first["parameters"]["method"] in tables
    assert "30.00" in tables
    assert "too few to tell" in words(html, "p")
    assert "1 of 2" not in words(html, "dd")
    own = shown(client, "/jobs", comparison_id=made["id"], method="cg_sense")
    assert len(listed(own)) == 1
    assert {each.attributes["value"] for each in own.all("input") if each.attributes.get("type") == "hidden"} == {
        made["id"]
    }
    listed_ones = words(shown(client, "/comparisons"), "table")
    assert "zero_filled, cg_sense" in listed_ones
    assert "failed" in listed_ones


def test_the_form_of_a_comparison_offers_scans_and_all_methods(
    client: TestClient, scan: dict[str, Any], ct_file: bytes
) -> None:
    other = client.post("/v1/scans", content=ct_file).json()
    html = shown(client, "/comparisons/new")
    offered = {each.attributes["value"] for each in html.all("input") if each.attributes.get("name") == "scan"}
    assert offered == {scan["id"], other["id"]}
    told = ["with reference" if each["has_reference"] else "no reference" for each in (other, scan)]
    assert [each.text.split(", ")[2] for each in html.all("label") if " slices, " in each.text] == told
    methods = {each.attributes["value"] for each in html.all("input") if each.attributes.get("name") == "method"}
    assert methods == {each["name"] for each in client.get("/v1/methods").json()["items"]}


def test_priors_are_shown_with_their_cards(client: TestClient) -> None:
    text = words(shown(client, "/priors"), "article")
    for card in cards():
        assert card.name in text
        assert " ".join(card.limits.split()) in text
        assert card.sha256 in text


def test_a_tenant_sees_its_own_alone(
    keyed_api: KeyedApi, drive: Drive, mri_file: bytes, database: sessionmaker[Session]
) -> None:
    client = keyed_api.client
    _, theirs = keyed_api.key("oncology")
    scan = bring(keyed_api, theirs, mri_file)
    job, made = ask(keyed_api, theirs, scan), compare(keyed_api, theirs, scan)
    claim = drive.claim(job)
    with database.begin() as session:
        session.add(Worker(name=_worker_of(session, claim.job_id), device="cpu"))
    key = keyed_api.key("radiology", Scope.READ)[1]
    for path in ("/jobs", "/comparisons", "/comparisons/new", "/priors", "/workers"):
        own, other = client.get(path, headers=theirs), client.get(path, headers=key)
        assert (own.status_code, other.status_code) == (200, 200), path
        for named in (job["id"], made["id"], scan["id"]):
            assert named not in other.text
        assert Html(other.text).faults() == []
    assert job["id"] in client.get("/jobs", headers=theirs).text
    assert job["id"] in client.get("/workers", headers=theirs).text
    assert "a slice of another tenant" in client.get("/workers", headers=key).text
    assert client.get(f"/comparisons/{made['id']}", headers=key).status_code == 404
    assert "Compare methods" not in client.get("/comparisons", headers=key).text


def _worker_of(session: Session, job_id: uuid.UUID) -> str:
    return str(session.scalar(select(JobSlice.worker).where(JobSlice.job_id == job_id, JobSlice.worker.is_not(None))))


def test_who_is_not_logged_in_is_led_to_the_login_and_a_key_without_read_is_told(keyed_api: KeyedApi) -> None:
    client = keyed_api.client
    for path in ("/jobs?status=queued", "/comparisons", "/comparisons/new", "/priors", "/workers"):
        led = client.get(path, follow_redirects=False)
        assert (led.status_code, led.headers["location"].startswith("/login?next=")) == (303, True), path
        part = client.get(path, headers=REFRESH, follow_redirects=False)
        assert (part.status_code, part.headers["hx-redirect"].startswith("/login")) == (401, True), path
        refused = client.get(path, headers=keyed_api.key("a", Scope.WRITE)[1])
        assert (refused.status_code, "lacks the scope read" in refused.text) == (403, True), path


def test_lists_that_were_looked_at_are_written_down(keyed_api: KeyedApi, mri_file: bytes) -> None:
    key_id, headers = keyed_api.key("a")
    made = compare(keyed_api, headers, bring(keyed_api, headers, mri_file))
    for path in ("/jobs", "/comparisons", f"/comparisons/{made['id']}", "/workers"):
        assert keyed_api.client.get(path, headers=headers).status_code == 200
    read = [action for actor, action, _ in keyed_api.audited(reads=True) if actor == f"key:{key_id}"]
    assert {"jobs.listed", "comparisons.listed", "comparison.read", "workers.listed"} <= set(read)

"""Pages as HTML: what they hold, what they load, under which policy; login and logout by cookie."""

import hashlib
import json
import re
import uuid
from datetime import timedelta
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update

from tests.support.browser import Html
from tests.support.keyed_client import KeyedApi, ask, bring
from udig_recon.api.pages.assets import FOLDER
from udig_recon.api.pages.login_routes import ATTEMPTS_PER_MINUTE
from udig_recon.api.pages.rendering import assets, safe_path
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import PriorityName, Scope
from udig_recon.worker.database.tables import Key, LoginSession
from udig_recon.worker.jobs import retention

OWN = {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}


def secret_of(headers: dict[str, str]) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


def log_in(client: TestClient, headers: dict[str, str], back: str = "/") -> Any:
    form = {"key": secret_of(headers), "next": back}
    return client.post("/login", data=form, headers=OWN, follow_redirects=False)


def test_every_vendored_file_is_the_one_of_its_package() -> None:
    known = json.loads((FOLDER / "vendor" / "versions.json").read_text())
    licences = (FOLDER / "vendor" / "LICENCES.txt").read_text()
    beside = {"versions.json", "LICENCES.txt"}
    assert {path.name for path in (FOLDER / "vendor").iterdir()} - beside == {each["file"] for each in known}
    for each in known:
        content = (FOLDER / "vendor" / each["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (each["bytes"], each["sha256"])
        assert f"=== {each['package']} {each['version']} ===" in licences
        assert each["licence"] in ("0BSD", "MIT", "BSD-2-Clause")


def pages(client: TestClient, job: dict[str, Any]) -> list[str]:
    return ["/", f"/jobs/{job['id']}", "/docs"]


def test_a_page_has_no_inline_script_or_style_labels_all_controls_and_loads_files_that_are_there(
    client: TestClient, scan: dict[str, Any]
) -> None:
    job = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}).json()
    for path in pages(client, job):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), path
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in str(policy)
        html = Html(answer.text)
        assert html.faults() == [], path
        loaded = [each.attributes["src"] for each in html.all("script", "img") if "src" in each.attributes]
        loaded += [each.attributes["href"] for each in html.all("link")]
        for asset in loaded:
            assert client.get(asset).status_code == 200, asset
        for link in html.all("a"):
            if link.attributes["href"].startswith("/"):
                assert client.get(link.attributes["href"]).status_code in (200, 409), link


def test_modules_import_files_that_are_there() -> None:
    for path in FOLDER.glob("js/*.js"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "} from ")) and '"' in line:
                assert (path.parent / line.split('"')[1]).is_file(), f"{path.name}: {line}"


def test_static_files_are_kept_for_ever_under_their_version_alone(client: TestClient) -> None:
    url = assets().url("js/api.js")
    answer = client.get(url, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert (answer.headers["content-encoding"], answer.text) == ("gzip", (FOLDER / "js" / "api.js").read_text())
    assert client.get("/static/0/js/api.js").headers["cache-control"] == "no-cache"
    known = {"If-None-Match": answer.headers["etag"], "Accept-Encoding": "identity"}
    assert client.get(url, headers=known).status_code == 304
    for path in ("/static/0/nothing.js", "/static/0/../routes.py", "/static/0/%2e%2e/routes.py"):
        assert client.get(path).status_code == 404


def test_who_takes_no_html_is_told_where_json_is(client: TestClient) -> None:
    answer = client.get("/", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (406, "application/problem+json")
    assert "/v1" in answer.json()["detail"]


def test_an_unknown_job_is_a_page_that_says_so(client: TestClient) -> None:
    missing = client.get(f"/jobs/{uuid.uuid4()}")
    assert missing.status_code == 404
    assert "there is no job" in missing.text
    assert Html(missing.text).faults() == []
    assert client.get("/jobs/seven").status_code == 422


def test_without_authentication_there_is_no_login(client: TestClient) -> None:
    for answer in (client.get("/login?next=/docs", follow_redirects=False),):
        assert (answer.status_code, answer.headers["location"]) == (303, "/docs")
    assert "Log out" not in client.get("/").text


def test_a_login_leads_back_to_the_page_that_was_wanted(keyed_api: KeyedApi, mri_file: bytes) -> None:
    client = keyed_api.client
    _, headers = keyed_api.key("radiology")
    job = ask(keyed_api, headers, bring(keyed_api, headers, mri_file))
    path = f"/jobs/{job['id']}"
    led = client.get(path, follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, f"/login?next=%2Fjobs%2F{job['id']}")
    shown = client.get(led.headers["location"])
    assert Html(shown.text).faults() == []
    answer = log_in(client, headers, path)
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "max-age=43200" in cookie
    assert "secure" not in cookie  # by plain HTTP no browser would send it back
    assert client.get(path).status_code == 200
    assert client.get(job["links"]["self"]).json()["id"] == job["id"]
    assert "radiology" in client.get("/").text


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example", "/\\evil.example", "/login?next=/", "x", "/a\nb", ""]
)
def test_a_login_never_leads_to_another_host(path: str) -> None:
    assert safe_path(path) == "/"


def test_the_cookie_is_secure_under_tls(keyed_api: KeyedApi) -> None:
    _, headers = keyed_api.key("radiology")
    own = {"Origin": "https://testserver", "X-Forwarded-Proto": "https"}
    secure = TestClient(keyed_api.client.app, base_url="https://testserver")
    answer = secure.post("/login", data={"key": secret_of(headers)}, headers=own, follow_redirects=False)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-udig_login=")
    assert "; Secure" in cookie
    assert "Path=/" in cookie
    assert secure.get("/v1/tenant").status_code == 200


def controls(text: str) -> dict[str, Any]:
    """The controls of the start page that stand in a closed section, by their ids."""
    html = Html(text)
    assert html.faults() == []
    assert all("open" not in each.attributes for each in html.all("details"))
    labels = {each.attributes["for"]: each.text for each in html.all("label") if "for" in each.attributes}
    inputs = [each for each in html.all("input", "select") if "details" in each.within and "id" in each.attributes]
    return {each.attributes["id"]: (labels[each.attributes["id"]], each) for each in inputs}


def test_the_form_has_priority_time_limit_and_template_in_closed_sections(client: TestClient) -> None:
    text = client.get("/").text
    found = controls(text)
    label, template = found["template"]
    assert (label, template.attributes["type"]) == ("DICOM file of the patient's study", "file")
    label, limit = found["max-seconds"]
    assert (label, limit.attributes["type"], limit.attributes["min"]) == ("Time limit in seconds", "number", "1")
    assert "value" not in limit.attributes
    assert found["priority"][0] == "Priority"
    offered = [each for each in Html(text).all("option") if each.attributes.get("value") in get_args(PriorityName)]
    assert [each.attributes["value"] for each in offered] == ["routine", "urgent"]
    assert [each.attributes["value"] for each in offered if "selected" in each.attributes] == ["routine"]
    assert [each.text for each in Html(text).all("summary")].count("More options") == 2
    # What the script asks for by id is there.
    ids = {each.attributes["id"] for each in Html(text).elements if "id" in each.attributes}
    asked = set(re.findall(r'element\("([\w-]+)"\)', (FOLDER / "js" / "start.js").read_text()))
    assert {"priority", "max-seconds", "template"} <= asked <= ids


def test_the_form_offers_no_priority_that_the_key_may_not_have(keyed_api: KeyedApi) -> None:
    for most, offered in (("routine", False), ("urgent", True)):
        _, headers = keyed_api.key("radiology", max_priority=most)
        log_in(keyed_api.client, headers)
        text = keyed_api.client.get("/").text
        assert ('<option value="urgent"' in text) == offered
        assert ("This key may have routine jobs alone" in text) != offered


def test_a_wrong_key_is_refused_in_words_and_many_are_slowed_down(keyed_api: KeyedApi) -> None:
    client = keyed_api.client
    wrong = log_in(client, {"Authorization": "Bearer udig_wrong"}, "/jobs/1")
    assert wrong.status_code == 401
    assert "unknown, revoked or expired" in wrong.text
    html = Html(wrong.text)
    assert html.faults() == []
    assert "udig_wrong" not in wrong.text
    assert any(each.attributes.get("value") == "/jobs/1" for each in html.all("input"))
    answers = [log_in(client, {"Authorization": "Bearer udig_wrong"}) for _ in range(ATTEMPTS_PER_MINUTE)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    assert "refused.401" in [action for _, action, _ in keyed_api.audited(reads=True)]


def test_a_login_of_many_fields_is_refused_before_it_is_read(keyed_api: KeyedApi) -> None:
    headers = {"Origin": "http://testserver", "Content-Type": "application/x-www-form-urlencoded"}
    answer = keyed_api.client.post("/login", content="key=x&" * 100_000, headers=headers)
    assert (answer.status_code, "a login has two fields" in answer.text) == (422, True)


def test_scopes_and_tenant_of_a_login_are_the_keys(keyed_api: KeyedApi, mri_file: bytes) -> None:
    client = keyed_api.client
    _, theirs = keyed_api.key("oncology")
    job = ask(keyed_api, theirs, bring(keyed_api, theirs, mri_file))
    _, reading = keyed_api.key("radiology", Scope.READ)
    log_in(client, reading)
    assert client.get(f"/jobs/{job['id']}").status_code == 404
    assert client.get("/v1/jobs").json()["items"] == []
    refused = client.post("/v1/scans", content=mri_file, headers=OWN)
    assert (refused.status_code, refused.json()["detail"]) == (403, "this key lacks the scope write")
    assert client.get("/v1/keys").status_code == 403
    for path in ("/", "/comparisons/new"):
        assert "lacks the scope <code>write</code>" in client.get(path).text


def test_a_change_by_cookie_is_refused_unless_a_page_of_the_service_asks(keyed_api: KeyedApi, mri_file: bytes) -> None:
    client = keyed_api.client
    _, key = keyed_api.key("radiology")
    log_in(client, key)
    for headers in (
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        answer = client.post("/v1/scans", content=mri_file, headers=headers)
        assert answer.status_code == 403, headers
        assert "page of this service" in answer.json()["detail"]
        for path in ("/login", "/logout"):
            assert client.post(path, data={"key": secret_of(key)}, headers=headers).status_code == 403
        assert client.get("/v1/tenant", headers=headers).status_code == 200
    by_key = {"Sec-Fetch-Site": "cross-site", **key}
    assert client.post("/v1/scans", content=mri_file, headers=by_key).status_code == 201
    assert client.post("/v1/scans", content=mri_file, headers=OWN).status_code == 200
    assert client.post("/v1/scans", content=mri_file, headers={"Origin": "http://testserver"}).status_code == 200


def test_a_login_ends_by_logout_by_time_and_with_its_key(keyed_api: KeyedApi) -> None:
    client, database = keyed_api.client, keyed_api.database
    key_id, headers = keyed_api.key("radiology")

    def is_in() -> bool:
        answer = client.get("/", follow_redirects=False)
        assert answer.status_code in (200, 303)
        assert client.get("/v1/tenant").status_code == (200 if answer.status_code == 200 else 401)
        return answer.status_code == 200

    log_in(client, headers)
    assert is_in()
    kept = client.cookies["udig_login"]
    left = client.post("/logout", headers=OWN, follow_redirects=False)
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert "udig_login" not in client.cookies
    client.cookies.set("udig_login", kept)
    assert not is_in()
    client.cookies.clear()

    log_in(client, headers)
    with database.begin() as session:
        assert session.scalars(select(LoginSession.sha256)).all() == [keys.hash_secret(client.cookies["udig_login"])]
        session.execute(update(LoginSession).values(expires_at=LoginSession.created_at - timedelta(seconds=1)))
    assert not is_in()
    retention.expire(database, client.app.state.context.storage)  # type: ignore[attr-defined]
    with database() as session:
        assert session.scalars(select(LoginSession)).all() == []

    log_in(client, headers)
    assert is_in()
    with database.begin() as session:
        keys.rotate(session, session.get_one(Key, key_id), timedelta(0))
    assert not is_in()

    _, other = keyed_api.key("radiology")
    log_in(client, other)
    assert is_in()
    with database.begin() as session:
        for key in session.scalars(select(Key)):
            keys.revoke(session, key)
    assert not is_in()
    actions = [action for _, action, _ in keyed_api.audited()]
    assert actions == ["login.opened", "login.closed", "login.opened", "login.opened", "login.opened"]


def test_a_part_of_a_page_sends_the_whole_page_to_the_login(keyed_api: KeyedApi) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/jobs/7?slice=2"}
    answer = keyed_api.client.get(f"/jobs/{uuid.uuid4()}/summary", headers=headers, follow_redirects=False)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login?next=%2Fjobs%2F7%3Fslice%3D2")
    headers["HX-Current-URL"] = "http://[nowhere/jobs/7"
    answer = keyed_api.client.get(f"/jobs/{uuid.uuid4()}/summary", headers=headers, follow_redirects=False)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login?next=%2F")

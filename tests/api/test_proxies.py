"""A proxy is believed as far as it can be, and lets nobody in where no key is asked for."""

import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from tests.support.api_server import serving
from udig_recon.api.app import create_app
from udig_recon.api.http.problems import MEDIA_TYPE
from udig_recon.api.http.proxies import ProxyHeadersMiddleware
from udig_recon.worker.settings import Settings

PROXY, INNER = "10.0.0.1", "10.0.0.2"
MARKS = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "scans.example.org",
    "Forwarded": "for=203.0.113.9",
    "Via": "1.1 nginx",
    "X-Real-IP": "203.0.113.9",
}


async def _nothing(*_: object) -> None:
    """An application that does nothing."""


def clients(trusted: str) -> ProxyHeadersMiddleware:
    return ProxyHeadersMiddleware(_nothing, trusted)


@given(st.lists(st.ip_addresses().map(str) | st.text(max_size=20), max_size=4), st.sampled_from(["*", "10.0.0.0/8"]))
def test_what_a_client_makes_up_is_left_of_what_the_proxy_has_seen(made_up: list[str], trusted: str) -> None:
    assert clients(trusted).client_of(PROXY, [*made_up, "203.0.113.9"]) == "203.0.113.9"


@pytest.mark.parametrize(
    ("trusted", "forwarded", "client"),
    [
        ("10.0.0.0/8", f"203.0.113.9, {INNER}", "203.0.113.9"),
        ("10.0.0.0/8", f"6.6.6.6, 203.0.113.9, {INNER}", "203.0.113.9"),
        ("10.0.0.0/8", f"{INNER}", INNER),
        ("10.0.0.0/8", f"unknown, {INNER}", INNER),
        ("10.0.0.0/8", "unknown", PROXY),
        ("10.0.0.0/8", "", PROXY),
        ("*", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("*", "203.0.113.9:4711", "203.0.113.9"),
        ("*", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1 ::1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(trusted: str, forwarded: str, client: str) -> None:
    assert clients(trusted).client_of(PROXY, [forwarded]) == client


@pytest.mark.parametrize("mark", MARKS)
def test_without_keys_nothing_that_a_proxy_brings_is_answered(settings: Settings, mark: str) -> None:
    for authentication in ("auto", "off"):
        with TestClient(create_app(settings.model_copy(update={"authentication": authentication}))) as client:
            for path in ("/v1/jobs", "/docs", "/nowhere", "/healthz"):
                answer = client.get(path, headers={mark: MARKS[mark]})
                assert (answer.status_code, answer.headers["content-type"]) == (403, MEDIA_TYPE), path
                assert "AUTHENTICATION=on" in answer.json()["detail"]
            assert client.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("mark", MARKS)
def test_with_keys_a_proxy_is_as_good_as_any_client(settings: Settings, mark: str) -> None:
    with TestClient(create_app(settings.model_copy(update={"authentication": "on"}))) as client:
        assert client.get("/healthz", headers={mark: MARKS[mark]}).status_code == 200
        assert client.get("/v1/jobs", headers={mark: MARKS[mark]}).status_code == 401


@pytest.mark.parametrize(("authentication", "warned"), [("auto", True), ("on", False)])
def test_a_service_without_keys_warns_at_its_start(settings: Settings, authentication: str, warned: bool) -> None:
    with serving(settings.model_copy(update={"authentication": authentication})) as served:
        lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    told = [line for line in lines if line["event"] == "authentication.disabled"]
    assert [line["level"] for line in told] == ["warning"] * warned

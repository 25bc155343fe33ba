"""Overload is told with a time to come back, and nobody's appetite keeps another out."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session, sessionmaker

from tests.support.api_server import serving
from udig_recon.api.app import create_app
from udig_recon.api.http.concurrency import ConcurrencyLimit
from udig_recon.api.http.problems import Overloaded, TooManyAtOnce
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.settings import Settings


def shares(most: int) -> ConcurrencyLimit:
    return ConcurrencyLimit("uploads", "MAX_UPLOADS", most)


def filled(places: ConcurrencyLimit, client: str) -> int:
    """How many places a client gets when it takes all that it can."""
    for count in range(places.most + 1):
        try:
            places.acquire(client)
        except (TooManyAtOnce, Overloaded):
            return count
    raise AssertionError("more than there are")


@given(st.integers(2, 200), st.lists(st.sampled_from("abcdef"), max_size=400))
def test_a_newcomer_finds_room_until_all_is_taken(most: int, clients: list[str]) -> None:
    places = shares(most)
    for client in clients:
        with contextlib.suppress(TooManyAtOnce, Overloaded):
            places.acquire(client)
    if places.free:
        places.acquire("newcomer")
    else:
        with pytest.raises(Overloaded):
            places.acquire("newcomer")


@given(st.integers(2, 200))
def test_one_client_has_half_and_the_next_a_good_part_of_the_rest(most: int) -> None:
    places = shares(most)
    assert filled(places, "first") == (most + 1) // 2
    assert filled(places, "second") >= most // 4


@given(st.integers(2, 50), st.lists(st.sampled_from("abc"), max_size=100))
def test_what_is_given_back_is_free_again(most: int, clients: list[str]) -> None:
    places = shares(most)
    held = []
    for client in clients:
        with contextlib.suppress(TooManyAtOnce, Overloaded):
            places.acquire(client)
            held.append(client)
    for client in held:
        places.release(client)
    assert places.free == most
    assert filled(places, "first") == (most + 1) // 2


@pytest.fixture
def keyed(settings: Settings) -> FastAPI:
    """An application with little room, to which the header X-Key is what a key would be."""
    app = create_app(settings.model_copy(update={"max_uploads": 2, "max_event_streams": 2, "max_waiting_requests": 4}))

    @app.middleware("http")
    async def recognise(request: Request, call_next: Any) -> Any:
        request.state.client = request.headers.get("x-key")
        return await call_next(request)

    return app


def test_who_has_a_share_of_uploads_is_told_when_to_come_back_and_others_are_served(
    keyed: FastAPI, mri_file: bytes
) -> None:
    uploads = keyed.state.context.concurrency.uploads
    with TestClient(keyed) as client, uploads.slot("greedy"):
        refused = client.post("/v1/scans", content=mri_file, headers={"X-Key": "greedy"})
        served = client.post("/v1/scans", content=mri_file, headers={"X-Key": "modest"})
        with uploads.slot("another"):
            full = client.post("/v1/scans", content=mri_file, headers={"X-Key": "modest"})
    assert (refused.status_code, served.status_code, full.status_code) == (429, 201, 503)
    for answer in (refused, full):
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["content-type"] == "application/problem+json"
        assert "MAX_UPLOADS" in answer.json()["detail"]
    assert uploads.free == uploads.most


def test_streams_are_shared_and_given_back(keyed: FastAPI, mri_file: bytes) -> None:
    streams = keyed.state.context.concurrency.streams
    with TestClient(keyed) as client:
        scan = client.post("/v1/scans", content=mri_file).json()
        body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
        job = client.post("/v1/jobs", json=body).json()
        client.post(job["links"]["cancel"])
        with streams.slot("greedy"):
            refused = client.get(job["links"]["events"], headers={"X-Key": "greedy"})
            served = client.get(job["links"]["events"], headers={"X-Key": "modest"})
    assert (refused.status_code, served.status_code) == (429, 200)
    assert int(refused.headers["retry-after"]) > 0
    assert "event: done" in served.text
    assert streams.free == streams.most


def test_too_many_waiting_requests_are_refused_but_health_is_told(keyed: FastAPI) -> None:
    requests = keyed.state.context.concurrency.requests
    with TestClient(keyed) as client, requests.slot("testclient"), requests.slot("testclient"):
        refused, health = client.get("/v1/jobs"), client.get("/healthz")
    assert (refused.status_code, health.status_code) == (429, 200)
    assert int(refused.headers["retry-after"]) > 0
    assert requests.free == requests.most


def test_an_address_with_too_many_connections_is_answered_and_others_are_served(settings: Settings) -> None:
    with serving(settings.model_copy(update={"max_connections": 8})) as (url, _, _), contextlib.ExitStack() as stack:
        address = urlsplit(url)
        for _ in range(4):
            stack.enter_context(socket.create_connection((address.hostname, address.port)))
        other = httpx2.Client(transport=httpx2.HTTPTransport(local_address="127.0.0.9"))
        served = other.get(url + "/healthz")
        refused = httpx2.get(url + "/healthz")
        assert (served.status_code, refused.status_code) == (200, 429)
        assert int(refused.headers["retry-after"]) > 0
        other.close()
        stack.close()
        assert httpx2.get(url + "/healthz").status_code == 200


@pytest.mark.parametrize(("proxy", "other"), [("127.0.0.1", 201), ("127.0.0.9", 429)], ids=["trusted", "another"])
def test_clients_of_a_trusted_proxy_are_told_apart_by_what_it_says(
    settings: Settings, database: sessionmaker[Session], mri_file: bytes, proxy: str, other: int
) -> None:
    with database.begin() as session:
        _, secret = keys.make(session, "a", NewKey(name="test", scopes=list(Scope)))
    answers: list[int] = []

    def post(content: Iterator[bytes] | bytes, address: str) -> int:
        headers = {"X-Forwarded-For": f"6.6.6.6, {address}", "Authorization": f"Bearer {secret}"}
        return client.post(f"{url}/v1/scans", content=content, headers=headers).status_code

    def slowly() -> Iterator[bytes]:
        yield mri_file[:1000]
        assert any(post(mri_file, "192.0.2.1") == 429 for _ in range(50))
        answers.append(post(mri_file, "192.0.2.2"))
        yield mri_file[1000:]

    transport = httpx2.HTTPTransport(local_address=proxy)
    with (
        serving(settings.model_copy(update={"max_waiting_requests": 2, "authentication": "on"})) as (url, _, _),
        httpx2.Client(transport=transport, timeout=30) as client,
    ):
        assert post(slowly(), "192.0.2.1") in (200, 201)
    assert answers == [other]

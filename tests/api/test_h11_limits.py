"""Bytes cost about the same however they are cut up, and nothing is parsed once its request is answered."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import h11
import httpx2
import pytest
import uvicorn

from tests.support.api_server import Served, serving
from udig_recon.api.http.concurrency import ConcurrencyLimit
from udig_recon.api.http.h11_limits import EVENTS_A_TURN, FREE_CHUNKS, LEAST_CHUNK_BYTES, MOST_FIELDS, BoundedConnection
from udig_recon.api.http.server import LINGER_BYTES, timed_protocol
from udig_recon.worker.settings import Settings

CHUNKED = b"POST /v1/scans HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
TINY = b"1\r\na\r\n"
NEXT = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def parsed(connection: BoundedConnection, data: bytes) -> list[object]:
    """What the connection finds in it, turn by turn, as the protocol asks."""
    connection.receive_data(data)
    found: list[object] = []
    while True:
        event = connection.next_event()
        if event not in (h11.NEED_DATA, h11.PAUSED):
            found.append(event)
        elif connection.interrupted:
            connection.begin_turn()
        else:
            return found


def body_of(events: list[object]) -> bytes:
    return b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data))


@pytest.fixture
def connection() -> BoundedConnection:
    return BoundedConnection(h11.SERVER)


def test_a_body_of_tiny_chunks_is_refused_after_so_many(connection: BoundedConnection) -> None:
    parsed(connection, CHUNKED)
    assert len(body_of(parsed(connection, TINY * (FREE_CHUNKS - 1)))) == FREE_CHUNKS - 1
    with pytest.raises(h11.RemoteProtocolError, match="on average"):
        parsed(connection, TINY)


def test_a_few_tiny_chunks_and_any_number_of_larger_ones_are_taken(connection: BoundedConnection) -> None:
    parsed(connection, CHUNKED)
    size = LEAST_CHUNK_BYTES + 8
    large = f"{size:x}\r\n".encode() + bytes(size) + b"\r\n"
    taken = body_of(parsed(connection, TINY * 20 + large * 5000 + b"0\r\n\r\n"))
    assert taken == b"a" * 20 + bytes(size) * 5000
    assert connection.their_state is h11.DONE


def test_a_turn_of_the_event_loop_has_so_many_pieces_of_a_body_and_no_more(connection: BoundedConnection) -> None:
    connection.receive_data(CHUNKED + TINY * 500)
    assert isinstance(connection.next_event(), h11.Request)
    for _ in range(3):
        connection.begin_turn()
        pieces = 0
        while connection.next_event() is not h11.NEED_DATA:
            pieces += 1
        assert connection.interrupted
        assert 0 < pieces <= EVENTS_A_TURN


@pytest.mark.parametrize("cut", [1, 7, 100_000])
@pytest.mark.parametrize("where", ["head", "trailers"])
def test_many_tiny_fields_are_refused_before_they_are_parsed(
    connection: BoundedConnection, where: str, cut: int
) -> None:
    begun = {"head": b"GET / HTTP/1.1\r\nHost: localhost\r\n", "trailers": CHUNKED + b"0\r\n"}[where]

    def sent(fields: int) -> None:
        data = begun + b"a:b\r\n" * fields + b"\r\n"
        for start in range(0, len(data), cut):
            parsed(connection, data[start : start + cut])

    with pytest.raises(h11.RemoteProtocolError) as refused:
        sent(MOST_FIELDS + 20)
    assert refused.value.error_status_hint == 431


@pytest.mark.parametrize("fields", [0, MOST_FIELDS - 1])
def test_as_many_fields_as_are_allowed_are_taken_and_trailers_too(connection: BoundedConnection, fields: int) -> None:
    more = b"a:b\r\n" * fields
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\n") + b"a:b\r\n" * max(0, fields - 1) + b"\r\n"
    found = parsed(connection, head + b"1\r\na\r\n0\r\n" + more + b"\r\n")
    assert isinstance(found[-1], h11.EndOfMessage)


def test_a_long_head_is_refused_even_if_it_comes_whole(connection: BoundedConnection) -> None:
    with pytest.raises(h11.RemoteProtocolError) as refused:
        parsed(connection, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 200_000 + b"\r\n\r\n")
    assert refused.value.error_status_hint == 431


def test_requests_sent_far_ahead_of_their_answers_are_refused(connection: BoundedConnection) -> None:
    with pytest.raises(h11.RemoteProtocolError, match="further requests"):
        parsed(connection, NEXT * 10_000)


def test_two_lengths_of_one_body_are_refused() -> None:
    names = ("Content-Length: 3", "Transfer-Encoding: chunked")
    for order in (names, names[::-1]):
        head = "\r\n".join(["POST / HTTP/1.1", "Host: localhost", *order, "", ""]).encode()
        with pytest.raises(h11.RemoteProtocolError):
            parsed(BoundedConnection(h11.SERVER), head)


@pytest.fixture
def served(settings: Settings) -> Iterator[Served]:
    with serving(settings) as made:
        yield made


@contextlib.contextmanager
def talking(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        yield connection


def answer_of(connection: socket.socket) -> bytes:
    """Everything until the server says no more."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def next_answer(connection: socket.socket) -> HTTPResponse:
    """One answer of several on a connection."""
    answer = HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer


def taken_on(connection: socket.socket) -> int:
    """How many bytes more the server lets a client send, at most four times as many as it should."""
    for sent in range(0, 4 * LINGER_BYTES, 1 << 20):
        try:
            connection.sendall(bytes(1 << 20))
        except OSError:
            return sent
    return 4 * LINGER_BYTES


def problem_of(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    found: dict[str, object] = json.loads(body)
    return found


def test_tiny_chunks_with_the_right_to_send_them_are_a_problem_and_the_end(served: Served) -> None:
    with talking(served.url) as connection:
        connection.sendall(CHUNKED + TINY * 5000)
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "on average" in str(problem_of(answer)["detail"])


def test_what_follows_an_early_answer_is_thrown_away_unparsed_and_only_some_of_it(settings: Settings) -> None:
    with serving(settings.model_copy(update={"authentication": "on"})) as served, talking(served.url) as connection:
        connection.sendall(CHUNKED)
        answer = answer_of(connection)
        assert answer.startswith(b"HTTP/1.1 401 ")
        problem_of(answer)
        connection.sendall(b"this is no chunk, and would be answered by 400\r\n" + NEXT)
        assert taken_on(connection) < 4 * LINGER_BYTES
        assert httpx2.get(served.url + "/healthz").status_code == 200


def test_an_answer_that_waits_for_no_body_that_is_sent_whole_keeps_the_connection(served: Served) -> None:
    with talking(served.url) as connection:
        for _ in range(3):
            connection.sendall(b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc")
            answer = next_answer(connection)
            assert (answer.status, answer.will_close) == (404, False)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Host: another\r\n", 400),
        (b"Content-Length: +5\r\n", 400),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"Transfer-Encoding: chunked, gzip\r\n", 400),
        (b"X-A : b\r\n", 400),
        (b"a:b\r\n" * 5000, 431),
        (b"X-A: " + b"a" * 100_000 + b"\r\n", 431),
    ],
    ids=["both-lengths", "two-hosts", "odd-length", "two-lengths", "odd-coding", "space", "many-fields", "long-field"],
)
def test_what_is_no_request_is_a_problem_and_the_end_of_the_connection(
    served: Served, head: bytes, status: int
) -> None:
    with talking(served.url) as connection:
        connection.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n" + NEXT)
        answer = answer_of(connection)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert problem_of(answer)["status"] == status
    assert answer.count(b"HTTP/1.1 ") == 1


@contextlib.contextmanager
def protocol_serving(app: Any) -> Iterator[str]:
    """URL of any application behind the service's protocol."""
    http = timed_protocol(30, 30, ConcurrencyLimit("connections", "MAX_CONNECTIONS", 10))
    server = uvicorn.Server(uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


async def failing(_scope: Any, _receive: Any, send: Any) -> None:
    """Answers and then fails, as the application does after it has told of an error of its own."""
    await send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"no"})
    raise RuntimeError


async def half_failing(_scope: Any, _receive: Any, send: Any) -> None:
    """Fails in the middle of its answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"n", "more_body": True})
    raise RuntimeError


def test_an_answer_500_keeps_its_connection_and_half_an_answer_ends_it() -> None:
    with protocol_serving(failing) as url, talking(url) as connection:
        for _ in range(3):
            connection.sendall(NEXT)
            answer = next_answer(connection)
            assert (answer.status, answer.will_close) == (500, False)
    with protocol_serving(half_failing) as url, talking(url) as connection:
        connection.sendall(NEXT)
        assert answer_of(connection).endswith(b"\r\n\r\nn")

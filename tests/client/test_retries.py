"""Laws of the clients when answers are late, cut off, refused or damaged, against a service of the test."""

import asyncio
import hashlib
import json
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import udig_client
from tests.support.client_world import Blocking
from udig_client import (
    AsyncClient,
    Client,
    Conflict,
    DamagedDownload,
    DamagedUpload,
    InvalidRequest,
    InvalidScan,
    NotFound,
    OutcomeUnknown,
    ProblemError,
    QuotaExceeded,
    ServiceUnreachable,
    Snapshot,
    StatusChange,
    TooManyJobs,
    Unavailable,
    UnexpectedAnswer,
    UploadInterrupted,
    WaitTimeout,
)
from udig_client.events import EventDecoder

Handler = Callable[[httpx.Request], httpx.Response]
MakeClient = Callable[..., Any]
JOB_ID, SCAN_ID = "0198c2f5-1b22-7f00-8a41-93c7d5e2a6f0", "0198c2f4-7a10-7c3e-9d5b-2f6a1e0b4c11"
PROGRESS = {"fraction": 0.0, "slices_done": 0, "slices": 1, "iteration": 0}
CREATED = "2026-02-03T09:12:41.120000Z"


def job(status: str = "queued", **more: Any) -> dict[str, Any]:
    fields = {"parameters": {"method": "tv"}, "outputs": ["h5"], "slice_numbers": [0], "seed": 0, "seeds": 1}
    return {"id": JOB_ID, "status": status, "progress": PROGRESS, "created_at": CREATED, **fields, **more}


def scan_of(content: bytes) -> dict[str, Any]:
    described = {"format": "npy", "modality": "mri", "slices": 1, "matrix": [8, 8], "pixel_spacing_mm": [1.0, 1.0]}
    sha256 = hashlib.sha256(content).hexdigest()
    stored = {
        "id": SCAN_ID,
        "filename": "scan.npy",
        "size_bytes": len(content),
        "sha256": sha256,
        "created_at": CREATED,
    }
    return {**described, **stored}


def problem(status: int, kind: str = "x", retry_after: str | None = None, **more: Any) -> httpx.Response:
    headers = {"content-type": "application/problem+json", **({"retry-after": retry_after} if retry_after else {})}
    document = {"type": f"urn:udig-recon:problem:{kind}", "title": kind, "status": status, "detail": "no", **more}
    return httpx.Response(status, headers=headers, content=json.dumps(document))


class Script:
    """Answers one after the other; an exception is raised in place of an answer. The last one is given ever after."""

    def __init__(self, *answers: httpx.Response | Exception | Handler) -> None:
        self.answers, self.requests = list(answers), list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer


class Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is cut off after these blocks, or ends."""

    def __init__(self, *blocks: bytes, cut: bool = False) -> None:
        self.blocks, self.cut = blocks, cut

    def __iter__(self) -> Iterator[bytes]:
        yield from self.blocks
        if self.cut:
            raise httpx.ReadError("cut")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for block in self.blocks:
            yield block
        if self.cut:
            raise httpx.ReadError("cut")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long clients wait, without the waiting."""
    seconds: list[float] = []

    async def sleep(pause: float) -> None:
        seconds.append(pause)

    monkeypatch.setattr("udig_client.client.sleep", seconds.append)
    monkeypatch.setattr("udig_client.async_client.sleep", sleep)
    return seconds


@pytest.fixture(params=["sync", "async"])
def client_to(request: pytest.FixtureRequest, slept: list[float]) -> Iterator[MakeClient]:
    """Makes a client of a handler of requests, which has been answered once before."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def make(handler: Handler, **options: Any) -> Any:
        transport = httpx.MockTransport(handler)
        if request.param == "sync":
            client = Client("http://service", "udig_key", transport=transport, **options)
            client._was_answered = True
            return client
        made = AsyncClient("http://service", "udig_key", transport=transport, **options)
        made._was_answered = True
        return Blocking(made, loop)

    yield make
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_request_waits_as_long_as_the_service_asks_and_is_sent_again(
    client_to: MakeClient, slept: list[float]
) -> None:
    script = Script(problem(429, retry_after="7"), problem(503, retry_after="3"), httpx.Response(200, json=job()))
    assert client_to(script).job(JOB_ID).status == "queued"
    assert [round(pause) for pause in slept] == [7, 3]
    assert {request.headers["authorization"] for request in script.requests} == {"Bearer udig_key"}


def test_patience_that_is_not_enough_for_what_the_service_asks_ends_at_once(
    client_to: MakeClient, slept: list[float]
) -> None:
    script = Script(problem(429, "quota-exceeded", retry_after="86400"))
    with pytest.raises(QuotaExceeded) as refused:
        client_to(script, patience=60).job(JOB_ID)
    assert (refused.value.retry_after, slept, len(script.requests)) == (86400, [], 1)


def test_a_job_whose_answer_is_lost_is_submitted_again_as_the_same_job(client_to: MakeClient) -> None:
    script = Script(httpx.ReadError("cut"), problem(503, "outcome-unknown"), httpx.Response(202, json=job()))
    scan = udig_client.Scan(**{**_decoded_scan(), "id": SCAN_ID})
    assert client_to(script).submit(scan, "tv", weight=0.01, slices=[0], tags={"a": "b"}).id == JOB_ID
    keys = {request.headers["idempotency-key"] for request in script.requests}
    assert (len(script.requests), len(keys)) == (3, 1)
    sent = json.loads(script.requests[0].content)
    assert sent["parameters"] == {"method": "tv", "weight": 0.01}
    assert sent.keys() == {"scan_id", "parameters", "slices", "tags"}


def _decoded_scan() -> dict[str, Any]:
    from udig_client.decode import decode

    return vars(decode(udig_client.Scan, scan_of(b"")))


def test_what_may_have_taken_effect_and_would_again_is_not_sent_twice(client_to: MakeClient) -> None:
    for lost, kind in ((httpx.ReadError("cut"), ServiceUnreachable), (problem(503, "outcome-unknown"), OutcomeUnknown)):
        script = Script(lost, httpx.Response(201, json={}))
        with pytest.raises(kind):
            client_to(script).create_key("name", ["read"])
        assert len(script.requests) == 1


def test_what_was_never_sent_is_sent_again(client_to: MakeClient) -> None:
    script = Script(httpx.ConnectError("refused"), problem(503, "overloaded"), httpx.Response(202, json=job()))
    assert client_to(script).cancel(JOB_ID).id == JOB_ID
    assert len(script.requests) == 3


def test_a_deletion_whose_answer_was_lost_is_done_when_nothing_is_there_any_more(client_to: MakeClient) -> None:
    script = Script(httpx.ReadError("cut"), problem(404, "not-found"))
    assert client_to(script).delete_job(JOB_ID) is None
    with pytest.raises(NotFound):
        client_to(Script(problem(404, "not-found"))).delete_job(JOB_ID)


def test_a_url_that_nothing_ever_answered_at_is_given_up_soon(slept: list[float]) -> None:
    client = Client("http://service", transport=httpx.MockTransport(Script(httpx.ConnectError("refused"))))
    with pytest.raises(ServiceUnreachable, match=r"http://service .*does it run\?.* does not answer: refused"):
        client.methods()
    assert 0 < sum(slept) < 120


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (404, "not-found", NotFound),
        (409, "conflict", Conflict),
        (422, "invalid", InvalidRequest),
        (429, "too-many-jobs", TooManyJobs),
        (503, "unavailable", Unavailable),
        (418, "teapot", ProblemError),
    ],
)
def test_a_problem_is_an_exception_of_its_kind_with_found_and_expected(
    client_to: MakeClient, status: int, kind: str, error: type[ProblemError]
) -> None:
    wrong = {"field": "weight", "found": "-1", "expected": ">= 0"}
    with pytest.raises(error, match="weight: found -1, expected >= 0") as raised:
        client_to(Script(problem(status, kind, errors=[wrong])), patience=0).tenant()
    assert [(each.field, each.found, each.expected) for each in raised.value.errors] == [("weight", "-1", ">= 0")]
    assert raised.value.status == status


def test_a_file_that_is_no_scan_is_an_invalid_scan(client_to: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "scan.npy").write_bytes(b"text")
    for status in (415, 422):
        with pytest.raises(InvalidScan):
            client_to(Script(problem(status))).upload(tmp_path / "scan.npy")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"html": "<p>hello</p>"}, "expected JSON"),
        ({"json": {"hello": 1}}, "has no id"),
        ({"json": {**job(), "seed": "0"}}, "expected int"),
        ({"status_code": 308, "headers": {"location": "https://service/v1"}}, "leads to https://service/v1"),
    ],
)
def test_an_answer_of_something_else_is_told_as_that(client_to: MakeClient, answer: dict[str, Any], words: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=words):
        client_to(Script(httpx.Response(**{"status_code": 200, **answer}))).job(JOB_ID)


@pytest.mark.parametrize("url", ["service:8000", "ftp://service", "http://", "127.0.0.1"])
def test_a_url_that_cannot_be_one_is_refused_with_what_would_be_right(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL of the service is"):
        Client(url)


@pytest.mark.parametrize("id_", ["", "../keys", "a/b?c"])
def test_an_id_never_leads_to_another_path(client_to: MakeClient, id_: str) -> None:
    script = Script(problem(404, "not-found"))
    with pytest.raises((ValueError, NotFound)):
        client_to(script).delete_job(id_)
    assert all(request.url.raw_path.count(b"/") == 3 for request in script.requests)


# Downloads


CONTENT = bytes(range(256)) * 64
HEADERS = {"etag": '"abc"', "repr-digest": f"sha-256=:{b64encode(hashlib.sha256(CONTENT).digest()).decode()}:"}


def whole(content: bytes = CONTENT) -> Handler:
    return lambda request: httpx.Response(200, headers=HEADERS, stream=Stream(content))


def ranges(etag: str = '"abc"') -> Handler:
    """A server that sends what is asked for, and all of it where the tag is another."""

    def answer(request: httpx.Request) -> httpx.Response:
        if "range" not in request.headers or request.headers["if-range"] != etag:
            return httpx.Response(200, headers={**HEADERS, "etag": etag}, stream=Stream(CONTENT))
        start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        span = {"content-range": f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}", "etag": etag}
        return httpx.Response(206, headers=span, stream=Stream(CONTENT[start:]))

    return answer


def cut_after(size: int) -> httpx.Response:
    length = {"content-length": str(len(CONTENT))}
    return httpx.Response(200, headers={**HEADERS, **length}, stream=Stream(CONTENT[:size], cut=True))


def test_a_download_that_is_cut_goes_on_where_it_ended(client_to: MakeClient, tmp_path: Path) -> None:
    script = Script(cut_after(5000), httpx.ConnectError("away"), ranges())
    told: list[udig_client.Progress] = []
    client_to(script).result(JOB_ID, tmp_path / "out.h5", progress=told.append)
    assert (tmp_path / "out.h5").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]
    assert script.requests[-1].headers["range"] == "bytes=5000-"
    assert (told[-1].done, told[-1].fraction) == (len(CONTENT), 1)


def test_a_download_of_a_file_that_changed_meanwhile_begins_anew(client_to: MakeClient) -> None:
    assert client_to(Script(cut_after(5000), ranges('"new"'))).result(JOB_ID) == CONTENT


def test_a_damaged_download_is_taken_again_and_at_last_refused(client_to: MakeClient, tmp_path: Path) -> None:
    damaged = CONTENT[:-1] + b"x"
    assert client_to(Script(whole(damaged), whole())).result(JOB_ID) == CONTENT
    with pytest.raises(DamagedDownload):
        client_to(Script(whole(damaged))).result(JOB_ID, tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_download_never_replaces_a_file_by_less_than_the_whole(client_to: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "out.h5").write_bytes(b"before")
    with pytest.raises(Conflict):
        client_to(Script(cut_after(5000), problem(409, "conflict"))).result(JOB_ID, tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_bytes() == b"before"
    with pytest.raises(ValueError, match=r"\.nii\.gz"):
        client_to(Script(whole())).result(JOB_ID, tmp_path / "out.tif")


# Uploads in pieces


class TusServer:
    """An upload server that loses connections: of each request in `cuts` only so many bytes arrive."""

    def __init__(self, cuts: list[int | None], spoils: bool = False) -> None:
        self.cuts, self.spoils = cuts, spoils
        self.length, self.received = 0, b""
        self.requests: list[tuple[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/v1/direct-uploads"):  # its files lie in a folder
            return problem(409, "conflict")
        self.requests.append((request.method, request.url.path))
        match request.method, request.url.path:
            case "POST", "/v1/uploads":
                self.length = int(request.headers["upload-length"])
                return httpx.Response(201, headers={"location": "/v1/uploads/u1"})
            case "PATCH", _:
                return self._append(request)
            case "GET", "/v1/uploads/u1":
                about = {"id": "u1", "filename": "f", "created_at": CREATED, "expires_at": CREATED}
                return httpx.Response(
                    200, json={**about, "size_bytes": self.length, "offset_bytes": len(self.received)}
                )
            case "POST", "/v1/scans":
                assert json.loads(request.content) == {"upload_id": "u1"}
                return httpx.Response(201, json=scan_of(self.received[:-1] + b"?" if self.spoils else self.received))
        raise AssertionError(request)

    def _append(self, request: httpx.Request) -> httpx.Response:
        if int(request.headers["upload-offset"]) != len(self.received):
            return problem(409, "conflict")
        assert int(request.headers["content-length"]) == len(request.content)
        cut = self.cuts.pop(0) if self.cuts else None
        self.received += request.content[:cut]
        if cut is not None:
            raise httpx.WriteError("cut")
        return httpx.Response(204, headers={"upload-offset": str(len(self.received))})


@pytest.mark.parametrize("cuts", [[], [0, 700, 999], [None, 1, None, 500, 1000], [1000, None, 3]])
def test_an_upload_that_is_cut_off_arrives_whole(client_to: MakeClient, tmp_path: Path, cuts: list[int | None]) -> None:
    content = bytes(range(250)) * 17
    (tmp_path / "scan.npy").write_bytes(content)
    server = TusServer(list(cuts))
    told: list[udig_client.Progress] = []
    scan = client_to(server, piece_bytes=1000).upload(tmp_path / "scan.npy", progress=told.append)
    assert (server.received, scan.sha256) == (content, hashlib.sha256(content).hexdigest())
    assert (told[-1].done, told[-1].total) == (len(content), len(content))


class ServiceOnBucket:
    """A service whose bucket gives `statuses` to parts, and which refuses the file itself with the last answer."""

    def __init__(self, content: bytes, *statuses: int, refusal: int | None = None) -> None:
        self.content, self.statuses, self.refusal = content, list(statuses), refusal
        self.stored, self.begun, self.keys_told = False, 0, 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "bucket":
            self.keys_told += "authorization" in request.headers
            status = self.statuses.pop(0) if self.statuses else 200
            self.stored = status == 200
            return httpx.Response(status)
        match request.method, request.url.path:
            case "POST", "/v1/direct-uploads":
                self.begun += 1
                return httpx.Response(201, json=self.upload())
            case "GET", "/v1/direct-uploads/u1":
                return httpx.Response(200, json=self.upload())
            case "POST", "/v1/scans" if self.refusal is not None:
                return problem(self.refusal)
            case "POST", "/v1/scans":
                return httpx.Response(201, json=scan_of(self.content))
        raise AssertionError(f"{request.method} {request.url}")

    def upload(self) -> dict[str, Any]:
        size = len(self.content)
        part = {"number": 1, "offset": 0, "size_bytes": size, "method": "PUT", "url": "http://bucket/1", "headers": {}}
        dates = {"created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z"}
        counts = {"size_bytes": size, "offset_bytes": size if self.stored else 0, "part_bytes": size}
        return {"id": "u1", "filename": "scan.npy", **counts, **dates, "missing": [] if self.stored else [part]}


def test_a_part_that_the_bucket_refuses_is_sent_again_without_the_key(client_to: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "scan.npy").write_bytes(bytes(2000))
    server = ServiceOnBucket(bytes(2000), 403, 503)
    scan = client_to(server, piece_bytes=1000).upload(tmp_path / "scan.npy")
    assert (scan.sha256, server.begun, server.keys_told) == (hashlib.sha256(bytes(2000)).hexdigest(), 1, 0)
    refusing = ServiceOnBucket(bytes(2000), *[403] * 1000)
    with pytest.raises(UploadInterrupted, match="the bucket of http://service did not take a part: status 403"):
        client_to(refusing, piece_bytes=1000, patience=5).upload(tmp_path / "scan.npy")


@pytest.mark.parametrize(("status", "error"), [(409, Conflict), (404, NotFound)])
def test_a_refusal_of_what_the_bucket_has_is_told_and_nothing_is_sent_again(
    client_to: MakeClient, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    (tmp_path / "scan.npy").write_bytes(bytes(2000))
    server = ServiceOnBucket(bytes(2000), refusal=status)
    with pytest.raises(error):
        client_to(server, piece_bytes=1000).upload(tmp_path / "scan.npy")
    assert server.begun == 1


def test_an_upload_that_another_program_began_is_gone_on_with(client_to: MakeClient, tmp_path: Path) -> None:
    content = bytes(range(250)) * 17
    (tmp_path / "scan.npy").write_bytes(content)
    server = TusServer([None, *[0] * 1000])
    with pytest.raises(UploadInterrupted) as cut:
        client_to(server, piece_bytes=1000, patience=5).upload(tmp_path / "scan.npy")
    assert (cut.value.upload_id, cut.value.offset) == ("u1", 1000)
    server.cuts.clear()
    client_to(server, piece_bytes=1000).upload(tmp_path / "scan.npy", resume=cut.value.upload_id)
    assert server.received == content
    assert server.requests.count(("POST", "/v1/uploads")) == 1
    (tmp_path / "other.npy").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"is of a file of 4250 bytes, and .* has 4249"):
        client_to(server, piece_bytes=1000).upload(tmp_path / "other.npy", resume="u1")


def test_an_upload_that_became_other_bytes_is_told(client_to: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "scan.npy").write_bytes(bytes(range(250)) * 17)
    with pytest.raises(DamagedUpload):
        client_to(TusServer([], spoils=True), piece_bytes=1000).upload(tmp_path / "scan.npy")


# Events


STATUS = 'event: status\ndata: {"status":"running","progress":null}\nretry: 10\n\n'
DONE = 'event: done\ndata: {"status":"succeeded","progress":null}\nid: 2.done\n\n'


def snapshot(seq: int) -> str:
    data = {"seq": seq, "slice": 0, "iteration": seq, "iterations": 2, "seconds": 0.1, "created_at": CREATED}
    return f"event: snapshot\ndata: {json.dumps(data)}\nid: {seq}\n\n"


def test_a_follower_that_is_cut_off_goes_on_after_the_last_event_that_came(client_to: MakeClient) -> None:
    first = (STATUS + snapshot(1) + snapshot(2)[:20]).encode()
    second = (STATUS + snapshot(2) + ": still here\n\nevent: later\ndata: {}\n\n").encode()
    script = Script(
        httpx.Response(200, stream=Stream(first, cut=True)),
        httpx.ConnectError("refused"),
        problem(503, "unavailable"),
        httpx.Response(200, stream=Stream(second)),
        httpx.Response(200, stream=Stream((STATUS + DONE).encode())),
    )
    events = list(client_to(script).follow(JOB_ID))
    assert [event.seq for event in events if isinstance(event, Snapshot)] == [1, 2]
    assert [event.status for event in events if isinstance(event, StatusChange)] == ["running", "succeeded"]
    assert [request.headers.get("last-event-id") for request in script.requests] == [None, "1", "1", "1", "2"]


def test_a_follower_ends_where_there_is_nothing_more_and_raises_where_it_may_not_look(client_to: MakeClient) -> None:
    assert list(client_to(Script(httpx.Response(204))).follow(JOB_ID)) == []
    with pytest.raises(udig_client.Unauthenticated):
        list(client_to(Script(problem(401, "unauthenticated"))).follow(JOB_ID))


@given(st.lists(st.integers(0, 200), max_size=8), st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_are_the_same_however_their_bytes_are_divided(places: list[int], line_end: str) -> None:
    text = (snapshot(1) + STATUS + "data: a\ndata: \u2028b\n\n" + DONE).replace("\n", line_end).encode()
    cuts = [0, *sorted(place for place in places if place < len(text)), len(text)]
    decoder = EventDecoder()
    found = [event for a, b in pairwise(cuts) for event in decoder.feed(text[a:b])]
    found += decoder.feed(b"\n")
    assert [(event.name, event.id) for event in found] == [
        ("snapshot", "1"),
        ("status", "1"),
        ("message", "1"),
        ("done", "2.done"),
    ]
    assert found[2].data == "a\n\u2028b"
    assert decoder.retry_seconds == 0.01


def test_waiting_ends_with_the_job_or_with_the_time(client_to: MakeClient) -> None:
    failed = job("failed", error={"title": "Insufficient Storage", "detail": "the disk was full"})
    ended = client_to(Script(httpx.Response(200, json=job()), httpx.Response(200, json=failed))).wait(JOB_ID)
    with pytest.raises(udig_client.JobFailed, match="the disk was full"):
        ended.check()
    with pytest.raises(WaitTimeout, match="queued after 0 s"):
        client_to(Script(httpx.Response(200, json=job()))).wait(JOB_ID, timeout=0)


@pytest.mark.parametrize("key", ["udig_geheim\nX: y", "udig_gehéim", "udig_ge heim", "udig_\0"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_that_cannot_be_one_is_refused_and_not_told(kind: Any, key: str) -> None:
    with pytest.raises(ValueError, match="character that no key has") as refused:
        kind("http://service", key)
    assert key not in str(refused.value)
    assert kind("http://service", " udig_a-B_1\n")._http.headers["authorization"] == "Bearer udig_a-B_1"


@pytest.mark.parametrize("silent", [b": still here\n\n", STATUS.encode()])
def test_following_ends_with_the_time_although_the_stream_tells_nothing_new(
    client_to: MakeClient, silent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    for module in ("client", "async_client"):
        monkeypatch.setattr(f"udig_client.{module}.monotonic", lambda: float(next(clock)))
    script = Script(httpx.Response(200, json=job()), lambda _: httpx.Response(200, stream=Stream(*[silent] * 30)))
    with pytest.raises(WaitTimeout, match="goes on after 20 s"):
        client_to(script).follow_to_end(JOB_ID, None, timeout=20)
    assert len(script.requests) == 2
    assert script.requests[1].extensions["timeout"]["read"] < 20
    cut = Script(httpx.Response(200, json=job()), httpx.ReadTimeout("no answer in time"))
    with pytest.raises(WaitTimeout):
        client_to(cut).follow_to_end(JOB_ID, None, timeout=1)


def test_a_job_that_has_ended_is_not_followed(client_to: MakeClient) -> None:
    script = Script(httpx.Response(200, json=job("cancelled")))
    assert client_to(script).follow_to_end(JOB_ID, None, timeout=0).status == "cancelled"
    assert len(script.requests) == 1


# Many


def test_one_scan_that_fails_does_not_keep_the_others(client_to: MakeClient, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.npy", tmp_path / "bad.npy"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/scans":
            return problem(422) if request.content == b"bad" else httpx.Response(201, json=scan_of(request.content))
        return httpx.Response(200, json=job("succeeded", quality={"rating": "good"}))

    paths = [good, bad, tmp_path / "missing.npy", good]
    outcomes = list(client_to(answer).map(paths, "tv", parallel=2))
    assert sorted(str(outcome.scan) for outcome in outcomes) == sorted(map(str, paths))
    assert {type(outcome.error) for outcome in outcomes} == {type(None), InvalidScan, FileNotFoundError}
    assert [outcome.reconstruction.quality.rating for outcome in outcomes if outcome.error is None] == ["good"] * 2


def test_no_more_scans_are_under_way_than_may_be(client_to: MakeClient, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.npy" for number in range(12)]
    for path in paths:
        path.write_bytes(path.name.encode())
    lock, under_way, most = threading.Lock(), set[str](), [0]

    def answer(request: httpx.Request) -> httpx.Response:
        with lock:
            match request.method, request.url.path:
                case "POST", "/v1/scans":
                    under_way.add(name := request.content.decode())
                    most[0] = max(most[0], len(under_way))
                    return httpx.Response(201, json=scan_of(request.content) | {"id": name})
                case "POST", _:
                    return httpx.Response(202, json=job() | {"id": json.loads(request.content)["scan_id"]})
                case _, path:
                    under_way.discard(path.rpartition("/")[2])
                    return httpx.Response(200, json=job("succeeded"))

    assert len(list(client_to(answer).map(paths, "tv", parallel=3))) == 12
    assert 1 <= most[0] <= 3

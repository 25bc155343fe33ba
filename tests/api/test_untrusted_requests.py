"""Whatever a client sends, the answer is one of those that are documented."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake_worker import Drive
from udig_recon.api.http.conditional import negotiate_format, parse_range
from udig_recon.api.http.multipart import PartReader
from udig_recon.api.http.problems import Problem, RangeOutside
from udig_recon.api.scans.upload import base_name
from udig_recon.core.results.output_format import OutputFormat
from udig_recon.core.results.outputs import OUTPUTS

QUICKLY = settings(max_examples=40, deadline=None, derandomize=True, database=None)
TEXTS = st.text(max_size=40)
# What h11 lets through in the value of a header.
LATIN = st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f")
HEADERS = st.text(LATIN, max_size=60).map(str.strip)
BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
PIECES = st.sampled_from(
    [
        f"--{BOUNDARY}",
        f"--{BOUNDARY}--",
        "\r\n",
        "\r\n\r\n",
        'Content-Disposition: form-data; name="file"; filename="a"',
        'Content-Disposition: form-data; name="job"',
        "Content-Type: text/plain",
        "--",
        ":",
        "\0",
    ]
)
BODIES = st.lists(PIECES.map(str.encode) | st.binary(max_size=20), max_size=12).map(b"".join)


@pytest.fixture
def done(client: TestClient, drive: Drive, scan: dict[str, Any]) -> dict[str, Any]:
    """A job that has succeeded."""
    asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}
    job: dict[str, Any] = client.post("/v1/jobs", json=asked).json()
    drive.complete(job)
    return job


def always(strategy: st.SearchStrategy[Any], law: Callable[[Any], None]) -> None:
    """Try the law on many examples."""
    QUICKLY(given(strategy)(law))()


def test_any_body_of_a_form_is_a_form_or_a_problem(client: TestClient) -> None:
    def law(body: bytes) -> None:
        for path in ("/v1/scans", "/v1/jobs"):
            answer = client.post(path, content=body, headers={"Content-Type": FORM})
            assert answer.status_code in (400, 413, 415, 422), answer.text
            assert answer.headers["content-type"] == "application/problem+json"

    always(BODIES, law)


def test_a_form_is_read_alike_however_it_is_cut() -> None:
    def events(chunks: list[bytes]) -> list[Any]:
        async def stream() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        async def collect() -> list[Any]:
            found: list[Any] = []
            try:
                async for event in PartReader(FORM).events(stream()):
                    if isinstance(event, bytes) and found and isinstance(found[-1], bytes):
                        found[-1] += event
                    elif event != b"":
                        found.append(event)
            except Problem:
                found.append("refused")
            return found

        return asyncio.run(collect())

    def law(case: tuple[bytes, int]) -> None:
        body, size = case
        whole, cut = events([body]), events([body[at : at + size] for at in range(0, len(body), size)])
        # A refusal may come before the parts of its chunk are told.
        assert whole == cut or (whole[-1:] == cut[-1:] == ["refused"])

    always(st.tuples(BODIES, st.integers(1, 30)), law)


def test_any_content_type_is_taken_or_refused(client: TestClient) -> None:
    def law(kind: str) -> None:
        headers = {"Content-Type": kind.encode("latin-1")}
        assert client.post("/v1/scans", content=b"nothing", headers=headers).status_code in (400, 415, 422)
        assert client.post("/v1/jobs", content=b"{}", headers=headers).status_code in (400, 415, 422)

    kinds = HEADERS | HEADERS.map("multipart/form-data; boundary={}".format) | HEADERS.map("multipart/{}".format)
    always(kinds, law)


def test_any_json_is_a_job_or_a_problem(client: TestClient, scan: dict[str, Any]) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from(["tv", scan["id"]]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=5,
    )
    names = st.sampled_from(["scan_id", "parameters", "outputs", "slices", "seed", "webhook_url", "tags", "method"])

    def law(fields: dict[str, Any]) -> None:
        asked = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}, **fields}
        body = json.dumps(asked).encode("utf-8", "surrogatepass")
        answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (202, 404, 422), answer.text

    always(st.dictionaries(names, values, max_size=3), law)


def test_any_range_is_within_the_file_or_ignored_or_refused() -> None:
    numbers = st.integers(0, 10**20).map(str) | st.just("")

    def law(case: tuple[str, int]) -> None:
        header, size = case
        try:
            part = parse_range(header, size)
        except RangeOutside:
            return
        assert part is None or 0 <= part[0] < part[1] <= size

    headers = st.tuples(numbers, numbers).map("bytes={0[0]}-{0[1]}".format) | HEADERS
    always(st.tuples(headers, st.integers(1, 10**6)), law)


@pytest.mark.parametrize(
    "name", ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "Accept", "Accept-Encoding"]
)
def test_any_header_of_a_download_is_heeded_ignored_or_refused(
    client: TestClient, done: dict[str, Any], name: str
) -> None:
    whole = client.get(done["links"]["result"]).content
    dates = st.datetimes(datetime(1, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)).map(
        lambda when: when.strftime("%a, %d %b %Y %H:%M:%S GMT")
    )
    odd = st.sampled_from(["Mon, 99 Jan 2024 99:99:99 GMT", "Mon, 01 Jan 99999 00:00:00 GMT", "1 Jan 0", "*/*;q=nan"])

    def law(value: str) -> None:
        answer = client.get(done["links"]["result"], headers={name: value.encode("latin-1")})
        assert answer.status_code in (200, 206, 304, 406, 412, 416), answer.text
        if answer.status_code == 206:
            first, last = answer.headers["content-range"].removeprefix("bytes ").split("/")[0].split("-")
            assert answer.content == whole[int(first) : int(last) + 1]

    always(HEADERS | dates | odd, law)


def test_any_accept_header_names_a_format_or_is_refused() -> None:
    media = st.sampled_from([each.media_type for each in OUTPUTS.values()] + ["*/*", "image/*", "text/html"])
    weights = st.sampled_from(["", ";q=0", ";q=1", ";q=0.5", ";q=nan", ";q=inf", ";q=-1", ";q=x"])

    def law(ranges: list[tuple[str, str]]) -> None:
        try:
            found = negotiate_format(
                ",".join(name + weight for name, weight in ranges), OUTPUTS["h5"], OUTPUTS.values()
            )
        except Problem:
            return
        assert isinstance(found, OutputFormat)

    always(st.lists(st.tuples(media, weights), max_size=4), law)


@pytest.mark.parametrize("path", ["/v1/scans", "/v1/jobs", "/v1/comparisons"])
def test_any_cursor_leads_to_a_page_or_is_refused(client: TestClient, scan: dict[str, Any], path: str) -> None:
    def law(cursor: str) -> None:
        assert client.get(f"{path}?cursor={quote(cursor)}").status_code in (200, 422)

    always(TEXTS | st.binary(min_size=15, max_size=17).map(lambda raw: quote(raw)), law)


def test_any_query_is_answered_or_refused(client: TestClient, scan: dict[str, Any], done: dict[str, Any]) -> None:
    numbers = st.integers().map(str) | st.floats().map(str) | TEXTS
    root = f"/v1/jobs/{done['id']}"
    asked = st.sampled_from(
        [
            ("/v1/jobs", "tag"),
            ("/v1/jobs", "scan_id"),
            ("/v1/jobs", "status"),
            ("/v1/jobs", "limit"),
            ("/v1/scans", "limit"),
            (root, "wait"),
            (f"{root}/progress", "slice"),
            (f"{root}/progress", "after"),
            (f"{root}/progress", "limit"),
            (f"{root}/preview.png", "slice"),
            (f"{root}/preview.png", "view"),
            (f"{root}/result", "format"),
        ]
    )

    def law(case: tuple[tuple[str, str], str]) -> None:
        (path, name), value = case
        answer = client.get(f"{path}?{name}={quote(value)}")
        assert answer.status_code in (200, 422), answer.text

    always(st.tuples(asked, numbers), law)


def test_any_id_of_an_event_is_known_or_refused(client: TestClient, done: dict[str, Any]) -> None:
    def law(value: str) -> None:
        answer = client.get(done["links"]["events"], headers={"Last-Event-ID": value.encode("latin-1")})
        assert answer.status_code in (200, 204, 422), answer.text

    always(HEADERS | st.integers(0, 10**20).map(str), law)


def test_any_key_brings_the_same_job_again(client: TestClient, scan: dict[str, Any]) -> None:
    body = {"scan_id": scan["id"], "parameters": {"method": "zero_filled"}}

    def law(key: str) -> None:
        first, second = (
            client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key.encode("latin-1")}) for _ in range(2)
        )
        assert first.status_code == second.status_code
        assert first.status_code in (202, 422)
        if first.status_code == 202:
            assert first.json()["id"] == second.json()["id"]

    always(HEADERS, law)


@pytest.mark.parametrize("name", ["X-Filename", "Repr-Digest"])
def test_any_header_of_an_upload_is_taken_or_refused(client: TestClient, mri_file: bytes, name: str) -> None:
    digests = st.binary(max_size=40).map(lambda raw: f"sha-256=:{raw.hex()}:")

    def law(value: str) -> None:
        answer = client.post("/v1/scans", content=mri_file, headers={name: value.encode("latin-1")})
        assert answer.status_code in (200, 201, 422), answer.text

    always(HEADERS | digests, law)


def test_any_name_of_a_file_is_kept_without_its_folders_and_tricks(client: TestClient, mri_file: bytes) -> None:
    def law(name: str) -> None:
        kept = base_name(name)
        assert kept == PurePosixPath(kept).name
        assert len(kept) <= 255
        assert kept.isprintable()
        assert not set(kept) & set('\\/<>"')
        assert not kept.startswith(".")
        assert base_name(kept) == kept

    always(st.text(max_size=300) | st.lists(st.sampled_from(["..", "/", "\\", "C:", "a", ".", "\0"])).map("".join), law)


def test_a_name_by_query_may_hold_any_character(client: TestClient, mri_file: bytes) -> None:
    def law(name: str) -> None:
        answer = client.post(f"/v1/scans?filename={quote(name)}", content=mri_file + name.encode())
        assert answer.status_code in (200, 201), answer.text
        client.delete(answer.headers["location"])

    always(TEXTS, law)

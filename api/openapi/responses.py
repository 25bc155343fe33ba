"""Responses of operations in the OpenAPI document: models and files with examples, and problems by their status."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from udig_recon.api.http import problems
from udig_recon.api.openapi.content import JOB_ID, Content, component, example_of

_PROBLEMS: dict[int, tuple[type[problems.Problem], str, list[dict[str, str]] | None]] = {
    400: (problems.BadRequest, "Content-Length says 7864320 bytes, 5000 came", None),
    401: (problems.Unauthenticated, "send an API key as `Authorization: Bearer udig_...`", None),
    403: (problems.Forbidden, "this key lacks the scope write", None),
    404: (problems.NotFound, f"there is no job {JOB_ID}; GET /v1/jobs lists those there are", None),
    406: (
        problems.NotAcceptable,
        "a result cannot be made as text/html",
        [{"field": "Accept", "found": "text/html", "expected": "application/x-hdf5 | image/png"}],
    ),
    409: (problems.Conflict, "the job is running; its result is there when it has succeeded", None),
    410: (problems.Gone, "the result's files are kept no longer; post the job again", None),
    412: (
        problems.PreconditionFailed,
        'this is "5d41402a"',
        [{"field": "If-Match", "found": '"0cc175b9"', "expected": '"5d41402a"'}],
    ),
    413: (
        problems.TooLarge,
        "the body has more than 8589934592 bytes, the limit of this service (MAX_UPLOAD_BYTES)",
        [{"field": "body", "found": "9000000000 bytes", "expected": "at most 8589934592 bytes"}],
    ),
    415: (
        problems.UnknownMedia,
        "the file is of no known format",
        [{"field": "file", "found": "text", "expected": "HDF5 | npy | npz"}],
    ),
    416: (
        problems.RangeOutside,
        "the file has 5000 bytes",
        [{"field": "Range", "found": "bytes=9000-", "expected": "a start below 5000"}],
    ),
    422: (
        problems.Invalid,
        "parameters.outer_iterations is 0, expected >= 1",
        [{"field": "parameters.outer_iterations", "found": "0", "expected": ">= 1"}],
    ),
    423: (problems.Locked, "another request works on this upload; try again", None),
    460: (
        problems.ChecksumMismatch,
        "the bytes that came are not those of the checksum; send them again",
        [{"field": "Upload-Checksum", "found": "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", "expected": "that of the bytes"}],
    ),
    429: (problems.QuotaExceeded, "this key may have 20 jobs queued or running (max_open_jobs)", None),
    500: (problems.Damaged, f"reconstruction.h5 of job {JOB_ID} is damaged on the disk and is not sent", None),
    503: (problems.Unavailable, "the database does not answer; the same request may be sent again", None),
    507: (problems.DiskFull, "less than the reserve of 1073741824 bytes would stay free (DISK_RESERVE_BYTES)", None),
}
_HEADERS: dict[int, tuple[str, ...]] = {
    201: ("Location",),
    202: ("Location", "Retry-After"),
    304: ("ETag",),
    307: ("Location", "ETag", "Repr-Digest"),
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}


OF_ACCESS = (401, 403, 429)
"""What every operation that needs a key may answer."""
Answer = type[BaseModel] | Content | list[Content]


def request_header(name: str, example: str) -> dict[str, Any]:
    """A header that a request may have, as a parameter of its operation."""
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "example": example}


FILE_REQUEST_HEADERS = [
    request_header("Range", "bytes=1048576-"),
    request_header("If-Range", '"9f86d081884c7d65"'),
    request_header("If-None-Match", '"9f86d081884c7d65"'),
]
"""Headers of a request for a file that may be sent in parts."""


def responses(good: dict[int, Answer], *others: int, public: bool = False) -> dict[int | str, dict[str, Any]]:
    """`responses` of an operation: its answers by status, and the other statuses, whose bodies are problems.

    An operation that needs a key (not `public`) may answer 401, 403 and 429. One with an entity tag (304) heeds
    If-Match, and one that has a tag or takes input (422) reads the database and is limited.
    """
    statuses = set(others)
    if not public:
        statuses |= {*OF_ACCESS}
    if 304 in others:
        statuses.add(412)
    if 304 in others or 422 in others:
        statuses |= {429, 503}
    documented = {status: _response(status) | _answer(answer) for status, answer in good.items()}
    for status in sorted(statuses):
        documented[status] = _response(status)
        if status in _PROBLEMS:
            content = {"schema": component(problems.ProblemOut), "example": _problem(status)}
            documented[status]["content"] = {problems.MEDIA_TYPE: content}
    return documented  # type: ignore[return-value]


def _answer(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, type):
        return {"model": answer, "content": {"application/json": {"example": example_of(answer)}}}
    content = {}
    for each in [answer] if isinstance(answer, Content) else answer:
        entry = {"example": each.example, "schema": each.schema, "itemSchema": each.item_schema}
        content[each.media_type] = {name: value for name, value in entry.items() if value is not None}
    return {"content": content}


def _response(status: int) -> dict[str, Any]:
    headers = {name: {"schema": {"type": "string"}} for name in _HEADERS.get(status, ())}
    known = {each.value for each in HTTPStatus}
    phrase = HTTPStatus(status).phrase if status in known else _PROBLEMS[status][0].title
    return {"description": phrase} | ({"headers": headers} if headers else {})


def _problem(status: int) -> dict[str, Any]:
    kind, detail, errors = _PROBLEMS[status]
    document = {
        "type": kind.uri(),
        "title": kind.title,
        "status": status,
        "detail": detail,
        "instance": f"/v1/jobs/{JOB_ID}",
    }
    return document | ({"errors": errors} if errors else {})

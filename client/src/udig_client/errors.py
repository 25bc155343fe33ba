"""Exceptions of the client: problem documents of the service (RFC 9457) by their kind, and what fails on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

    from udig_client.models import Job

_PREFIX = "urn:udig-recon:problem:"


class UdigError(Exception):
    """Base of every error that this client raises on purpose."""


@dataclass(frozen=True)
class FieldError:
    """One field of the input that is wrong."""

    field: str
    found: str
    expected: str


class ProblemError(UdigError):
    """The service refused a request; subclasses are the kinds of problems.

    `status` is the HTTP status, `type` the URI of the kind, `title` the kind in words, `detail` what went wrong this
    time, `errors` the wrong fields with what was `found` and `expected`, and `retry_after` the seconds after which
    the same request may be sent again. `document` is the whole problem document.
    """

    def __init__(self, status: int, document: Mapping[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.document = dict(document)
        self.type = str(document.get("type", "about:blank"))
        self.title = str(document.get("title", f"HTTP {status}"))
        self.detail = str(document.get("detail", ""))
        self.instance = str(document.get("instance", ""))
        self.errors = [
            FieldError(str(each.get("field", "")), str(each.get("found", "")), str(each.get("expected", "")))
            for each in document.get("errors") or ()
            if isinstance(each, Mapping)
        ]
        self.retry_after = retry_after
        super().__init__(self._message())

    def _message(self) -> str:
        message = f"{self.title}: {self.detail}" if self.detail else self.title
        wrong = [
            f"{each.field}: found {each.found or 'nothing'}, expected {each.expected}"
            for each in self.errors
            if each.found not in self.detail or each.expected not in self.detail
        ]
        return "; ".join([message, *wrong])


class BadRequest(ProblemError):
    """The body broke its own framing, length or hash (400)."""


class Unauthenticated(ProblemError):
    """No valid API key came with the request (401)."""

    def _message(self) -> str:
        return f"{super()._message()} (here: Client(url, key), or UDIG_KEY)"


class Forbidden(ProblemError):
    """The API key may not do this (403)."""


class NotFound(ProblemError):
    """There is no scan, job or file of that name (404)."""


class NotAcceptable(ProblemError):
    """The result cannot be made in that format (406)."""


class Conflict(ProblemError):
    """The scan or job is not in a state that allows it (409)."""


class Gone(ProblemError):
    """It was there, but is kept no longer (410)."""


class TooLarge(ProblemError):
    """The file or body is larger than the service takes (413)."""


class UnsupportedMedia(ProblemError):
    """The bytes or their media type are of no known format (415)."""


class InvalidRequest(ProblemError):
    """The request has wrong values, listed in `errors` (422)."""


class InvalidScan(UnsupportedMedia, InvalidRequest):
    """The uploaded file is no scan that the service reads: of no known format (415), or broken (422)."""


class QuotaExceeded(ProblemError):
    """The key or its tenant has had what it may have for now (429)."""


class TooManyJobs(QuotaExceeded):
    """As many jobs are queued or running as may be (429)."""


class Locked(ProblemError):
    """Another request works on the upload (423)."""


class Unavailable(ProblemError):
    """Something that the service needs is away for the moment (503)."""


class OutcomeUnknown(Unavailable):
    """The service cannot tell whether the request took effect (503): look before sending it again."""


class DiskFull(ProblemError):
    """The service has no room for it (507)."""


class ServiceError(ProblemError):
    """The service failed (5xx)."""


class DamagedOnServer(ServiceError):
    """The bytes of a stored file are not those that were written, so the service does not send them (500)."""


_BY_TYPE: dict[str, type[ProblemError]] = {
    "damaged": DamagedOnServer,
    "outcome-unknown": OutcomeUnknown,
    "too-many-jobs": TooManyJobs,
}
_BY_STATUS: dict[int, type[ProblemError]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    406: NotAcceptable,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    415: UnsupportedMedia,
    422: InvalidRequest,
    423: Locked,
    429: QuotaExceeded,
    503: Unavailable,
    507: DiskFull,
}


class ServiceUnreachable(UdigError):
    """No answer came from the service."""


class UnexpectedAnswer(UdigError):
    """The answer is none that a uDiG Recon service gives; most often the URL is that of something else."""


class JobFailed(UdigError):
    """A job ended without a result: `job.status` is `failed` or `cancelled`, and `problem` says why."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.problem = job.error or {}
        reason = self.problem.get("detail") or self.problem.get("title") or "no reason is known"
        ended = f"has failed: {reason}" if job.status == "failed" else f"was {job.status}"
        super().__init__(f"job {job.id} {ended}")


class WaitTimeout(UdigError, TimeoutError):
    """The time to wait is over, and the job goes on."""


class DamagedDownload(UdigError):
    """The bytes that came are not those that the service sent, again and again."""


class DamagedUpload(UdigError):
    """The bytes that arrived are not those of the file."""


class UploadInterrupted(UdigError):
    """An upload was cut off; `upload(path, resume=error.upload_id)` goes on where it ended."""

    def __init__(self, upload_id: str, offset: int, reason: str) -> None:
        self.upload_id = upload_id
        self.offset = offset
        super().__init__(f"{reason}; {offset} bytes have arrived, and upload {upload_id} can be resumed")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a `Retry-After` header, which is a number or a date (RFC 9110, 10.2.3); None without one."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return None


def problem_of(response: httpx.Response, kinds: Mapping[int, type[ProblemError]] | None = None) -> ProblemError:
    """The exception of an answer that refuses; `kinds` are those of this operation, by status.

    An answer without a problem document, as a proxy may send, gets one from its status.
    """
    document: Any = None
    if "json" in response.headers.get("content-type", ""):
        try:
            document = response.json()
        except ValueError:
            document = None
    if not isinstance(document, Mapping):
        document = {"title": f"{response.status_code} {response.reason_phrase}".strip()}
    kind_of = str(document.get("type", "")).removeprefix(_PREFIX)
    fallback = ServiceError if response.status_code >= 500 else ProblemError
    kind = _BY_TYPE.get(kind_of) or {**_BY_STATUS, **(kinds or {})}.get(response.status_code, fallback)
    return kind(response.status_code, document, retry_after(response.headers))

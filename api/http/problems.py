"""Problem documents (RFC 9457): one exception for each kind of error that a client is answered with."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
LONGEST_FOUND = 120  # characters of a wrong value in an answer
LONGEST_DETAIL = 2000  # of what is wrong: it may quote what a client sent
MOST_ERRORS = 100  # wrong fields in one answer


class FieldError(BaseModel):
    """One field of the input that is wrong."""

    field: str = Field(description="where it stands")
    found: str = Field(description="what stands there")
    expected: str = Field(description="what would be right")


class ProblemOut(BaseModel):
    """Problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="URI of the kind of problem")
    title: str = Field(description="the kind in words")
    status: int = Field(description="HTTP status")
    detail: str = Field(description="what went wrong this time")
    instance: str = Field(description="path of the request")
    errors: list[FieldError] | None = Field(None, description="the wrong fields of the input")


class Problem(Exception):
    """The service failed; every other problem is a subclass with its own status and title."""

    status: ClassVar[int] = HTTPStatus.INTERNAL_SERVER_ERROR
    title: ClassVar[str] = "Internal Server Error"
    retry_seconds: ClassVar[int | None] = None  # after which the same request may be sent again

    def __init__(
        self, detail: str, *, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(truncate(detail, LONGEST_DETAIL))
        self.errors = list(errors)[:MOST_ERRORS]
        self.headers = dict(headers or {})
        self.more = more

    @classmethod
    def uri(cls) -> str:
        """Its type, from the name of the class."""
        return "urn:udig-recon:problem:" + re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    def at(cls, field: str, detail: str, *, found: str, expected: str) -> Self:
        """A problem with one field of the input."""
        return cls(detail, errors=[FieldError(field=field, found=truncate(found), expected=expected)])

    def response(self, instance: str) -> Response:
        """Its document, as the answer to a request for the path `instance`."""
        body = ProblemOut(
            type=self.uri(),
            title=self.title,
            status=self.status,
            detail=str(self),
            instance=instance,
            errors=self.errors or None,
            **self.more,
        )
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if self.retry_seconds is not None:
            headers["Retry-After"] = str(self.retry_seconds)
        headers |= self.headers
        return Response(body.model_dump_json(exclude_none=True), self.status, headers, MEDIA_TYPE)


class Damaged(Problem):
    """The bytes of a stored file are not those that were written, so they are not sent."""

    title = "Stored file damaged"


class BadRequest(Problem):
    """The body breaks its own framing, length or hash."""

    status = HTTPStatus.BAD_REQUEST
    title = "Bad Request"


class Unauthenticated(Problem):
    """No valid API key came with the request."""

    status = HTTPStatus.UNAUTHORIZED
    title = "Unauthorized"


class Forbidden(Problem):
    """The API key may not do this."""

    status = HTTPStatus.FORBIDDEN
    title = "Forbidden"


class Proxied(Problem):
    """The request came by way of a proxy to a service that asks for no key."""

    status = HTTPStatus.FORBIDDEN
    title = "Proxied request"


class NotFound(Problem):
    """No scan, job, picture or route of that name."""

    status = HTTPStatus.NOT_FOUND
    title = "Not Found"


class MethodNotAllowed(Problem):
    """The path exists, but not for this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    title = "Method Not Allowed"


class NotAcceptable(Problem):
    """None of the accepted media types can be made."""

    status = HTTPStatus.NOT_ACCEPTABLE
    title = "Not Acceptable"


class Conflict(Problem):
    """The scan or job is not in a state that allows it."""

    status = HTTPStatus.CONFLICT
    title = "Conflict"


class Gone(Problem):
    """The result was there, but its files are kept no longer."""

    status = HTTPStatus.GONE
    title = "Gone"


class PreconditionFailed(Problem):
    """If-Match names another representation."""

    status = HTTPStatus.PRECONDITION_FAILED
    title = "Precondition Failed"


class TimedOut(Problem):
    """The headers or the body did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    title = "Request Timeout"


class TooLarge(Problem):
    """The body is larger than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    title = "Content Too Large"


class HeadTooLarge(Problem):
    """The header fields are too many or too long."""

    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    title = "Request Header Fields Too Large"


class Misdirected(Problem):
    """The request calls the service by a name that is not its own."""

    status = HTTPStatus.MISDIRECTED_REQUEST
    title = "Misdirected Request"


class UnknownMedia(Problem):
    """The bytes or their media type are of no known format."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    title = "Unsupported Media Type"


class Locked(Problem):
    """Another request works on the upload."""

    status = HTTPStatus.LOCKED
    title = "Locked"
    retry_seconds = 1


class ChecksumMismatch(Problem):
    """The bytes of the request are not those that its checksum names; a status of the tus protocol."""

    status = 460
    title = "Checksum Mismatch"


class RangeOutside(Problem):
    """The Range begins behind the end of the file."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    title = "Range Not Satisfiable"


class Invalid(Problem):
    """The input has wrong values, listed in `errors`."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    title = "Unprocessable Content"


class TooManyJobs(Problem):
    """As many jobs are open as the settings allow."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    title = "Too many open jobs"
    retry_seconds = 30


class TooManyAtOnce(Problem):
    """The client has its share of what may go on at once."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    title = "Too many concurrent requests"
    retry_seconds = 5


class QuotaExceeded(Problem):
    """The API key has had what it may have for now."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    title = "Quota exceeded"


class Unavailable(Problem):
    """Something that the service needs is away for the moment."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Service Unavailable"
    retry_seconds = 5


class OutcomeUnknown(Problem):
    """The database fell silent while the request took effect: it may have, or not."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Outcome unknown"


class Overloaded(Problem):
    """All that may go on at once does."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    title = "Server overloaded"
    retry_seconds = 5


class DiskFull(Problem):
    """Storing it would touch the reserve of the disk."""

    status = HTTPStatus.INSUFFICIENT_STORAGE
    title = "Insufficient Storage"


def truncate(value: object, longest: int = LONGEST_FOUND) -> str:
    """A wrong value, shortened for an answer."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."

"""The tus protocol, version 1.0 (https://tus.io/protocols/resumable-upload): its headers, and what they must be."""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from udig_recon.api.http.problems import BadRequest, Invalid, PreconditionFailed
from udig_recon.api.scans.upload import base_name

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,termination,checksum"
ALGORITHMS = ("sha256", "sha1")
PATH = "/v1/uploads"
MEDIA_TYPE = "application/offset+octet-stream"
REQUEST_HEADERS = (
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Checksum",
    "X-HTTP-Method-Override",
)
"""Headers of requests that a page of another site must be allowed to send."""

RESPONSE_HEADERS = (
    "Location",
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Upload-Length",
    "Upload-Offset",
    "Upload-Metadata",
    "Upload-Expires",
)
"""Headers of answers that a page of another site must be allowed to read."""

_NUMBER = re.compile(r"[0-9]{1,18}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OVERRIDABLE = ("PATCH", "DELETE", "HEAD")


class Checksum(NamedTuple):
    """What the bytes of one request must hash to."""

    algorithm: str
    digest: bytes

    def __str__(self) -> str:
        return f"{self.algorithm} {base64.b64encode(self.digest).decode()}"


class Metadata(NamedTuple):
    """What is kept of Upload-Metadata."""

    filename: str = ""
    sha256: str | None = None

    @classmethod
    def of(cls, header: str) -> "Metadata":
        """From the header: pairs of a key and a base64 value. Unknown keys are left out. Raises Invalid."""
        given: dict[str, str] = {}
        for pair in filter(None, (part.strip() for part in header.split(","))):
            key, _, value = pair.partition(" ")
            if key in given:
                raise _bad_metadata(f"the key {key!r} comes twice", pair)
            try:
                given[key] = base64.b64decode(value.strip(), validate=True).decode()
            except ValueError:  # also for letters beyond ASCII, which a header may hold
                raise _bad_metadata(f"the value of {key!r} is not base64 of UTF-8", pair) from None
        sha256 = given.get("sha256")
        if sha256 is not None and _SHA256.fullmatch(sha256) is None:
            raise _bad_metadata("sha256 is not the SHA-256 of the file as 64 hexadecimal digits", sha256)
        return cls(base_name(given.get("filename", "")), sha256)

    def __str__(self) -> str:
        kept = {name: value for name, value in self._asdict().items() if value}
        return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in kept.items())


def _bad_metadata(detail: str, found: str) -> Invalid:
    expected = "pairs of a key and its value in base64, divided by commas: `filename`, `sha256`"
    return Invalid.at("Upload-Metadata", detail, found=found, expected=expected)


def check_version(headers: Headers) -> None:
    """Raise PreconditionFailed where the client speaks another version. One that names none is taken for 1.0.0."""
    if (version := headers.get("tus-resumable", VERSION)) != VERSION:
        error = PreconditionFailed.at("Tus-Resumable", f"this is tus {VERSION}", found=version, expected=VERSION)
        error.headers["Tus-Version"] = VERSION
        raise error


def length_of(headers: Headers) -> int:
    """Upload-Length of a new upload. Raises Invalid."""
    for name, reason in (
        ("Upload-Defer-Length", "the length must be known when the upload is created"),
        ("Upload-Concat", "uploads are not concatenated"),
    ):
        if name in headers:
            raise Invalid.at(name, reason, found=headers[name], expected="Upload-Length alone")
    length = _number(headers, "Upload-Length")
    if length == 0:
        raise Invalid.at("Upload-Length", "an empty file is no scan", found="0", expected=">= 1")
    return length


def offset_of(headers: Headers) -> int:
    """Upload-Offset of bytes that come. Raises Invalid."""
    return _number(headers, "Upload-Offset")


def _number(headers: Headers, name: str) -> int:
    found = headers.get(name)
    if found is None or _NUMBER.fullmatch(found) is None:
        raise Invalid.at(name, f"{name} is a number of bytes", found=found or "nothing", expected=">= 0")
    return int(found)


def checksum_of(headers: Headers) -> Checksum | None:
    """Upload-Checksum of the bytes that come, where the client sends one. Raises BadRequest, as the protocol asks."""
    header = headers.get("upload-checksum")
    if header is None:
        return None
    algorithm, _, value = header.strip().partition(" ")
    expected = " | ".join(f"{name} <base64>" for name in ALGORITHMS)
    if algorithm not in ALGORITHMS:
        detail = f"checksums are made by {' or '.join(ALGORITHMS)}"
        raise BadRequest.at("Upload-Checksum", detail, found=header, expected=expected)
    try:
        return Checksum(algorithm, base64.b64decode(value, validate=True))
    except ValueError:
        raise BadRequest.at("Upload-Checksum", "this is not base64", found=header, expected=expected) from None


def http_date(moment: datetime) -> str:
    """A date as HTTP writes it."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def capabilities(max_upload_bytes: int) -> Mapping[str, str]:
    """What the server tells of itself."""
    return {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }


class TusMiddleware:
    """Names the protocol's version in every answer below /v1/uploads, and heeds X-HTTP-Method-Override there."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not (scope["path"] == PATH or scope["path"].startswith(f"{PATH}/")):
            await self.app(scope, receive, send)
            return

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Tus-Resumable"] = VERSION
            await send(message)

        wanted = Headers(scope=scope).get("x-http-method-override", "").upper()
        if scope["method"] == "POST" and wanted in _OVERRIDABLE:
            scope = {**scope, "method": wanted}
        await self.app(scope, receive, send_named)

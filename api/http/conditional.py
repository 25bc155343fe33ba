"""Content negotiation (Accept), conditional requests (ETag, If-None-Match) and range requests (RFC 9110)."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate, parsedate_to_datetime
from itertools import chain
from typing import Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from udig_recon.api.http.problems import NotAcceptable, PreconditionFailed, Problem, RangeOutside
from udig_recon.core.files.atomic import DamagedFile
from udig_recon.worker.storage.base import StorageUnavailable
from udig_recon.worker.storage.integrity import Verified

# Several ranges at once are answered with the whole file, as RFC 9110 allows.
SINGLE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class Representation(Protocol):
    """What an answer can be made as."""

    @property
    def media_type(self) -> str:
        """Its media type."""
        ...


Chosen = TypeVar("Chosen", bound=Representation)


def negotiate_format(accept: str, fallback: Chosen, all_: Iterable[Chosen], what: str = "a result") -> Chosen:
    """The best of all formats by the Accept header; `fallback` where the client does not mind."""
    ranges = [_media_range(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return fallback
    preferred = [fallback, *(each for each in all_ if each is not fallback)]
    weights = [_weight(each.media_type, ranges) for each in preferred]
    best = max(weights)
    if best <= 0:
        offered = " | ".join(each.media_type for each in all_)
        raise NotAcceptable.at("Accept", f"{what} cannot be made as {accept}", found=accept, expected=offered)
    return preferred[weights.index(best)]


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return name, float(weight)
    except ValueError:
        return name, 0.0


def _weight(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """The weight of the most specific range that covers the media type (RFC 9110, 12.5.1)."""
    for pattern in (media_type, media_type.split("/")[0] + "/*", "*/*"):
        fitting = [weight for name, weight in ranges if name == pattern]
        if fitting:
            return max(fitting)
    return 0.0


def etag_of(content: bytes) -> str:
    """A strong entity tag, from the bytes themselves."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def not_modified(request: Request, etag: str, modified: float | None = None) -> bool:
    """Evaluate If-Match, If-None-Match and If-Modified-Since (RFC 9110, 13.2.2); True asks for 304."""
    headers = request.headers
    if (wanted := headers.get("if-match")) and not _names(wanted, etag):
        raise PreconditionFailed.at("If-Match", f"this is {etag}", found=wanted, expected=etag)
    if known := headers.get("if-none-match"):
        return _names(known, etag)
    since = headers.get("if-modified-since")
    if since is None or modified is None:
        return False
    try:
        return int(modified) <= parsedate_to_datetime(since).timestamp()
    except (ValueError, OverflowError):
        return False


def _names(header: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or etag in tags


def with_etag(request: Request, content: bytes, media_type: str, headers: dict[str, str] | None = None) -> Response:
    """An answer with an entity tag, or 304 when the client has these very bytes."""
    etag = etag_of(content)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", **(headers or {})}
    if not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(content, 200, headers, media_type)


def file_headers(sha256: str) -> dict[str, str]:
    """Entity tag and digest (RFC 9530) of a stored file."""
    return {
        "ETag": f'"{sha256}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "Cache-Control": "private, no-cache",
    }


def json_with_etag(request: Request, body: BaseModel, headers: dict[str, str] | None = None) -> Response:
    """A model as an answer with an entity tag."""
    return with_etag(request, body.model_dump_json().encode(), "application/json", headers)


def file_response(
    request: Request,
    file: Verified,
    media_type: str,
    filename: str,
    headers: dict[str, str],
    damaged: Callable[[], Problem],
) -> Response:
    """A verified file, or the one range of it that is asked for (RFC 9110, 14); `headers` hold its ETag.

    Call it in a thread: the first block is read here and compared with its digest. Raises what `damaged` makes where
    that fails. Where a later block fails, the connection is broken off, so that no client takes what came for the file.
    A Range that cannot be used, or several, is answered with the whole file. Raises RangeOutside behind the end.
    """
    size = file.info.size
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": content_disposition(filename),
        "Content-Length": str(size),
        "Last-Modified": formatdate(int(file.info.modified), usegmt=True),
        **headers,
    }
    if request.scope.get("head"):  # without a body Range means nothing
        return Response(b"", 200, headers, media_type)
    part = _parse_requested_range(request, size, headers)
    start, end = part or (0, size)
    if part is not None:
        headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}", "Content-Length": str(end - start)}
    blocks = _blocks(file, start, end, damaged)
    first = next(blocks, b"")
    return StreamingResponse(chain([first], blocks), 200 if part is None else 206, headers, media_type)


def content_disposition(filename: str) -> str:
    """The header that has a client save a file under its name (RFC 6266), whatever the name is made of (RFC 8187)."""
    plain = re.sub(r"[^ !#-\[\]-~]|%", "_", filename)
    encoded = "" if plain == filename else f"; filename*=UTF-8''{quote(filename, safe='')}"
    return f'attachment; filename="{plain}"{encoded}'


def _blocks(file: Verified, start: int, end: int, damaged: Callable[[], Problem]) -> Iterator[bytes]:
    if start == end:
        return
    try:
        yield from file.read(start, end)
    except StorageUnavailable:
        raise
    except (DamagedFile, OSError) as error:
        raise damaged() from error


def _parse_requested_range(request: Request, size: int, headers: dict[str, str]) -> tuple[int, int] | None:
    wanted, condition = request.headers.get("range"), request.headers.get("if-range")
    if wanted is None or (condition is not None and condition not in (headers["ETag"], headers["Last-Modified"])):
        return None
    return parse_range(wanted, size)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """First byte and end of the single range in a Range header, None where it names none. Raises RangeOutside."""
    match = SINGLE_RANGE.fullmatch(header.strip().lower())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else size - min(int(last), size)
    if start >= size:
        problem = RangeOutside.at("Range", f"the file has {size} bytes", found=header, expected=f"a start below {size}")
        problem.headers["Content-Range"] = f"bytes */{size}"
        raise problem
    return start, min(int(last) + 1, size) if first and last else size

"""Representations: which one is wanted, whether the client has it already, and which part of it is missing."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from udig_recon.api.http.problems import NotAcceptable, PreconditionFailed, Problem, RangeOutside
from udig_recon.core.files.atomic import DamagedFile
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


def json_with_etag(request: Request, body: BaseModel, headers: dict[str, str] | None = None) -> Response:
    """A model as an answer with an entity tag."""
    return with_etag(request, body.model_dump_json().encode(), "application/json", headers)


class StoredFileResponse(FileResponse):
    """A verified file and one range of it. A Range that cannot be used is ignored, one behind the end is a problem.

    Each block is compared with its digest before it leaves. Where one is another, what `damaged` gives is the answer,
    or, when that has begun, the connection is broken off: no client takes what came for the file.
    """

    def __init__(
        self,
        file: Verified,
        media_type: str,
        filename: str,
        headers: dict[str, str],
        damaged: Callable[[], Problem],
    ) -> None:
        times = (int(file.info.modified),) * 3
        described = os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, file.info.size, *times))
        super().__init__(file.key, 200, headers, media_type, filename=filename, stat_result=described)
        self._file, self._damaged = file, damaged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or its headers alone for HEAD, where Range means nothing (RFC 9110, 14.2)."""
        if scope.get("head"):
            unranged = [pair for pair in scope["headers"] if pair[0] != b"range"]
            scope = {**scope, "method": "HEAD", "headers": unranged}
        await super().__call__(scope, receive, send)

    async def _handle_simple(self, send: Send, send_header_only: bool, send_pathsend: bool) -> None:  # noqa: ARG002
        await self._send(send, 200, self.raw_headers, None if send_header_only else (0, self._file.info.size))

    async def _handle_single_range(
        self, send: Send, start: int, end: int, file_size: int, send_header_only: bool
    ) -> None:
        headers = MutableHeaders(raw=list(self.raw_headers))
        headers["content-range"] = f"bytes {start}-{end - 1}/{file_size}"
        headers["content-length"] = str(end - start)
        await self._send(send, 206, headers.raw, None if send_header_only else (start, end))

    async def _send(
        self, send: Send, status: int, headers: list[tuple[bytes, bytes]], part: tuple[int, int] | None
    ) -> None:
        """The head, once the first block is known to be right, and the blocks."""
        head: Message = {"type": "http.response.start", "status": status, "headers": headers}
        if part is None or part[0] == part[1]:
            await send(head)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        blocks = self._file.read(*part)
        left = part[1] - part[0]
        while left:
            try:
                block = await run_in_threadpool(next, blocks)
            except (DamagedFile, OSError) as error:
                raise await run_in_threadpool(self._damaged) from error
            if left == part[1] - part[0]:
                await send(head)
            left -= len(block)
            await send({"type": "http.response.body", "body": block, "more_body": left > 0})

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        match = SINGLE_RANGE.fullmatch(http_range.strip().lower())
        if match is None or match.groups() == ("", ""):
            return []
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return []
        start = int(first) if first else file_size - min(int(last), file_size)
        if start >= file_size:
            problem = RangeOutside.at(
                "Range", f"the file has {file_size} bytes", found=http_range, expected=f"a start below {file_size}"
            )
            problem.headers["Content-Range"] = f"bytes */{file_size}"
            raise problem
        return [(start, min(int(last) + 1, file_size) if first and last else file_size)]

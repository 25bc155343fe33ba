"""Streaming parser of multipart/form-data: a file goes to storage once, and memory never holds all of it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from udig_recon.api.http.problems import BadRequest, UnknownMedia

MOST_PARTS = 16  # far more than any form here has


@dataclass
class Part:
    """Headers of one part (names in lower case)."""

    name: str
    filename: str | None
    headers: dict[str, str] = field(default_factory=dict)


Event = Part | bytes | None
"""A part begins | bytes of it | it ends."""


class PartReader:
    """Turns the body's chunks into events."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise UnknownMedia.at(
                "Content-Type",
                "the body is no multipart form",
                found=content_type or "nothing",
                expected="multipart/form-data; boundary=...",
            )
        self._events: list[Event] = []
        self._headers: dict[str, str] = {}
        self._header = [b"", b""]
        self._ended = False
        self._parts = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": lambda data, start, end: self._events.append(data[start:end]),
                    "on_part_end": lambda: self._events.append(None),
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise UnknownMedia.at(
                "Content-Type",
                f"the form's boundary cannot be used: {error}",
                found=f"a boundary of {len(boundary)} bytes",
                expected="at most 70 bytes",
            ) from error

    async def events(self, stream: AsyncIterator[bytes]) -> AsyncIterator[Event]:
        """The events in order. Raises BadRequest where the body is no whole form."""
        async for chunk in stream:
            try:
                self._parser.write(chunk)
            except FormParserError as error:
                raise BadRequest(f"the multipart body is malformed: {error}") from error
            events, self._events = self._events, []
            for event in events:
                yield event
        if not self._ended:
            raise BadRequest("the multipart body ends before its closing boundary")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:  # before more of them are taken apart: they may come by thousands in one piece
            raise BadRequest(f"the form has more than {MOST_PARTS} parts")
        self._headers.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _on_header_end(self) -> None:
        name, value = (each.decode("latin-1") for each in self._header)
        self._headers[name.lower()] = value
        self._header = [b"", b""]

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        filename = options.get(b"filename")
        self._events.append(
            Part(_text(options.get(b"name", b"")), None if filename is None else _text(filename), dict(self._headers))
        )

    def _on_end(self) -> None:
        self._ended = True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")

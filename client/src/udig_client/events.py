"""Server-sent events (SSE): bytes of a stream to events, and events of a job to dataclasses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from udig_client.decode import decode
from udig_client.errors import UnexpectedAnswer
from udig_client.models import Snapshot, StatusChange

_LINE_END = re.compile(rb"\r\n|\n|\r")
LONGEST_EVENT_BYTES = 16 << 20


@dataclass(frozen=True)
class ServerEvent:
    """One event of a stream: its name, its data, and the id to go on after when the stream is cut."""

    name: str
    data: str
    id: str


class EventDecoder:
    """Decoder of one `text/event-stream`, in blocks of any size. A new stream needs a new one."""

    def __init__(self) -> None:
        self.retry_seconds: float | None = None
        """How long the server asks to wait before connecting anew."""
        self._rest = b""
        self._name, self._data, self._id = "", list[str](), ""

    def feed(self, block: bytes) -> Iterator[ServerEvent]:
        """The events that are complete with this block. Raises UnexpectedAnswer where one has no end."""
        self._rest += block
        # A return at the end may be half of a line end.
        keep = 1 if self._rest.endswith(b"\r") else 0
        whole, self._rest = self._rest[: len(self._rest) - keep], self._rest[len(self._rest) - keep :]
        *lines, last = _LINE_END.split(whole)
        self._rest = last + self._rest
        if len(self._rest) + sum(map(len, self._data)) > LONGEST_EVENT_BYTES:
            raise UnexpectedAnswer(f"an event has more than {LONGEST_EVENT_BYTES} bytes")
        for line in lines:
            if line:
                self._take(line.decode("utf-8", "replace"))
            elif self._data:
                yield ServerEvent(self._name or "message", "\n".join(self._data), self._id)
                self._name, self._data = "", []
            else:
                self._name = ""

    def _take(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isdecimal():
                self.retry_seconds = int(value) / 1000


def job_event(event: ServerEvent) -> Snapshot | StatusChange | None:
    """An event of a job; None where this client does not know its name. Raises UnexpectedAnswer."""
    if event.name not in ("status", "snapshot", "done"):
        return None
    try:
        data = json.loads(event.data)
    except ValueError as error:
        raise UnexpectedAnswer(f"the data of event {event.name} is no JSON: {event.data[:60]!r}") from error
    if event.name == "snapshot":
        return decode(Snapshot, data, "snapshot")
    return decode(StatusChange, {**data, "done": event.name == "done"}, event.name)

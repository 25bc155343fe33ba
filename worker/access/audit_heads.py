"""Heads of the audit log that leave the machine: the newest entry's number and hash, signed, every minute.

Somebody with the rights of the tables' owner or of the machine can rewrite the log, but not the heads that another
machine has kept: `udig audit verify --heads FILE` compares the log with them.
"""

import hashlib
import hmac
import json
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from udig_recon.worker.access.audit import BEGINNING, BrokenChain
from udig_recon.worker.database.tables import Audit

SYSLOG_PRIORITY = 13 * 8 + 5  # facility "log audit", severity "notice" (RFC 5424)
SEND_SECONDS = 5.0


class Head(BaseModel):
    """The newest entry of the log at one moment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    seq: int
    hash: str
    at: datetime  # when the head was taken
    signature: str  # hex HMAC-SHA256 of the other fields

    @classmethod
    def of(cls, seq: int, digest: str, at: datetime, key: bytes) -> Self:
        """A head, signed with the key."""
        return cls(seq=seq, hash=digest, at=at, signature=_signature(seq, digest, at, key))

    def is_signed_with(self, key: bytes) -> bool:
        """Whether the signature was made with this key."""
        return hmac.compare_digest(self.signature, _signature(self.seq, self.hash, self.at, key))


def newest(session: Session, key: bytes) -> Head:
    """The current head; its number is 0 where the log has no entries."""
    last = select(Audit.seq, Audit.hash).order_by(Audit.seq.desc()).limit(1)
    seq, digest = session.execute(last).one_or_none() or (0, BEGINNING)
    return Head.of(seq, digest, datetime.now(UTC), key)


def read(lines: Iterable[str]) -> list[Head]:
    """Heads, one JSON object a line; text that a log writer put before the object is skipped. Raises BrokenChain."""
    heads = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            heads.append(Head.model_validate_json(line[max(0, line.find("{")) :]))
        except ValidationError:
            raise BrokenChain(f"line {number} of the heads is no head") from None
    return heads


def verify(session: Session, heads: Iterable[Head], key: bytes) -> int:
    """Compare the log with heads; gives their number. Raises BrokenChain at the first head that the log contradicts."""
    last = session.scalar(select(Audit.seq).order_by(Audit.seq.desc()).limit(1)) or 0
    count = 0
    for head in heads:
        when = head.at.isoformat(timespec="seconds")
        if not head.is_signed_with(key):
            raise BrokenChain(f"the head of entry {head.seq}, {when}, is not signed with this key")
        if head.seq > last:
            missing = head.seq - last
            raise BrokenChain(f"the log ends at entry {last}, but reached {head.seq} at {when}: {missing} are missing")
        kept = BEGINNING if head.seq == 0 else session.scalar(select(Audit.hash).where(Audit.seq == head.seq))
        if kept != head.hash:
            raise BrokenChain(f"entry {head.seq} had the hash {head.hash} at {when} and has another by now")
        count += 1
    return count


class Destination:
    """Where heads go: a URL that the setting AUDIT_HEADS takes; syslog is RFC 5424."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = Path(parts.path) if parts.scheme == "file" else None
        self._kind = socket.SOCK_DGRAM if parts.scheme == "udp" else socket.SOCK_STREAM
        self._address = (parts.hostname, parts.port)

    def send(self, head: Head) -> None:
        """Raises OSError when it cannot be sent."""
        line = head.model_dump_json()
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(f"{line}\n")
            return
        moment = head.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = f"<{SYSLOG_PRIORITY}>1 {moment} {socket.gethostname()} udig-recon - audit.head_created - {line}"
        self._send(message.encode())

    def _send(self, message: bytes) -> None:
        found = socket.getaddrinfo(*self._address, type=self._kind)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as opened:
            opened.settimeout(SEND_SECONDS)
            opened.connect(address)
            # Over TCP a message is counted (RFC 6587, 3.4.1).
            opened.sendall(message if kind == socket.SOCK_DGRAM else b"%d %s" % (len(message), message))


def _signature(seq: int, digest: str, at: datetime, key: bytes) -> str:
    content = json.dumps([seq, digest, at.astimezone(UTC).isoformat()], separators=(",", ":"))
    return hmac.new(key, content.encode(), hashlib.sha256).hexdigest()

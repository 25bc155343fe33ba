"""The audit log: who did what to which object, and when. A hash chain reveals changed and removed entries.

The hash of an entry is the SHA-256 of the previous hash and the entry as JSON. Entries hold ids only, never names that
clients give to files, scans or jobs.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from udig_recon.worker.database import locks
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import Audit

BEGINNING = "0" * 64
SWEEP, WORKER, COURIER = "sweep", "worker", "courier"
SCAN_UPLOADED = "scan.uploaded"
READ_AT_ONCE = 1000


class Who(NamedTuple):
    """Who acts, and for which tenant."""

    tenant: str
    actor: str  # key:<id> | open | command:<uid> | worker | sweep | courier


class Entry(BaseModel):
    """One line of the log."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    seq: int
    at: datetime
    actor: str
    tenant: str
    action: str
    ids: dict[str, str]
    hash: str

    def expected_hash(self, previous: str) -> str:
        """The hash that the entry must have after an entry with the hash `previous`."""
        content = [previous, self.seq, self.at.astimezone(UTC).isoformat(), *self._who_what()]
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def _who_what(self) -> list[object]:
        return [self.actor, self.tenant, self.action, self.ids]


class BrokenChain(Exception):
    """The log is not as it was written; the message says where."""


def append(session: Session, who: Who, action: str, **ids: object) -> None:
    """Add an entry in the transaction of the action itself. Call it last before the commit: it locks the log."""
    extend(session, who, action, [ids])


def extend(session: Session, who: Who, action: str, each: Iterable[Mapping[str, object]]) -> None:
    """Add an entry for each mapping of ids, as `append` does."""
    locks.acquire(session, Lock.AUDIT)
    last = select(Audit.seq, Audit.hash).order_by(Audit.seq.desc()).limit(1)
    seq, previous = session.execute(last).one_or_none() or (0, BEGINNING)
    now = session.scalars(select(func.clock_timestamp())).one()
    for number, ids in enumerate(each, seq + 1):
        named = {name: str(value) for name, value in ids.items()}
        entry = Entry(seq=number, at=now, actor=who.actor, tenant=who.tenant, action=action, ids=named, hash="")
        previous = entry.expected_hash(previous)
        session.add(Audit(**entry.model_dump(exclude={"hash"}), hash=previous))
    session.flush()


def entries(session: Session) -> Iterator[Entry]:
    """The whole log, oldest first."""
    query = select(Audit).order_by(Audit.seq).limit(READ_AT_ONCE)
    seq = 0
    while rows := session.scalars(query.where(Audit.seq > seq)).all():
        seq = rows[-1].seq
        yield from map(Entry.model_validate, rows)


def verify_entries(log: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries, each verified. Raises BrokenChain at the first that does not follow from the one before it."""
    seq, previous = 0, BEGINNING
    for entry in log:
        if entry.seq != seq + 1:
            raise BrokenChain(f"entry {seq + 1} is missing: entry {entry.seq} stands in its place")
        if entry.hash != entry.expected_hash(previous):
            raise BrokenChain(f"entry {entry.seq} is not what was written: its hash should be {entry.hash}")
        seq, previous = entry.seq, entry.hash
        yield entry


def holds(session: Session, entry: Entry) -> bool:
    """Whether the log still contains an exported entry, and therefore all entries before it."""
    kept = session.get(Audit, entry.seq)
    return kept is not None and Entry.model_validate(kept) == entry

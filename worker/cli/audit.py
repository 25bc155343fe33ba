"""`udig audit`: export and verify the audit log."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy.orm import Session

from udig_recon.worker.access import audit as audit_log
from udig_recon.worker.access.audit import BrokenChain, Entry
from udig_recon.worker.cli.session import Refused
from udig_recon.worker.settings import Settings


def verify_log(session: Session, exported: Path | None = None) -> Entry | None:
    """The last entry of the log, once all are verified and an exported log is part of it. Raises BrokenChain."""
    old = None if exported is None else _last(read_exported(exported))
    last = _last(audit_log.entries(session))
    if old is not None and not audit_log.holds(session, old):
        raise BrokenChain(f"entry {old.seq} was exported as {old.hash}, and is another or gone by now")
    return last


def read_exported(path: Path) -> Iterator[Entry]:
    """The entries in a file that `udig audit export` wrote. Raises BrokenChain where a line is no entry."""
    with path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                yield Entry.model_validate_json(line)
            except ValidationError:
                raise BrokenChain(f"{path}: line {number} is no entry") from None


def audit_key(settings: Settings) -> bytes:
    """The key of AUDIT_KEY, or of the service that `udig serve` starts on DATA. Raises Refused."""
    if settings.audit_key is not None:
        return settings.audit_key.get_secret_value().encode()
    path = settings.data / "audit.key"
    if not path.exists():
        raise Refused("AUDIT_KEY is not set; without it nobody can tell heads from forged ones")
    return path.read_text().strip().encode()


def _last(log: Iterator[Entry]) -> Entry | None:
    tail = deque(audit_log.verify_entries(log), maxlen=1)
    return tail[0] if tail else None

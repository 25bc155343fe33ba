"""Audit log of reads and refusals, which change no row; repeated ones are written once a minute with their number."""

import asyncio
import logging
import threading
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.http.repeated_events import MOST_KINDS, EventDeduplicator, RepeatedEvents
from udig_recon.api.http.threads import run_uncancelled
from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import Who
from udig_recon.worker.database.engine import AWAY

log = logging.getLogger(__name__)
WRITE_SECONDS = 1.0
NOBODY = Who("", "unknown")  # a client without a valid key
READS = {  # of metadata; images have entries of their own
    "/v1/scans": "scans.listed",
    "/v1/scans/{scan_id}": "scan.read",
    "/v1/uploads": "uploads.listed",
    "/v1/uploads/{upload_id}": "upload.read",
    "/v1/direct-uploads/{upload_id}": "upload.read",
    "/v1/jobs": "jobs.listed",
    "/v1/jobs/{job_id}": "job.read",
    "/v1/jobs/{job_id}/progress": "job.read",
    "/jobs": "jobs.listed",
    "/jobs/{job_id}": "job.read",
    "/jobs/{job_id}/summary": "job.read",
    "/v1/jobs/{job_id}/events": "job.read",
    "/v1/comparisons": "comparisons.listed",
    "/v1/comparisons/{comparison_id}": "comparison.read",
    "/v1/comparisons/{comparison_id}/table": "comparison.read",
    "/v1/comparisons/{comparison_id}/ranking": "comparison.read",
    "/v1/workers": "workers.listed",
    "/v1/destinations": "destinations.listed",
    "/comparisons": "comparisons.listed",
    "/comparisons/new": "scans.listed",
    "/comparisons/{comparison_id}": "comparison.read",
    "/workers": "workers.listed",
    "/v1/keys": "keys.listed",
    "/v1/tenant": "tenant.read",
}
REFUSALS = frozenset({401, 403, 404, 429})
_Kind = tuple[Who, str, str]
"""Who did what; and to what, where that has an entry of its own."""


class AuditRecorder:
    """Counts and writes. An entry stands for itself, or for as many as its `count` says within a minute."""

    def __init__(self, sessions: sessionmaker[Session], max_kinds: int = MOST_KINDS) -> None:
        self._sessions = sessions
        # A client that reads very much hides no reads of others.
        self._folding: EventDeduplicator[_Kind] = EventDeduplicator(nothing_is_lost=True, max_kinds=max_kinds)
        self._first: deque[RepeatedEvents[_Kind]] = deque()
        self._writing = threading.Lock()

    def note(self, who: Who, action: str, **ids: object) -> None:
        """Write down at once what is about to be done; folded where the same was, within the last minute."""
        named = {name: str(value) for name, value in ids.items()}
        if self._folding.is_first((who, action, str(sorted(named.items()))), **named):
            with self._sessions.begin() as session:
                audit.append(session, who, action, **named)

    def record_answer(self, who: Who | None, route: str, method: str, status: int, path: Mapping[str, Any]) -> None:
        """Count an answer to somebody with a key, or refused to somebody without: soon written, and nobody waits."""
        action = f"refused.{status}" if status in REFUSALS else READS.get(route) if method in ("GET", "HEAD") else None
        known = who is not None or (status in (401, 429) and (route.startswith("/v1/") or route == "/login"))
        if action is None or not known or status >= 500 or (status >= 400 and status not in REFUSALS):
            return
        kind = (who or NOBODY, action, "")
        ids = _ids(path)
        if self._folding.is_first(kind, **ids):
            self._first.append(RepeatedEvents(kind, 1, ids))

    def write(self, *, at_once: bool = False) -> None:
        """Write what is due. Raises one of AWAY, and then keeps it."""
        with self._writing:
            due = [self._first.popleft() for _ in range(len(self._first))] + self._folding.due(at_once=at_once)
            if not due:
                return
            try:
                with self._sessions.begin() as session:
                    for (who, action, _), count, ids in due:
                        audit.append(session, who, action, **ids, **({"count": count} if count > 1 else {}))
            except AWAY:
                for each in due:
                    self._folding.put_back(each)
                raise

    async def run(self) -> None:
        """Write for ever, over lost databases too, and once more at the end."""
        try:
            while True:
                await asyncio.sleep(WRITE_SECONDS)
                await run_uncancelled(self._try)
        finally:
            self._try(at_once=True)

    def _try(self, *, at_once: bool = False) -> None:
        try:
            self.write(at_once=at_once)
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})


def _ids(path: Mapping[str, Any]) -> dict[str, str]:
    """What in a path is an id: the rest is whatever a client calls things."""
    found = {}
    for name, value in path.items():
        try:
            found[name.removesuffix("_id")] = str(uuid.UUID(str(value)))
        except ValueError:
            continue
    return found

"""Sends the signed head of the audit log to another place, every minute."""

import asyncio
import logging
import time

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.http.threads import run_uncancelled
from udig_recon.worker.access import audit_heads
from udig_recon.worker.access.audit_heads import Destination
from udig_recon.worker.database import roles
from udig_recon.worker.settings import Settings

log = logging.getLogger(__name__)


class AuditHeadSender:
    """Signs the newest entry's hash and sends it to the log and to AUDIT_HEADS."""

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], registry: CollectorRegistry | None = None
    ) -> None:
        self._sessions, self._seconds = sessions, settings.audit_head_seconds
        self._key = settings.audit_key.get_secret_value().encode() if settings.audit_key else None
        self._destination = Destination(settings.audit_heads) if settings.audit_heads else None
        self._sent_at = time.monotonic()
        if registry is not None:
            meaning = "How long ago a head of the audit log went out; 0 where none is sent"
            age = Gauge("udig_audit_head_age_seconds", meaning, registry=registry)
            age.set_function(lambda: 0.0 if self._key is None else time.monotonic() - self._sent_at)

    async def run(self) -> None:
        """Send for ever, over lost databases and receivers too."""
        await run_uncancelled(self.warn_of_role)
        while self._key is not None:
            await run_uncancelled(self.send)
            await asyncio.sleep(self._seconds)

    def warn_of_role(self) -> None:
        """Say when the service's role of the database may do more than change rows."""
        try:
            with self._sessions() as session:
                excess = roles.excess(session.connection())
        except SQLAlchemyError:
            return  # readiness reports a database that does not answer
        if excess is not None:
            log.warning(
                "database.role_too_powerful", extra={"detail": f"{excess}: the audit log can be rewritten through it"}
            )

    def send(self) -> None:
        """Send one head; what stands in the way is logged."""
        if self._key is None:
            return
        try:
            with self._sessions() as session:
                head = audit_heads.newest(session, self._key)
            log.info("audit.head_created", extra=head.model_dump(mode="json"))
            if self._destination is not None:
                self._destination.send(head)
            self._sent_at = time.monotonic()
        except (SQLAlchemyError, OSError) as error:
            log.error("audit.head_send_failed", extra={"error": type(error).__name__})

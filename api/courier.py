"""Courier: makes the deliveries of an outbox that are due, beside the couriers of other processes."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic

from opentelemetry.trace import SpanKind
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.http.threads import run_uncancelled
from udig_recon.worker.database.tables import DeliveryState
from udig_recon.worker.jobs.outbox import Outbox, Taken
from udig_recon.worker.telemetry import tracing

log = logging.getLogger(__name__)


class Courier(ABC, Generic[Taken]):
    """Delivers what stands in an outbox; subclasses say how one delivery is attempted."""

    name: str  # of log lines and spans

    def __init__(
        self,
        sessions: sessionmaker[Session],
        outbox: Outbox[Taken],
        *,
        most_at_once: int,  # shared among tenants and receivers: see `Outbox.take`
        lease_seconds: float,  # renewed while an attempt goes on
        poll_seconds: float,
        retry_seconds: float,
    ) -> None:
        self._sessions, self._outbox = sessions, outbox
        self._most_at_once, self._lease_seconds = most_at_once, lease_seconds
        self._poll_seconds, self._retry_seconds = poll_seconds, retry_seconds
        self._held: list[tuple[str, str]] = []  # tenant and receiver of what is delivered now

    @abstractmethod
    async def attempt(self, delivery: Taken) -> str | None:
        """Try once; what is wrong, in words that hold no secret and no patient data, or None when it was taken."""

    @abstractmethod
    def ids(self, delivery: Taken) -> Mapping[str, str]:
        """What log lines and spans call a delivery by."""

    def record(self, session: Session, delivery: Taken, state: DeliveryState) -> None:
        """Write what else is to be written with the outcome, in its transaction."""

    async def deliver(self) -> None:
        """Deliver until cancelled, across database outages; an interrupted one is repeated when its lease expires."""
        async with asyncio.TaskGroup() as deliveries:
            while True:
                try:
                    taken = await run_uncancelled(self._take) if len(self._held) < self._most_at_once else []
                except SQLAlchemyError as error:
                    log.warning("database.unavailable", extra={"error": type(error).__name__})
                    taken = []
                for delivery in taken:
                    self._held.append((delivery.tenant, delivery.receiver))
                    deliveries.create_task(self._deliver(delivery))
                await asyncio.sleep(self._poll_seconds)

    def _take(self) -> list[Taken]:
        with self._sessions.begin() as session:
            return self._outbox.take(session, self._most_at_once, self._lease_seconds, tuple(self._held))

    async def _deliver(self, delivery: Taken) -> None:
        which: dict[str, str | int] = {**self.ids(delivery), "attempt": delivery.attempt}
        try:
            with tracing.span(self.name, delivery.traceparent, which, SpanKind.CLIENT) as span:
                error = await self._attempt_under_lease(delivery)
                span.set_attribute("outcome", error or "delivered")
            state = await run_uncancelled(self._settle, delivery, error)
            log.info(f"{self.name}.attempted", extra={**which, "state": state, "error": error})
        except SQLAlchemyError as away:
            log.warning("database.unavailable", extra={"error": type(away).__name__})
        finally:
            self._held.remove((delivery.tenant, delivery.receiver))

    async def _attempt_under_lease(self, delivery: Taken) -> str | None:
        """Attempt, and renew the lease meanwhile; stop where that is lost, or the job was deleted."""
        attempt = asyncio.create_task(self._attempt_safely(delivery))
        try:
            while not (await asyncio.wait({attempt}, timeout=self._lease_seconds / 3))[0]:
                try:
                    if not await run_uncancelled(self._renew, delivery):
                        return "the lease of the attempt was lost"
                except SQLAlchemyError as error:
                    log.warning("database.unavailable", extra={"error": type(error).__name__})
            return attempt.result()
        finally:
            attempt.cancel()
            await asyncio.wait({attempt})

    async def _attempt_safely(self, delivery: Taken) -> str | None:
        try:
            return await self.attempt(delivery)
        except Exception as error:
            # An unexpected error must not stop the other deliveries.
            log.error(f"{self.name}.failed", extra={"error": type(error).__name__})
            return f"an error of the service's own ({type(error).__name__})"

    def _renew(self, delivery: Taken) -> bool:
        with self._sessions.begin() as session:
            return self._outbox.renew(session, delivery, self._lease_seconds)

    def _settle(self, delivery: Taken, error: str | None) -> DeliveryState | None:
        with self._sessions.begin() as session:
            state = self._outbox.settle(session, delivery, error, self._retry_seconds)
            if state is not None:
                self.record(session, delivery, state)
            return state

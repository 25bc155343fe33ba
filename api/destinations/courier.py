"""Courier of the destination outbox: sends results to archives until they have them, or for three days."""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from udig_recon.api.courier import Courier
from udig_recon.api.dependencies import Context
from udig_recon.api.destinations import stow
from udig_recon.api.destinations.objects import Identify, ResultObjects
from udig_recon.api.destinations.refusals import NotStored
from udig_recon.api.destinations.validation import FORMAT
from udig_recon.api.http.problems import Damaged, Gone
from udig_recon.api.http.threads import LimitedThreadPool
from udig_recon.api.jobs.stored_files import StoredResult, result_file
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.destinations import Destination, DIMSEDestination
from udig_recon.worker.database.tables import DeliveryState, Job, Scan
from udig_recon.worker.jobs.destination_outbox import DESTINATIONS, Delivery
from udig_recon.worker.storage.base import StorageUnavailable
from udig_recon.worker.storage.scans import UnknownIdentity, identity_of

MOST_AT_ONCE = 8
LEASE_SECONDS = 60.0
LEAST_BYTES_PER_SECOND = 64 << 10  # at which an archive must take a result
LEAST_SECONDS = 300.0  # that it has for any result
ACTIONS = {DeliveryState.DELIVERED: "job.sent", DeliveryState.FAILED: "job.not_sent"}
"""What the audit log calls the end of a delivery."""


class DestinationCourier(Courier[Delivery]):
    """Sends results to the destinations that their jobs name."""

    name = "destination"

    def __init__(self, context: Context) -> None:
        settings = context.settings
        super().__init__(
            context.sessions,
            DESTINATIONS,
            most_at_once=MOST_AT_ONCE,
            lease_seconds=LEASE_SECONDS,
            poll_seconds=settings.destination_poll_seconds,
            retry_seconds=settings.destination_retry_seconds,
        )
        self._context = context
        self._threads = LimitedThreadPool(MOST_AT_ONCE)

    async def run(self) -> None:
        """Send until cancelled, where there are destinations at all."""
        if self._context.destinations:
            await self.deliver()

    def ids(self, delivery: Delivery) -> Mapping[str, str]:
        """The job and the name of the destination."""
        return {"job_id": str(delivery.job_id), "destination": delivery.receiver}

    def record(self, session: Session, delivery: Delivery, state: DeliveryState) -> None:
        """Write into the audit log that images have left the service, or that they were given up."""
        if (action := ACTIONS.get(state)) is not None:
            who = Who(delivery.tenant, audit.COURIER)
            audit.append(session, who, action, job=delivery.job_id, destination=delivery.receiver)

    async def attempt(self, delivery: Delivery) -> str | None:
        """Send a result once; what is wrong, in words that name no address, or None when all of it is stored."""
        destination = self._context.destinations.get(delivery.receiver)
        if destination is None or not destination.allows(delivery.tenant):
            return "the service has no such destination for this tenant any more (DESTINATIONS_FILE)"
        try:
            return await self._send(destination, delivery)
        except NotStored as error:
            return str(error)
        except (Gone, Damaged) as problem:
            return str(problem)
        except StorageUnavailable as error:
            return str(error.strerror)

    async def _send(self, destination: Destination, delivery: Delivery) -> str | None:
        """Raises NotStored, Gone and Damaged."""
        storage, run = self._context.storage, self._threads.run
        key = await run(self._result, delivery)
        with ExitStack() as stack:
            archive = await run(stack.enter_context, storage.local(key))
            identify = await run(self._identifier, destination, delivery)
            objects = stack.enter_context(await run(ResultObjects, archive, identify))
            seconds = LEAST_SECONDS + objects.size_bytes / LEAST_BYTES_PER_SECOND
            try:
                async with asyncio.timeout(seconds):
                    if isinstance(destination, DIMSEDestination):
                        await self._store_by_dimse(destination, objects)
                    else:
                        await stow.store(destination, objects, storage, self._threads)
            except TimeoutError:
                return f"it took longer than {seconds:.0f} s"
        return None

    async def _store_by_dimse(self, destination: DIMSEDestination, objects: ResultObjects) -> None:
        from udig_recon.api.destinations.cstore import Sending  # loads pydicom

        sending = Sending()
        storing = asyncio.create_task(self._threads.run(sending.store, destination, objects, self._context.storage))
        try:
            await asyncio.shield(storing)
        except asyncio.CancelledError:
            # In a thread of its own: those of this pool may all be at work.
            await asyncio.to_thread(sending.stop)
            await asyncio.wait({storing})
            raise

    def _identifier(self, destination: Destination, delivery: Delivery) -> Identify | None:
        """What puts the scan's identity into objects; None: the destination may not have it, or no file tells it.

        Raises NotStored where the scan was deleted or cannot be read: without its identity the result would be filed
        under another patient, and beside the objects that earlier attempts have sent.
        """
        if not destination.identifiers:
            return None
        with self._sessions() as session:
            scan = session.scalar(select(Scan).join(Job, Job.scan_id == Scan.id).where(Job.id == delivery.job_id))
        if scan is None:
            raise NotStored("the scan was deleted, and with it the identifiers that this destination is to get")
        try:
            identity = identity_of(self._context.storage, scan.tenant, scan.sha256)
        except UnknownIdentity:
            again = "upload the scan again, with its template where it had one"
            raise NotStored(f"the file with the identifiers is damaged or missing: {again}") from None
        if identity is None:
            return None
        from udig_recon.core.results.dicom.identify import identify_file  # loads pydicom

        return partial(identify_file, identity=identity)

    def _result(self, delivery: Delivery) -> str:
        """Key of the job's DICOM file, verified; it is made first where the worker had no such format."""
        with self._sessions() as session:
            job = session.get(Job, delivery.job_id)
        if job is None or job.expired or job.result is None:
            raise NotStored("the result is no longer kept")
        return result_file(self._context, StoredResult.of(job), OUTPUTS[FORMAT]).key

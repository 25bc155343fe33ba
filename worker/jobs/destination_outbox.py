"""Destination outbox: results that are to be sent to archives."""

import uuid
from dataclasses import dataclass

from udig_recon.worker.database.tables import DestinationDelivery
from udig_recon.worker.jobs import outbox
from udig_recon.worker.jobs.outbox import Outbox


@dataclass(frozen=True, kw_only=True)
class Delivery(outbox.Delivery):
    """One attempt to send the result of a job; its receiver is the name of a destination."""

    job_id: uuid.UUID


DESTINATIONS = Outbox(
    DestinationDelivery,
    Delivery,
    DestinationDelivery.destination,
    counter="deliveries",
    # With a first pause of 5 s the pauses reach the longest within ten minutes, and the last attempt is some three
    # days after the first: an archive may be away over a weekend.
    most_attempts=400,
    longest_pause_seconds=600.0,
    places_of_receiver=2,
)

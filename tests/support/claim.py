"""How tests come to hold a certain slice, whoever's turn it is."""

import uuid

from sqlalchemy.orm import Session

from udig_recon.worker.jobs import leases, state
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.jobs.leases import Taken


def claim_slice(
    session: Session, job_id: uuid.UUID, slice_: int, worker: str = "host:1:a", lease_seconds: float = 60
) -> Claim | None:
    """The slice of the job if it may begin, else the first one of it that may, else None."""
    for wanted in (slice_, None):
        try:
            return leases.take(session, state.lock_job(session, job_id), worker, lease_seconds, wanted)
        except Taken:
            continue
    return None

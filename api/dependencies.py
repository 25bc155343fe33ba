"""What every endpoint works with, made once per process."""

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.access.audit import Auditing
from udig_recon.api.database.async_queries import Reads
from udig_recon.api.database.notifications import Watcher
from udig_recon.api.http.concurrency import Room
from udig_recon.api.http.fair_queue import Turns
from udig_recon.api.http.rate_limit import Rates
from udig_recon.api.http.tenant_queue import TenantTurns
from udig_recon.api.http.threads import Threads, Together
from udig_recon.api.jobs.enqueue import Publisher
from udig_recon.api.scans.upload import Incoming
from udig_recon.api.system.metrics import Requests
from udig_recon.core.formats import Limits, Prober
from udig_recon.worker.jobs.estimates import Factors
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.integrity import Verifier
from udig_recon.worker.storage.local import Storage


@dataclass(frozen=True)
class Context:
    """The service, as the door sees it."""

    settings: Settings
    sessions: sessionmaker[Session]
    reads: Reads
    storage: Storage
    watcher: Watcher
    requests: Requests
    auditing: Auditing
    room: Room
    prober: Prober
    probes: Turns  # of threads that have scans looked into
    files: Threads  # that write, keep and delete scans
    verifier: Verifier = field(default_factory=Verifier)
    filing: TenantTurns = field(default_factory=partial(TenantTurns, 2))  # of tenants: at filing jobs
    keeping: TenantTurns = field(default_factory=partial(TenantTurns, 1))  # at keeping scans; few threads do it
    factors: Factors = field(default_factory=Factors)  # of estimates
    incoming: Incoming = field(default_factory=Incoming)  # bytes of uploads
    together: Together = field(default_factory=Together)  # of those that answer whoever asks
    publisher: Publisher = field(default_factory=Publisher)
    rates: Rates = field(default_factory=Rates)

    @property
    def limits(self) -> Limits:
        """What a scan may be, at most."""
        s = self.settings
        return Limits(
            max_slices=s.max_slices,
            max_coils=s.max_coils,
            max_matrix=s.max_matrix,
            max_views=s.max_views,
            max_detectors=s.max_detectors,
        )


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context)]

"""Dependency injection: the context that every endpoint works with, made once per process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.access.audit import AuditRecorder
from udig_recon.api.database.async_queries import AsyncQueries
from udig_recon.api.database.notifications import NotificationListener
from udig_recon.api.http.concurrency import ConcurrencyLimits
from udig_recon.api.http.fair_queue import FairQueue
from udig_recon.api.http.rate_limit import RateLimiter
from udig_recon.api.http.tenant_queue import TenantQueue
from udig_recon.api.http.threads import LimitedThreadPool, SingleFlight
from udig_recon.api.jobs.enqueue import Publisher
from udig_recon.api.scans.previews import RememberedPreviews
from udig_recon.api.scans.upload import UploadReservations
from udig_recon.api.system.metrics import RequestMetrics
from udig_recon.core.formats import Limits, Prober
from udig_recon.worker.access.destinations import Destination
from udig_recon.worker.jobs.estimates import Factors
from udig_recon.worker.jobs.service import JobService
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.integrity import Verifier


@dataclass(frozen=True)
class Context:
    """All parts of the service that endpoints use."""

    settings: Settings
    sessions: sessionmaker[Session]
    queries: AsyncQueries
    storage: Storage
    notifications: NotificationListener
    request_metrics: RequestMetrics
    audit: AuditRecorder
    concurrency: ConcurrencyLimits
    prober: Prober
    probe_queue: FairQueue  # of threads that have scans looked into
    file_threads: LimitedThreadPool  # that write, keep and delete scans
    destinations: Mapping[str, Destination] = field(default_factory=dict)  # of the operator's file, by name
    verifier: Verifier = field(default_factory=Verifier)
    submission_queue: TenantQueue = field(default_factory=partial(TenantQueue, 2))  # of tenants: at filing jobs
    storing_queue: TenantQueue = field(default_factory=partial(TenantQueue, 1))  # at keeping scans; few threads do it
    factors: Factors = field(default_factory=Factors)  # of estimates
    upload_reservations: UploadReservations = field(default_factory=UploadReservations)  # bytes of uploads
    previews: RememberedPreviews = field(default_factory=RememberedPreviews)  # of scans
    single_flight: SingleFlight = field(default_factory=SingleFlight)  # health checks, metrics, previews of scans
    publisher: Publisher = field(default_factory=Publisher)
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)

    @property
    def jobs(self) -> JobService:
        """Use cases on jobs and comparisons."""
        return JobService(self.storage, self.publisher.publish)

    @property
    def limits(self) -> Limits:
        """Limits of scans, from the settings."""
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

"""What Prometheus reads: counted as requests pass, and asked of the database when scraped."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from worker.health import seen_lately
from worker.models import Job, Status, Worker
from worker.storage import Storage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


class Requests:
    """Requests by route template, method and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._total = Counter("udig_http_requests", "HTTP requests answered", labels, registry=self.registry)
        self._seconds = Histogram(
            "udig_http_request_seconds", "Time to answer", labels[:2], buckets=SECONDS, registry=self.registry
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._total.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


@dataclass(frozen=True, eq=False)
class _State:
    """The service as it stands, for one scrape."""

    gauges: list[GaugeMetricFamily]

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        yield from self.gauges


def exposition(requests: Requests, session: Session, storage: Storage, alive_seconds: float) -> bytes:
    """The metrics in Prometheus' text format."""
    counted = session.execute(select(Job.status, func.count().label("jobs")).group_by(Job.status))
    by_status = {row.status: row.jobs for row in counted}
    jobs = GaugeMetricFamily("udig_jobs", "Jobs by status", labels=["status"])
    for status in Status:
        jobs.add_metric([status.value], by_status.get(status, 0))
    waiting = func.extract("epoch", func.now() - func.min(Job.created_at))
    age = session.scalar(select(waiting).where(Job.status == Status.QUEUED))
    registry = CollectorRegistry()
    registry.register(
        _State(
            [
                jobs,
                GaugeMetricFamily("udig_queue_age_seconds", "Age of the oldest queued job", value=float(age or 0)),
                GaugeMetricFamily("udig_workers", "Workers alive", value=workers_alive(session, alive_seconds)),
                GaugeMetricFamily("udig_disk_free_bytes", "Free bytes below DATA", value=storage.free_bytes()),
            ]
        )
    )
    return generate_latest(requests.registry) + generate_latest(registry)


def workers_alive(session: Session, alive_seconds: float) -> int:
    """Number of workers that were seen lately."""
    return session.scalar(select(func.count()).select_from(Worker).where(seen_lately(alive_seconds))) or 0

"""Prometheus metrics: requests counted in this process, and the state of jobs and queue from the database."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from sqlalchemy import ColumnElement, Select, func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session, sessionmaker

from udig_recon.worker.database import counters
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import (
    OPEN,
    DeliveryState,
    DestinationDelivery,
    Job,
    JobSlice,
    Scan,
    Status,
    WebhookDelivery,
    Worker,
)
from udig_recon.worker.jobs import failures
from udig_recon.worker.runtime.health import was_seen_recently
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import integrity
from udig_recon.worker.storage.base import Storage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
ENDED = tuple(status.value for status in Status if status.ended)
OUTCOMES = ("delivered", "retried", "failed", "disabled")
SENT = OUTCOMES[:3]
SENT_STATES = (DeliveryState.PENDING, DeliveryState.DELIVERED, DeliveryState.FAILED)
COUNTED_JOBS = 200_000  # beyond them a count would take longer than a scrape may
COUNTED = {  # kind of counter -> metric, help text, label, and the label values that are exported from the start
    "slices": ("udig_slices_completed", "Slices reconstructed", "", ("",)),
    "slice_seconds": ("udig_slice_compute_seconds", "Compute time of the completed slices", "", ("",)),
    "lease_losses": ("udig_leases_lost", "Slices requeued because the lease of their worker expired", "", ("",)),
    "yields": ("udig_slices_preempted", "Slices preempted by more urgent ones", "", ("",)),
    "hung_processes": (
        "udig_hung_processes",
        "Processes killed because they did not answer",
        "process",
        ("api", "worker"),
    ),
    "jobs": ("udig_jobs_finished", "Finished jobs by final status", "status", ENDED),
    "failures": ("udig_job_failures", "Failed jobs by kind of problem", "reason", (*failures.KINDS, "other")),
    "damage": ("udig_damaged_files_found", "Stored files found damaged, by kind", "kind", integrity.KINDS),
    "mrd_connections": (
        "udig_mrd_connections",
        "Ended connections of the MRD stream by outcome",
        "outcome",
        ("succeeded", "failed", "refused", "cut", "left"),
    ),
    "webhooks": ("udig_webhook_attempts", "Webhook delivery attempts by outcome", "outcome", OUTCOMES),
    "deliveries": ("udig_delivery_attempts", "Attempts to send a result to an archive, by outcome", "outcome", SENT),
}


class RequestMetrics:
    """Counts of requests by route template, method and status."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._total = Counter("udig_http_requests", "HTTP requests answered", labels, registry=self.registry)
        self._seconds = Histogram(
            "udig_http_request_duration_seconds",
            "Time from request to answer",
            labels[:2],
            buckets=SECONDS,
            registry=self.registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._total.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


@dataclass(frozen=True, eq=False)
class _State:
    """The service as it stands, for one scrape."""

    metrics: list[Metric]

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        yield from self.metrics


def exposition(
    requests: RequestMetrics,
    storage: Storage,
    settings: Settings,
    counted: list[Metric] | None,
    *,
    queue_answers: bool,
    storage_answers: bool,
) -> bytes:
    """The metrics in Prometheus' text format; None: the database is away, and what is counted in it is missing."""
    metrics = [
        _gauge("udig_disk_free_bytes", "Free bytes of the storage below DATA", storage.free_bytes()),
        _gauge(
            "udig_disk_reserve_bytes", "Bytes that uploads leave free (DISK_RESERVE_BYTES)", settings.disk_reserve_bytes
        ),
        *(counted or ()),
    ]
    answers = {"database": counted is not None, "queue": queue_answers, "storage": storage_answers}
    up = {name: float(each) for name, each in answers.items()}
    metrics.append(_gauges("udig_dependency_up", "Whether the dependency answers (1) or not (0)", "dependency", up))
    registry = CollectorRegistry()
    registry.register(_State(metrics))
    return generate_latest(requests.registry) + generate_latest(registry)


def of_database(sessions: sessionmaker[Session], alive_seconds: float) -> list[Metric] | None:
    """What is counted in the database; None while it is away."""
    try:
        with sessions() as session:
            return list(_of_database(session, alive_seconds))
    except AWAY:
        return None


def _of_database(session: Session, alive_seconds: float) -> Iterator[Metric]:
    yield _gauges("udig_jobs", "Jobs by status", "status", _jobs_by_status(session))
    slices = select(JobSlice.status, func.count()).where(JobSlice.status.in_(OPEN)).group_by(JobSlice.status)
    yield _gauges("udig_slices", "Queued and running slices", "status", _by(session, slices, OPEN))
    waiting = (
        select(_age(JobSlice.queued_at)).join(Job).where(JobSlice.status == Status.QUEUED, Job.scan_id.is_not(None))
    )
    yield _gauge(
        "udig_queue_oldest_waiting_seconds", "Waiting time of the oldest queued slice", session.scalar(waiting)
    )
    yield _gauge("udig_workers", "Live workers", workers_alive(session, alive_seconds))
    yield from _gpus(session, alive_seconds)
    states = select(WebhookDelivery.state, func.count()).group_by(WebhookDelivery.state)
    yield _gauges("udig_webhooks", "Webhooks by state", "state", _by(session, states, DeliveryState))
    untold = select(_age(WebhookDelivery.created_at)).where(WebhookDelivery.state == DeliveryState.PENDING)
    yield _gauge("udig_webhook_oldest_pending_seconds", "Age of the oldest undelivered webhook", session.scalar(untold))
    sent = select(DestinationDelivery.state, func.count()).group_by(DestinationDelivery.state)
    yield _gauges("udig_deliveries", "Results for archives by state", "state", _by(session, sent, SENT_STATES))
    unsent = select(_age(DestinationDelivery.created_at)).where(DestinationDelivery.state == DeliveryState.PENDING)
    yield _gauge("udig_delivery_oldest_pending_seconds", "Age of the oldest unsent result", session.scalar(unsent))
    scans = session.scalar(select(func.count()).where(Scan.damaged_at.is_not(None)))
    results = session.scalar(select(func.count()).where(Job.damaged.is_not(None), Job.status == Status.SUCCEEDED))
    marked = {"scan": float(scans or 0), "result": float(results or 0)}
    yield _gauges("udig_damaged_files", "Damaged scans and results that nobody has posted again", "kind", marked)
    counted = counters.totals(session)
    for kind, (name, meaning, label, known) in COUNTED.items():
        metric = CounterMetricFamily(name, meaning, labels=[label] if label else [])
        for value, amount in {**dict.fromkeys(known, 0.0), **counted.get(kind, {})}.items():
            metric.add_metric([value] if label else [], amount)
        yield metric


def _gpus(session: Session, alive_seconds: float) -> Iterator[Metric]:
    """Memory and utilisation of each GPU; what several workers on one tell of it differs by seconds."""
    told = (Worker.gpu_memory_used_bytes, Worker.gpu_memory_total_bytes, Worker.gpu_utilisation_percent)
    query = (
        select(Worker.gpu, func.count(), *map(func.max, told))
        .where(Worker.gpu.is_not(None), was_seen_recently(alive_seconds))
        .group_by(Worker.gpu)
    )
    rows = session.execute(query).all()
    workers, used, total = ({str(row[0]): float(row[column] or 0) for row in rows} for column in (1, 2, 3))
    yield _gauges("udig_gpu_workers", "Live workers on the GPU", "gpu", workers)
    yield _gauges("udig_gpu_memory_used_bytes", "GPU memory in use", "gpu", used)
    yield _gauges("udig_gpu_memory_total_bytes", "Total GPU memory", "gpu", total)
    busy = {str(row[0]): row[4] / 100 for row in rows if row[4] is not None}
    yield _gauges(
        "udig_gpu_utilisation_ratio", "Share of time in which the GPU computed, where NVML tells", "gpu", busy
    )


def _jobs_by_status(session: Session) -> dict[str, float]:
    """Counts. Of many jobs those that have ended are estimated, by the statistics of the table."""
    jobs = select(Job.status, func.count()).group_by(Job.status)
    rows = session.scalar(text("SELECT reltuples FROM pg_class WHERE oid = 'public.jobs'::regclass"))
    if (rows or 0) < COUNTED_JOBS:
        return _by(session, jobs, Status)
    shares = text(
        "SELECT unnest(most_common_vals::text::text[]), unnest(most_common_freqs) FROM pg_stats"
        " WHERE schemaname = 'public' AND tablename = 'jobs' AND attname = 'status'"
    )
    estimated = {status: round(rows * share) for status, share in session.execute(shares)}
    is_open = _by(session, jobs.where(Job.status.in_(OPEN)), OPEN)
    return {**dict.fromkeys(Status, 0.0), **estimated, **is_open}


def _by(session: Session, query: Select[Any, int], known: Iterable[str]) -> dict[str, float]:
    """Counts, zeros included."""
    return {**dict.fromkeys(known, 0.0), **{key: float(count) for key, count in session.execute(query)}}


def _age(moment: InstrumentedAttribute[datetime]) -> ColumnElement[float]:
    """Seconds since the earliest, 0 when there is none."""
    return func.coalesce(func.extract("epoch", func.now() - func.min(moment)), 0.0)


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, meaning, value=float(value or 0))


def _gauges(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = GaugeMetricFamily(name, meaning, labels=[label])
    for value, amount in values.items():
        metric.add_metric([value], amount)
    return metric


def workers_alive(session: Session, alive_seconds: float) -> int:
    """Number of workers that were seen lately."""
    return session.scalar(select(func.count()).select_from(Worker).where(was_seen_recently(alive_seconds))) or 0

"""Tables: scans, jobs, their slices and progress, comparisons, keys, workers, webhooks, deliveries, audit log.

Which status follows which stands in `udig_recon.worker.jobs.state`.
"""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, SmallInteger, String, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from udig_recon.worker.database.base import (
    DEFAULT_TENANT,
    OPEN,
    Base,
    Counter,
    DeliveryState,
    Priority,
    ServiceState,
    Status,
    Tenant,
)
from udig_recon.worker.database.ids import new_id

__all__ = [
    "DEFAULT_TENANT",
    "OPEN",
    "Audit",
    "Base",
    "Comparison",
    "ComputeUsage",
    "Counter",
    "DeliveryState",
    "DestinationDelivery",
    "Job",
    "JobSlice",
    "Key",
    "LoginSession",
    "Outbox",
    "Preview",
    "Priority",
    "ResumableUpload",
    "Scan",
    "ServiceState",
    "Snapshot",
    "Status",
    "Tenant",
    "WebhookDelivery",
    "Worker",
]


class Key(Base):
    """An API key: its tenant, scopes and limits. Only the hash of the key itself is stored."""

    __tablename__ = "keys"
    __table_args__ = (Index("ix_keys_tenant", "tenant"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[list[str]]
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    previous_sha256: Mapped[str | None] = mapped_column(String(64), unique=True)  # before the last rotation
    previous_until: Mapped[datetime | None]  # until when that one is taken too
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]  # to the minute
    max_open_jobs: Mapped[int | None]  # null in this and those below: only the settings of the service set a limit
    max_jobs_per_day: Mapped[int | None]
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_requests_per_minute: Mapped[int | None]
    retention_days: Mapped[int | None]
    max_priority: Mapped[int] = mapped_column(SmallInteger, default=0, server_default=text("0"))  # of its jobs


class LoginSession(Base):
    """A login of a browser by an API key. Only the hash of its cookie is stored."""

    __tablename__ = "login_sessions"
    __table_args__ = (Index("ix_login_sessions_key_id", "key_id"), Index("ix_login_sessions_expires_at", "expires_at"))

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("keys.id", ondelete="CASCADE"))
    key_sha256: Mapped[str] = mapped_column(String(64))  # of the key as it was shown: a rotated one ends its logins
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class Scan(Base):
    """One uploaded file, stored once for each tenant under its hash."""

    __tablename__ = "scans"
    __table_args__ = (
        UniqueConstraint("tenant", "sha256", name="uq_scans_tenant_sha256"),
        Index("ix_scans_key_id", "key_id"),
        Index("ix_scans_expires_at", "expires_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(63), default=DEFAULT_TENANT, server_default=DEFAULT_TENANT)
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("keys.id"))  # that brought it; null: authentication off
    sha256: Mapped[str] = mapped_column(String(64))
    filename: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    header: Mapped[dict[str, Any]]  # udig_recon.core.acquisition.ScanHeader as JSON
    prepared_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of its prepared form; null: made before first use
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]  # when the sweep deletes it
    damaged_at: Mapped[datetime | None]  # when its stored bytes were found not to be those of its hash


class ResumableUpload(Base):
    """An upload by the tus protocol. Of its file, the first `offset_bytes` are on the disk: what follows is no part."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_tenant", "tenant"),
        Index("ix_uploads_key_id", "key_id"),
        Index("ix_uploads_scan_id", "scan_id"),
        Index("ix_uploads_expires_at", "expires_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(63))
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("keys.id"))  # that began it; null: authentication off
    filename: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)  # when it is complete
    offset_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    sha256: Mapped[str | None] = mapped_column(String(64))  # of the whole file, as the client announced it
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]  # put off whenever bytes come
    expired: Mapped[bool] = mapped_column(default=False, server_default=text("false"))  # its file is gone
    part_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of the parts in the bucket; null: the service gets it
    stored_at: Mapped[datetime | None]  # when it became a scan; its file is that scan's
    scan_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("scans.id", ondelete="SET NULL"))


class Comparison(Base):
    """A comparison of methods on scans. Its jobs are jobs like any, and their statuses are its status."""

    __tablename__ = "comparisons"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key", name="uq_comparisons_tenant_idempotency_key"),
        Index("ix_comparisons_expires_at", "expires_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(63), default=DEFAULT_TENANT)
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("keys.id"))  # that filed it; null: authentication off
    request: Mapped[dict[str, Any]]  # scans, methods, seeds, slices and tags, as asked for
    webhook_url: Mapped[str | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_sha256: Mapped[str | None] = mapped_column(String(64))  # of the body sent with the key
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]  # when the sweep deletes it


class Job(Base):
    """A reconstruction job. A trigger counts its end, and inserts its webhook and what is to be sent to archives."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_tenant", "tenant", "id"),
        Index("ix_jobs_tenant_status", "tenant", "status", "id"),
        Index("ix_jobs_method", "tenant", text("(parameters ->> 'method')"), "id"),
        Index("ix_jobs_scan", "scan_id", "id"),
        Index("ix_jobs_tags", "tags", postgresql_using="gin"),
        UniqueConstraint("tenant", "idempotency_key", name="uq_jobs_tenant_idempotency_key"),
        Index("ix_jobs_key_id", "key_id", "created_at"),
        Index("ix_jobs_to_expire", "expires_at", postgresql_where=text("NOT expired")),
        Index("ix_jobs_expired", "expires_at", postgresql_where=text("expired")),
        Index("ix_jobs_damaged", "id", postgresql_where=text("damaged IS NOT NULL")),
        Index("ix_jobs_comparison_id", "comparison_id"),
        Index("ix_jobs_open", "tenant", postgresql_where=text("status IN ('queued', 'running')")),
        Index("ix_jobs_uncounted", "finished_at", postgresql_where=text("stored_bytes IS NULL AND NOT expired")),
        Index("ix_jobs_rating", "tenant", "rating", "id", postgresql_where=text("rating IS NOT NULL")),
        Index("ix_jobs_to_rate", "id", postgresql_where=text("status = 'succeeded' AND rating IS NULL")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=new_id)
    tenant: Mapped[str] = mapped_column(String(63), default=DEFAULT_TENANT, server_default=DEFAULT_TENANT)
    key_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("keys.id"))  # that filed it; null: authentication off
    scan_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("scans.id", ondelete="SET NULL"))  # null: scan deleted
    comparison_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("comparisons.id", ondelete="SET NULL"))
    compared: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # label, scan and sampling there
    status: Mapped[Status] = mapped_column(default=Status.QUEUED)
    parameters: Mapped[dict[str, Any]]  # udig_recon.core.parameters.Method, complete
    outputs: Mapped[list[str]]  # formats written when the job succeeds
    slices: Mapped[list[int]]  # slice numbers of the scan, in the order of the result
    seed: Mapped[int] = mapped_column(BigInteger)
    seeds: Mapped[int] = mapped_column(default=1, server_default=text("1"))  # the image is the mean of so many
    priority: Mapped[int] = mapped_column(SmallInteger, default=0, server_default=text("0"))  # a Priority
    max_seconds: Mapped[float | None]  # of computing, over all slices and attempts; null: without limit
    seconds: Mapped[float] = mapped_column(default=0.0, server_default=text("0"))  # so far; kept by the trigger
    tags: Mapped[dict[str, Any]]
    webhook_url: Mapped[str | None]
    webhook_events: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))  # told; null: every end
    destinations: Mapped[list[str]] = mapped_column(default=list, server_default=text("'[]'"))  # names of archives
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_sha256: Mapped[str | None] = mapped_column(String(64))  # of the body sent with the key
    cancel_requested: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    error: Mapped[dict[str, Any] | None]  # problem document
    scan_warnings: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))  # of the scan's header
    metrics: Mapped[dict[str, Any] | None]  # means over the slices, when succeeded
    rating: Mapped[str | None] = mapped_column(String(16))  # the worst of the slices', when succeeded
    versions: Mapped[dict[str, Any] | None]  # software and prior, as the worker found them
    result: Mapped[str | None]  # folder of the accepted result, relative to DATA
    result_files: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # name -> sha256 and bytes
    damaged: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # file -> when it was found to be
    last_seq: Mapped[int] = mapped_column(BigInteger, default=0, server_default=text("0"))
    traceparent: Mapped[str | None] = mapped_column(String(55))  # W3C trace context of the request that filed it
    estimated_seconds: Mapped[float | None]  # of workers, when it was filed
    basis_seconds: Mapped[float | None]  # the same of one core of a CPU
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of a worker at its peak, estimated
    result_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of its files, estimated
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)  # the same, counted once it has ended
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]  # when the sweep deletes its files
    expired: Mapped[bool] = mapped_column(default=False, server_default=text("false"))  # its files are gone


class JobSlice(Base):
    """A slice of a job, the unit that a worker claims, leases and finishes. A trigger counts ends and lost leases."""

    __tablename__ = "job_slices"
    __table_args__ = (
        # Not of `lease_until`: a heartbeat then needs no index entry.
        Index("ix_job_slices_running", "job_id", "slice", postgresql_where=text("status = 'running'")),
        Index("ix_job_slices_queued", "job_id", "slice", postgresql_where=text("status = 'queued'")),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    slice: Mapped[int] = mapped_column(primary_key=True)
    reference_slice: Mapped[int | None]  # slice of the job that is done first and whose regularisation weight is reused
    status: Mapped[Status] = mapped_column(default=Status.QUEUED)
    attempt: Mapped[int] = mapped_column(default=0, server_default=text("0"))  # the fence: grows with every claim
    crashes: Mapped[int] = mapped_column(default=0, server_default=text("0"))  # leases that ran out
    lease_until: Mapped[datetime | None]
    queued_at: Mapped[datetime] = mapped_column(server_default=func.now())  # set by the trigger when it waits again
    enqueued_at: Mapped[datetime | None]  # when a message for it was last sent; null: none was
    worker: Mapped[str | None]
    claimed_at: Mapped[datetime | None]  # when the current or last attempt began; set by the trigger
    yield_requested_at: Mapped[datetime | None]  # when it was asked to yield to a more urgent slice
    yielded: Mapped[bool] = mapped_column(default=False, server_default=text("false"))  # it has yielded before
    protected_until: Mapped[datetime | None]  # it is not asked to yield before
    iteration: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    iterations: Mapped[int | None]
    seconds: Mapped[float] = mapped_column(default=0.0, server_default=text("0"))  # spent on it so far
    metrics: Mapped[dict[str, Any] | None]  # of the slice, as udig_recon.api.jobs.schemas.Metrics has them
    prior_check: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True)
    )  # udig_recon.core.prior_check.PriorCheck, as JSON
    quality: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True)
    )  # udig_recon.core.quality.rating.Rating, as JSON
    result: Mapped[str | None]  # file of the accepted slice, relative to DATA; null again once the job has succeeded
    result_sha256: Mapped[str | None] = mapped_column(String(64))  # of that file; null: an older version wrote it
    recomputed: Mapped[int] = mapped_column(default=0, server_default=text("0"))  # how often that file was damaged
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Snapshot(Base):
    """Progress of a slice at one moment. `seq` grows by one within a job, in commit order."""

    __tablename__ = "snapshots"

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    slice: Mapped[int]
    iteration: Mapped[int]
    iterations: Mapped[int]
    loss: Mapped[float | None]
    data_residual: Mapped[float | None]
    psnr: Mapped[float | None]
    ssim: Mapped[float | None]
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Preview(Base):
    """The latest image of a slice, where the storage keeps none. A crash of the server empties an unlogged table."""

    __tablename__ = "previews"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    slice: Mapped[int] = mapped_column(primary_key=True)
    content: Mapped[bytes]
    written_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Worker(Base):
    """A worker process that is alive: `seen_at` is renewed with every sweep."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True)  # host:pid:random
    device: Mapped[str]
    gpu: Mapped[str | None]  # its UUID, or that of a MIG instance
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)  # that it may use
    gpu_memory_used_bytes: Mapped[int | None] = mapped_column(BigInteger)  # by all processes on it
    gpu_memory_total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    gpu_utilisation_percent: Mapped[int | None] = mapped_column(SmallInteger)  # where NVML tells
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ComputeUsage(Base):
    """Seconds of a worker that an attempt at a slice took; a trigger adds a row when it ends. Fair claims use it.

    The sweep sums old rows up and deletes the oldest: see `udig_recon.worker.jobs.scheduling`.
    """

    __tablename__ = "compute_usage"
    __table_args__ = (Index("ix_compute_usage_at", "at"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    job_id: Mapped[uuid.UUID]  # the job may be gone
    priority: Mapped[int] = mapped_column(SmallInteger)
    seconds: Mapped[float]
    at: Mapped[datetime] = mapped_column(server_default=func.now())


class Audit(Base):
    """Who did what to what. Rows are only ever added, and each holds the hash of the one before: see `access.audit`."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_actor", "actor", "at"),
        Index("ix_audit_filed", "tenant", "at", postgresql_where=text("action = 'job.filed'")),
    )

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    actor: Mapped[str]  # key:<id> | open | command:<uid> | worker | sweep | courier
    tenant: Mapped[str] = mapped_column(String(63))
    action: Mapped[str]
    ids: Mapped[dict[str, Any]]
    hash: Mapped[str] = mapped_column(String(64))


class Outbox:
    """Columns of an outbox: deliveries that a trigger inserts in the transaction that they tell of.

    `udig_recon.worker.jobs.outbox` takes them and records how they went.
    """

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    tenant: Mapped[str] = mapped_column(String(63), server_default=DEFAULT_TENANT)
    traceparent: Mapped[str | None] = mapped_column(String(55))
    state: Mapped[DeliveryState] = mapped_column(server_default=text("'pending'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))  # the fence, as of slices
    due_at: Mapped[datetime] = mapped_column(server_default=func.now())  # of the next attempt, or the end of its lease
    error: Mapped[str | None]  # what the last attempt came to
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_at: Mapped[datetime | None]


class WebhookDelivery(Outbox, Base):
    """A webhook to deliver, of a job or of a comparison. Its id is its webhook-id."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_job_id", "job_id"),
        Index("ix_webhook_deliveries_comparison_id", "comparison_id"),
        Index("ix_webhook_deliveries_due_at", "due_at", postgresql_where=text("state = 'pending'")),
        Index("ix_webhook_deliveries_url", "url", postgresql_where=text("state = 'disabled'")),
    )

    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    comparison_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("comparisons.id", ondelete="CASCADE"))
    url: Mapped[str]
    event: Mapped[str] = mapped_column(String(32))  # job.started | job.<its end> | comparison.<its end>
    data: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))  # told of it, as it was then


class DestinationDelivery(Outbox, Base):
    """A result to send to an archive that the job names; what the name means stands in the operator's file alone."""

    __tablename__ = "destination_deliveries"
    __table_args__ = (
        Index("ix_destination_deliveries_job_id", "job_id"),
        Index("ix_destination_deliveries_due_at", "due_at", postgresql_where=text("state = 'pending'")),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    destination: Mapped[str] = mapped_column(String(63))

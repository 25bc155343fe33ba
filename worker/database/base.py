"""What all tables share: base, how names and kinds are stored, states of jobs and webhooks; tenants, the service."""

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any, ClassVar

from sqlalchemy import BigInteger, DateTime, Enum, Identity, MetaData, String, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DEFAULT_TENANT = "default"  # whose all is that was kept before there were keys, or is while authentication is off
CONSTRAINT_NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Status(StrEnum):
    """Status of a job or slice; `udig_recon.worker.jobs.state` says which may follow which."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


OPEN = (Status.QUEUED, Status.RUNNING)


class Priority(IntEnum):
    """Slices of a higher priority are claimed first, and a running one of a lower priority gives way to them."""

    ROUTINE = 0
    URGENT = 1


class DeliveryState(StrEnum):
    """pending -> delivered | failed | disabled."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # given up
    DISABLED = "disabled"  # the receiver answered 410: it wants no more


def _as_text(kind: type[StrEnum]) -> Enum:
    """Stored by value: a new one needs no migration."""
    return Enum(kind, native_enum=False, length=16, values_callable=lambda kind: [member.value for member in kind])


class Base(DeclarativeBase):
    """Base of the tables; times are with zone, JSON is JSONB."""

    metadata = MetaData(naming_convention=CONSTRAINT_NAMES)
    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: JSONB,
        list[int]: JSONB,
        Status: _as_text(Status),
        DeliveryState: _as_text(DeliveryState),
    }


class ServiceState(Base):
    """What the service as a whole has to remember: which data folder is its own, how far the scrub is."""

    __tablename__ = "service_state"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[dict[str, Any]]


class Tenant(Base):
    """The limits of a tenant that were set for it. Null: the setting's default holds."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    max_open_jobs: Mapped[int | None]
    max_open_slices: Mapped[int | None]
    max_jobs_per_day: Mapped[int | None]
    max_compute_seconds_per_day: Mapped[int | None] = mapped_column(BigInteger)
    max_job_seconds: Mapped[int | None] = mapped_column(BigInteger)
    max_job_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_keys: Mapped[int | None]
    max_uploads: Mapped[int | None]
    max_unfinished_uploads: Mapped[int | None]
    max_waits: Mapped[int | None]
    max_requests_per_minute: Mapped[int | None]
    retention_days: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Counter(Base):
    """A count. Rows are only added, so that no transaction waits for another's; the sweep sums them up."""

    __tablename__ = "counters"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    label: Mapped[str] = mapped_column(String(64), server_default=text("''"))
    amount: Mapped[float]

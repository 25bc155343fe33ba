"""Queries of jobs: one job, pages of jobs, snapshots. Each job comes with its progress in one query."""

import uuid
from collections.abc import Sequence
from itertools import chain
from typing import Any

from sqlalchemy import Select, bindparam, case, func, select, true
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.orm import Session

from udig_recon.api.database.async_queries import AsyncQueries, AsyncQuery
from udig_recon.api.http.pagination import Page, PageRequest
from udig_recon.api.http.problems import NotFound
from udig_recon.api.jobs.schemas import EstimateOut, JobItem, JobOut, Metrics, Progress, SnapshotOut
from udig_recon.core.prior_check import ood_warning
from udig_recon.core.quality.rating import Rating, RatingLevel, of_volume, worst
from udig_recon.worker.access.keys import priority_name
from udig_recon.worker.database.tables import (
    DestinationDelivery,
    Job,
    JobSlice,
    Scan,
    Snapshot,
    Status,
    WebhookDelivery,
)
from udig_recon.worker.storage import integrity

# Columns of tables, not attributes of classes: to make objects of rows that are only shown takes long.
_LISTED = Job.__table__.alias("listed").c
_JOB, _SLICE, _DELIVERY = Job.__table__.c, JobSlice.__table__.c, WebhookDelivery.__table__.c
_SHOWN = (
    "id",
    "scan_id",
    "status",
    "parameters",
    "outputs",
    "destinations",
    "slices",
    "seed",
    "seeds",
    "priority",
    "max_seconds",
    "tags",
    "cancel_requested",
    "scan_warnings",
    "error",
    "comparison_id",
    "versions",
    "created_at",
    "started_at",
    "finished_at",
    "expires_at",
    "metrics",
    "rating",
    "damaged",
)
PART = case(
    (_SLICE.status == Status.SUCCEEDED, 1.0),
    else_=func.least(func.coalesce(_SLICE.iteration / func.nullif(_SLICE.iterations, 0), 0.0), 1.0),
)
RUNNING = _SLICE.status == Status.RUNNING
SUCCEEDED = _SLICE.status == Status.SUCCEEDED
_FOREIGN = _SLICE.prior_check["out_of_distribution"].as_boolean()
# A slice that has not begun is taken for one of the shortest: followers are shorter than their leaders, and many.
_ITERATIONS = func.sum(_SLICE.iterations) + func.min(_SLICE.iterations) * func.count().filter(
    _SLICE.iterations.is_(None)
)
_AT_RATING = _SLICE.quality["rating"].astext == _JOB.rating
_CHUNKS = (
    select(
        func.sum(PART).label("parts"),
        func.count().filter(SUCCEEDED).label("slices_done"),
        func.count().label("slices_in_all"),
        func.coalesce(func.sum(_SLICE.iteration), 0).label("iteration"),
        _ITERATIONS.label("iterations"),
        func.sum(_SLICE.seconds).label("seconds"),
        func.count().filter(RUNNING).label("running"),
        func.coalesce(func.max(_SLICE.attempt), 0).label("attempt"),
        func.string_agg(_SLICE.worker.distinct(), ", ").label("worker"),
        func.array_agg(aggregate_order_by(_SLICE.slice, _SLICE.slice)).filter(SUCCEEDED, _FOREIGN).label("foreign"),
        func.count().filter(_AT_RATING).label("at_rating"),
    )
    .where(_SLICE.job_id == _JOB.id)
    .correlate(Job.__table__)
    .lateral("progress")
)
_REASONS_SHOWN = 3  # slices of which a list tells the reasons; a volume has hundreds
_FIRST_AT_RATING = (
    select(_SLICE.slice, _SLICE.quality["reasons"].label("reasons"))
    .where(_SLICE.job_id == _JOB.id, _AT_RATING)
    .order_by(_SLICE.slice)
    .limit(_REASONS_SHOWN)
    .correlate(Job.__table__)
    .subquery("first")
)
_REASONS = (
    select(func.jsonb_object_agg(_FIRST_AT_RATING.c.slice, _FIRST_AT_RATING.c.reasons, type_=JSONB))
    .scalar_subquery()
    .label("rating_reasons")
)
_ESTIMATED = ("estimated_seconds", "memory_bytes", "result_bytes")
_SPENT = _JOB.seconds.label("compute_seconds")  # the slices' `seconds` are another sum
_JOBS: Select[Any] = select(*(_JOB[name] for name in (*_SHOWN, *_ESTIMATED)), _SPENT, _CHUNKS, _REASONS).join(
    _CHUNKS, true()
)
# What a slice that is reconstructed again had before is shown no more.
_SLICE_OUT = func.jsonb_build_object(
    "slice",
    _SLICE.slice,
    "status",
    _SLICE.status,
    "quality",
    case((SUCCEEDED, _SLICE.quality)),
    "prior_check",
    case((SUCCEEDED, _SLICE.prior_check)),
    type_=JSONB,
)
_SLICES = (
    select(func.jsonb_agg(_SLICE_OUT, type_=JSONB))
    .where(_SLICE.job_id == _JOB.id)
    .correlate(Job.__table__)
    .scalar_subquery()
    .label("slice_states")
)
_TOLD = ("state", "event", "attempts", "error", "due_at", "delivered_at")
_WEBHOOK = (
    select(func.jsonb_build_object(*chain(*((name, _DELIVERY[name]) for name in _TOLD)), type_=JSONB))
    .where(_DELIVERY.job_id == _JOB.id)
    .order_by(_DELIVERY.created_at.desc())
    .limit(1)
    .correlate(Job.__table__)
    .scalar_subquery()
    .label("webhook")
)

_SENT = DestinationDelivery.__table__.c
_DELIVERY_OUT = func.jsonb_build_object(
    *chain(*((name, _SENT[name]) for name in ("destination", "state", "attempts", "error", "due_at", "delivered_at"))),
    type_=JSONB,
)
_DELIVERIES = (
    select(func.jsonb_agg(aggregate_order_by(_DELIVERY_OUT, _SENT.destination), type_=JSONB))
    .where(_SENT.job_id == _JOB.id)
    .correlate(Job.__table__)
    .scalar_subquery()
    .label("deliveries")
)
_HEADER = Scan.__table__.c.header
_SCAN = (
    select(
        func.jsonb_build_object(
            *chain(*((name, _HEADER[name]) for name in ("frames", "affine", "corrections"))), type_=JSONB
        )
    )
    .where(Scan.__table__.c.id == _JOB.scan_id)
    .correlate(Job.__table__)
    .scalar_subquery()
    .label("scan_told")
)

_ONE_JOB = _JOBS.add_columns(_SLICES, _WEBHOOK, _DELIVERIES, _SCAN).where(
    _JOB.tenant == bindparam("tenant"), _JOB.id == bindparam("job_id")
)
_READ_JOB = AsyncQuery(_ONE_JOB)


def read_job(session: Session, tenant: str, job_id: uuid.UUID) -> JobOut:
    """The tenant's job of that id, in one query."""
    return _job_out(job_id, session.execute(_ONE_JOB, {"tenant": tenant, "job_id": job_id}).one_or_none())


async def read_job_async(reads: AsyncQueries, tenant: str, job_id: uuid.UUID) -> JobOut:
    """The same in the event loop."""
    return _job_out(job_id, await reads.one(_READ_JOB, tenant=tenant, job_id=job_id))


def _job_out(job_id: uuid.UUID, row: Any) -> JobOut:
    if row is None:
        raise no_job(job_id)
    states = {each["slice"]: each for each in row.slice_states or ()}
    slices = [states[number] for number in row.slices if number in states]
    # Rows of older workers hold ratings in their words.
    ratings = {each["slice"]: Rating.from_json(each["quality"]) for each in slices if each["quality"] is not None}
    scan = row.scan_told or {}
    frames = scan.get("frames") or ()
    shown = [_slice(each, ratings.get(each["slice"]), frames) for each in slices]
    told = {"affine": scan.get("affine"), "corrections": scan.get("corrections") or []}
    item = _item(row)
    if item["quality"] is not None and ratings:
        item["quality"] = worst(ratings).as_json()
    told |= {"webhook": row.webhook, "deliveries": row.deliveries or []}
    return JobOut.model_validate({**item, "slices": shown, **told})


def _slice(stored: dict[str, Any], rating: Rating | None, frames: Sequence[Any]) -> dict[str, Any]:
    check = stored["prior_check"] or {}
    quality = None if rating is None else rating.as_json()
    frame = frames[stored["slice"]] if frames else None
    return {
        **stored,
        "frame": frame,
        "quality": quality,
        "reference_slice": check.get("reference_slice", check.get("leader")),
    }


def job_row(session: Session, tenant: str, job_id: uuid.UUID) -> Job:
    """The row alone of the tenant's job of that id."""
    job = session.scalars(select(Job).where(Job.tenant == tenant, Job.id == job_id)).one_or_none()
    if job is None:
        raise no_job(job_id)
    return job


def no_job(job_id: uuid.UUID) -> NotFound:
    """The problem of an unknown job."""
    return NotFound(f"there is no job {job_id}; GET /v1/jobs lists those there are")


def job_page(
    session: Session,
    tenant: str,
    *,
    status: Status | None,
    rating: RatingLevel | None,
    scan_id: uuid.UUID | None,
    comparison_id: uuid.UUID | None,
    tag: str | None,
    method: str | None = None,
    page: PageRequest,
) -> Page[JobItem]:
    """A tenant's jobs, newest first, in one query. Slices, of which a volume has hundreds, are left to `read_job`."""
    ids = page.newest_first(select(_LISTED.id).where(_LISTED.tenant == tenant), _LISTED.id)
    if status is not None:
        ids = ids.where(_LISTED.status == status)
    if rating is not None:
        ids = ids.where(_LISTED.rating == rating)
    if scan_id is not None:
        ids = ids.where(_LISTED.scan_id == scan_id)
    if comparison_id is not None:
        ids = ids.where(_LISTED.comparison_id == comparison_id)
    if method is not None:
        ids = ids.where(_LISTED.parameters["method"].astext == method)
    if tag is not None:
        key, colon, value = tag.partition(":")
        ids = ids.where(_LISTED.tags.contains({key: value}) if colon else _LISTED.tags.has_key(key))
    # Ids first: whatever plan is made for the filters, the slices of those jobs alone are read that the page shows.
    query = _JOBS.where(_JOB.id.in_(ids)).order_by(_JOB.id.desc())
    rows, next_cursor = page.split(session.execute(query).all())
    return Page(items=[JobItem.model_validate(_item(row)) for row in rows], next_cursor=next_cursor)


def snapshots(session: Session, job_id: uuid.UUID, *, after: int, slice_: int | None, limit: int) -> list[SnapshotOut]:
    """Snapshots later than `after`, oldest first."""
    query = select(Snapshot).where(Snapshot.job_id == job_id, Snapshot.seq > after).order_by(Snapshot.seq).limit(limit)
    if slice_ is not None:
        query = query.where(Snapshot.slice == slice_)
    return [SnapshotOut.model_validate(row, from_attributes=True) for row in session.scalars(query)]


def _item(row: Any) -> dict[str, Any]:
    root = f"/v1/jobs/{row.id}"
    links = {"self": root} | ({"scan": f"/v1/scans/{row.scan_id}"} if row.scan_id else {})
    links |= {"comparison": f"/v1/comparisons/{row.comparison_id}"} if row.comparison_id else {}
    links |= {name: f"{root}/{name}" for name in ("progress", "events", "result", "preview.png", "cancel", "retry")}
    shown = row._asdict()
    return {
        **{name: shown[name] for name in _SHOWN if name not in ("damaged", "rating", "scan_warnings", "slices")},
        "slice_numbers": row.slices,
        "priority": priority_name(row.priority),
        "compute_seconds": row.compute_seconds,
        "estimate": _estimate(row),
        "progress": _progress(row),
        "metrics": None if row.metrics is None else Metrics.model_validate(row.metrics),
        "quality": _quality(row),
        "warnings": _warnings(row),
        "attempt": row.attempt,
        "worker": row.worker,
        "links": links,
    }


def _estimate(row: Any) -> EstimateOut | None:
    if row.estimated_seconds is None:
        return None
    # Three digits: it is no more than an estimate.
    seconds = float(f"{row.estimated_seconds:.3g}")
    return EstimateOut(seconds=seconds, memory_bytes=row.memory_bytes, result_bytes=row.result_bytes)


def _quality(row: Any) -> dict[str, Any] | None:
    """The job's rating, with the reasons of its first slices at that level."""
    if row.rating is None:
        return None
    if not row.at_rating:  # an old worker
        return Rating("unrated", ("the version that made it rated no slices",)).as_json()
    reasons = {int(number): each for number, each in (row.rating_reasons or {}).items()}
    return of_volume(row.rating, dict(sorted(reasons.items())), row.at_rating).as_json()


def _warnings(row: Any) -> list[str]:
    """What is to be known of the job's scan, of its slices, and of its files."""
    unknown = [ood_warning(row.foreign)] if row.foreign else []
    return [*(row.scan_warnings or ()), *unknown, *integrity.warnings_of(row.damaged)]


def _progress(row: Any) -> Progress:
    """Over all slices; the time left follows from the seconds that an iteration took so far."""
    eta = None
    if row.status == Status.RUNNING and row.running and row.iteration and row.iterations:
        eta = round((row.iterations - row.iteration) * row.seconds / row.iteration / row.running, 1)
    return Progress(
        fraction=float(row.parts) / row.slices_in_all if row.slices_in_all else 0.0,
        slices_done=row.slices_done,
        slices=row.slices_in_all,
        iteration=row.iteration,
        iterations=row.iterations,
        eta_seconds=eta,
    )

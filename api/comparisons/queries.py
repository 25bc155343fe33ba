"""Queries of comparisons: status and progress follow from their jobs."""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from udig_recon.api.comparisons.schemas import ComparisonItem, ComparisonOut, ComparisonProgress, EntryOut, FailureOut
from udig_recon.api.http.pagination import Page, PageRequest
from udig_recon.api.http.problems import NotFound
from udig_recon.api.jobs.queries import PART, RUNNING, SUCCEEDED
from udig_recon.core.comparison.entries import ENTRY_METRICS, Entry
from udig_recon.core.quality.rating import LEVELS
from udig_recon.worker.database.tables import OPEN, Comparison, Job, JobSlice, Status

_LABEL = Job.compared["label"].astext
_GROUPS = (
    select(
        Job.comparison_id,
        _LABEL.label("label"),
        Job.status,
        func.count(Job.id.distinct()).label("jobs"),
        func.count().label("slices"),
        func.count().filter(SUCCEEDED).label("slices_done"),
        func.count().filter(RUNNING).label("running"),
        func.sum(PART).label("parts"),
        func.sum(JobSlice.seconds).label("seconds"),
    )
    .join(JobSlice)
    .group_by(Job.comparison_id, _LABEL, Job.status)
)
_LINKS = ("table", "ranking", "panel.png", "cancel")


def comparison_row(session: Session, tenant: str, comparison_id: uuid.UUID, *, for_change: bool = False) -> Comparison:
    """The row alone of the tenant's comparison of that id.

    Held for a change it can still be referred to: the webhook of its end may be filed meanwhile.
    """
    query = select(Comparison).where(Comparison.tenant == tenant, Comparison.id == comparison_id)
    comparison = session.scalars(query.with_for_update(key_share=True) if for_change else query).one_or_none()
    if comparison is None:
        raise NotFound(f"there is no comparison {comparison_id}; GET /v1/comparisons lists those there are")
    return comparison


def read_comparison(session: Session, tenant: str, comparison_id: uuid.UUID) -> ComparisonOut:
    """The tenant's comparison of that id."""
    comparison = comparison_row(session, tenant, comparison_id)
    (item,) = _items(session, [comparison])
    return ComparisonOut(
        **dict(item), entries=_entries(session, comparison_id), errors=_failures(session, comparison_id)
    )


def comparison_page(session: Session, tenant: str, page: PageRequest) -> Page[ComparisonItem]:
    """A tenant's comparisons, newest first."""
    query = page.newest_first(select(Comparison).where(Comparison.tenant == tenant), Comparison.__table__.c.id)
    rows, next_cursor = page.split(session.scalars(query).all())
    return Page(items=_items(session, rows), next_cursor=next_cursor)


def slice_entries(session: Session, comparison_id: uuid.UUID) -> list[Entry]:
    """An entry for each slice of the jobs that have succeeded, in the order in which they were filed."""
    query = (
        select(Job.compared, Job.seed, JobSlice.slice, JobSlice.metrics, JobSlice.seconds, JobSlice.quality)
        .join(JobSlice)
        .where(Job.comparison_id == comparison_id, Job.status == Status.SUCCEEDED)
        .order_by(Job.id, JobSlice.slice)
    )
    measured = [name for name in ENTRY_METRICS if name != "seconds"]
    return [
        Entry(
            method=row.compared["label"],
            scan=row.compared["scan"],
            sampling=row.compared["sampling"],
            slice=row.slice,
            seed=row.seed,
            seconds=row.seconds,
            **{name: (row.metrics or {}).get(name) for name in measured},
            rating=(row.quality or {}).get("rating"),
        )
        for row in session.execute(query)
    ]


def _items(session: Session, comparisons: Sequence[Comparison]) -> list[ComparisonItem]:
    groups: defaultdict[uuid.UUID, list[Row[Any]]] = defaultdict(list)
    for group in session.execute(_GROUPS.where(Job.comparison_id.in_([each.id for each in comparisons]))):
        groups[group.comparison_id].append(group)
    return [_item(each, groups[each.id]) for each in comparisons]


def _item(comparison: Comparison, groups: Sequence[Row[Any]]) -> ComparisonItem:
    root = f"/v1/comparisons/{comparison.id}"
    links = {"self": root, "jobs": f"/v1/jobs?comparison_id={comparison.id}"}
    return ComparisonItem(
        **comparison.request,
        id=comparison.id,
        status=_status({group.status for group in groups}),
        progress=_progress(groups),
        created_at=comparison.created_at,
        expires_at=comparison.expires_at,
        links=links | {name: f"{root}/{name}" for name in _LINKS},
    )


def _status(of_jobs: set[Status]) -> Status:
    if of_jobs == {Status.QUEUED}:
        return Status.QUEUED
    if of_jobs & set(OPEN):
        return Status.RUNNING
    if Status.FAILED in of_jobs:
        return Status.FAILED
    return Status.SUCCEEDED if of_jobs == {Status.SUCCEEDED} else Status.CANCELLED


def _progress(groups: Sequence[Row[Any]]) -> ComparisonProgress:
    slices = sum(group.slices for group in groups)
    return ComparisonProgress(
        fraction=float(sum(group.parts for group in groups)) / slices if slices else 0.0,
        jobs_done=sum(group.jobs for group in groups if group.status.ended),
        jobs=sum(group.jobs for group in groups),
        slices_done=sum(group.slices_done for group in groups),
        slices=slices,
        eta_seconds=_eta(groups),
    )


def _eta(groups: Sequence[Row[Any]]) -> float | None:
    """What is left of each method takes as long as what is done of it, and as many slices run at once as now."""
    parts, seconds, left = (defaultdict[str, float](float) for _ in range(3))
    for group in groups:
        parts[group.label] += float(group.parts)
        seconds[group.label] += group.seconds
        if not group.status.ended:
            left[group.label] += group.slices - float(group.parts)
    running: int = sum(group.running for group in groups)
    if not running or any(not parts[label] for label in left):
        return None
    return round(sum(left[label] * seconds[label] / parts[label] for label in left) / running, 1)


def _run(row: Row[Any]) -> dict[str, Any]:
    return {"job_id": row.id, "label": row.compared["label"], "scan_id": row.compared["scan"], "seed": row.seed}


def _entries(session: Session, comparison_id: uuid.UUID) -> list[EntryOut]:
    seconds, slices = func.sum(JobSlice.seconds).label("seconds"), func.count().label("slices")
    ratings = func.array_agg(JobSlice.quality["rating"].astext).label("ratings")
    query = (
        select(Job.id, Job.compared, Job.seed, Job.metrics, seconds, slices, ratings)
        .join(JobSlice)
        .where(Job.comparison_id == comparison_id, Job.status == Status.SUCCEEDED)
        .group_by(Job.id)
        .order_by(Job.id)
    )
    return [
        EntryOut.model_validate(
            {
                **(row.metrics or {}),
                **_run(row),
                "sampling": row.compared["sampling"],
                "seconds": row.seconds,
                "slices": row.slices,
                "rating": max(filter(None, row.ratings), key=LEVELS.index, default=None),
            }
        )
        for row in session.execute(query)
    ]


def _failures(session: Session, comparison_id: uuid.UUID) -> list[FailureOut]:
    query = (
        select(Job.id, Job.compared, Job.seed, Job.error)
        .where(Job.comparison_id == comparison_id, Job.status == Status.FAILED)
        .order_by(Job.id)
    )
    return [FailureOut(**_run(row), error=row.error) for row in session.execute(query)]

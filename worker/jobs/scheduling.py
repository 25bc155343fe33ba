"""Scheduling: the next slice, by priority, then by fair shares of tenants and of their jobs (least attained service).

The usage of a tenant is the worker time of its slices within the last quarter of an hour, running slices included. The
tenant with the least usage is next, then its job with the least, then the slices in their order. A higher priority goes
first; every few minutes a slice of a lower priority gets a turn. Long slices yield: a tenant without a worker gets the
worker of a slice whose tenant had more and that has run for its quantum.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    Subquery,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.orm import Session, aliased

from udig_recon.worker.database import locks
from udig_recon.worker.database.locks import Lock
from udig_recon.worker.database.tables import OPEN, ComputeUsage, Job, JobSlice, Priority, Status, Worker
from udig_recon.worker.runtime.health import was_seen_recently
from udig_recon.worker.runtime.memory_fit import Room

WINDOW = timedelta(minutes=15)  # what a tenant had longer ago is not held against it
STARVED = timedelta(minutes=5)  # after so long without a worker the lower priorities get one
QUANTUM = timedelta(seconds=60)  # that a slice keeps its worker which gave way before, or whose turn that is
UNANSWERED_SECONDS = 10.0  # a slice that has not given way after this may not be able to: another is asked
IDLE = timedelta(seconds=8)  # a worker that is free takes what waits sooner than this
KEPT = timedelta(hours=25)  # of usage
SUMMED_FROM = 1000  # rows; fewer are no burden
MOST_WAITING = 64
MOST_TRIED = 64  # jobs that a worker tries while others hold the first


class Next(NamedTuple):
    """A slice that may start and is next."""

    job_id: uuid.UUID
    slice: int
    priority: int
    starved: bool = False  # it is its priority's turn, though more urgent ones wait


def claimable() -> ColumnElement[bool]:
    """Whether a slice waits for a worker and its reference slice, if it has one, is done."""
    reference = aliased(JobSlice)
    undone = select(reference.slice).where(
        reference.job_id == JobSlice.job_id,
        reference.slice == JobSlice.reference_slice,
        reference.status != Status.SUCCEEDED,
    )
    return and_(JobSlice.status == Status.QUEUED, ~undone.correlate(JobSlice).exists())


def next_slice(session: Session, skip: Sequence[uuid.UUID] = (), room: Room | None = None) -> Next | None:
    """Return the next slice, of no job that is skipped; None when none may start.

    A slice that does not fit into the `room` is skipped. Once it has been skipped for long, no other slice starts on
    this machine until it fits.
    """
    found = session.execute(_rank(Job.id.not_in(skip))).first()
    if found is None:
        return None
    if room is not None and not room.takes(session, found.id):
        if room.is_kept_for(session, found.id):
            return None
        found = session.execute(_rank(Job.id.not_in(skip), room.fits())).first()
        return None if found is None else Next(*found)
    first = Next(*found)
    if first.priority > Priority.ROUTINE and session.scalar(select(_longest_waiting(first.priority))):
        lower = session.execute(_rank(Job.id.not_in(skip), Job.priority < first.priority)).first()
        if lower is not None:
            return Next(*lower, starved=True)
    return first


def next_jobs(session: Session, priority: int, skip: Sequence[uuid.UUID], room: Room | None) -> list[uuid.UUID]:
    """Return jobs of a priority with slices that may start, in their order, up to the first that does not fit.

    The machine may be kept free for that one.
    """
    query = _rank(Job.id.not_in(skip), Job.priority == priority).limit(MOST_TRIED)
    jobs = [row.id for row in session.execute(query)]
    if room is None:
        return jobs
    fitting = set(session.scalars(select(Job.id).where(Job.id.in_(jobs), room.fits())))
    return list(takewhile(fitting.__contains__, jobs))


def _rank(*which: ColumnElement[bool]) -> Select[uuid.UUID, int, int]:
    """Query for the first claimable slice of the first job that has one: jobs are ranked before any slice is read."""
    used = _usage()
    of_tenant = _sums(used, "tenant")
    of_job = _sums(used, "job_id")
    had, its = func.coalesce(of_tenant.c.seconds, 0.0), func.coalesce(of_job.c.seconds, 0.0)
    ranked = (
        select(Job.id, Job.priority, had.label("had"), its.label("its"))
        .outerjoin(of_tenant, of_tenant.c.tenant == Job.tenant)
        .outerjoin(of_job, of_job.c.job_id == Job.id)
        .where(Job.status.in_(OPEN), Job.scan_id.is_not(None), *which)
        .order_by(Job.priority.desc(), had, its, Job.id)
        .subquery("ranked")
    )
    first = (
        select(JobSlice.slice)
        .where(JobSlice.job_id == ranked.c.id, claimable())
        .order_by(JobSlice.slice)
        .limit(1)
        .lateral()
    )
    return (
        select(ranked.c.id, first.c.slice, ranked.c.priority)
        .join(first, true())
        .order_by(ranked.c.priority.desc(), ranked.c.had, ranked.c.its, ranked.c.id)
        .limit(1)
    )


def _usage() -> Subquery:
    """Worker seconds within the window, of finished and of running attempts."""
    window = literal(WINDOW.total_seconds())
    left_in_it = func.extract("epoch", ComputeUsage.at - (func.now() - WINDOW))
    ended = select(
        ComputeUsage.tenant, ComputeUsage.job_id, func.least(ComputeUsage.seconds, left_in_it).label("seconds")
    ).where(ComputeUsage.at > func.now() - WINDOW)
    so_far = func.extract("epoch", func.now() - func.coalesce(JobSlice.claimed_at, func.now()))
    running = (
        select(Job.tenant, JobSlice.job_id, func.least(so_far, window))
        .join(Job, Job.id == JobSlice.job_id)
        .where(JobSlice.status == Status.RUNNING)
    )
    return union_all(ended, running).subquery("used")


def _sums(used: Subquery, name: str) -> Subquery:
    column = used.c[name]
    return select(column, func.sum(used.c.seconds).label("seconds")).group_by(column).subquery(f"of_{name}")


def _longest_waiting(below: int) -> ColumnElement[bool]:
    """Whether slices below a priority have waited for long, and none of them had a worker meanwhile."""
    running = exists().where(JobSlice.job_id == Job.id, JobSlice.status == Status.RUNNING, Job.priority < below)
    lately = exists().where(ComputeUsage.priority < below, ComputeUsage.at > func.now() - STARVED)
    waits = exists().where(
        JobSlice.job_id == Job.id,
        Job.status.in_(OPEN),
        Job.scan_id.is_not(None),
        Job.priority < below,
        JobSlice.queued_at < func.now() - STARVED,
        claimable(),
    )
    return ~running & ~lately & waits


def protection(starved: bool) -> ColumnElement[Any]:
    """Time until which a slice that is being claimed is not asked to yield."""
    return func.now() + QUANTUM if starved else case((JobSlice.yielded, func.now() + QUANTUM))


def out_of_time() -> ColumnElement[bool]:
    """Whether a job has computed for longer than its limit, running attempts included."""
    each = aliased(JobSlice)
    so_far = func.extract("epoch", func.now() - func.coalesce(each.claimed_at, func.now()))
    running = select(func.coalesce(func.sum(so_far), 0.0)).where(each.job_id == Job.id, each.status == Status.RUNNING)
    spent = Job.seconds + running.correlate(Job).scalar_subquery()
    return case((Job.max_seconds.is_(None), False), else_=spent >= Job.max_seconds)


class _Running(NamedTuple):
    job_id: uuid.UUID
    slice: int
    priority: int
    tenant: str
    worker: str | None
    claimed_at: datetime | None
    asked_for: float | None  # seconds ago
    protected: bool
    had_its_turn: bool


def ask_to_yield(session: Session, alive_seconds: float) -> int:
    """Ask running slices to yield, one for each more urgent slice that finds no free worker. Returns their number.

    The least urgent are asked first, then those of the tenant with the most usage. A slice yields to one of equal
    priority if it has run for QUANTUM, its tenant had more, and the other tenant has no worker. A slice that need not
    yield any more is asked no more. One process at a time does this; the others return 0.
    """
    if not locks.try_acquire(session, Lock.YIELD):
        return 0
    running = _running(session)
    wanted = _waiting_priorities(session, running, alive_seconds)
    others = _without_worker(session, running)
    chosen = _select_slices_to_yield(session, running, wanted, others) if wanted or others else []
    for each in running:
        if (asked := each in chosen) != (each.asked_for is not None):
            here = (
                (JobSlice.job_id == each.job_id) & (JobSlice.slice == each.slice) & (JobSlice.status == Status.RUNNING)
            )
            session.execute(update(JobSlice).where(here).values(yield_requested_at=func.now() if asked else None))
    return len(chosen)


def _running(session: Session) -> list[_Running]:
    query = (
        select(
            JobSlice.job_id,
            JobSlice.slice,
            Job.priority,
            Job.tenant,
            JobSlice.worker,
            JobSlice.claimed_at,
            func.extract("epoch", func.now() - JobSlice.yield_requested_at),
            func.coalesce(JobSlice.protected_until > func.now(), False),
            func.coalesce(JobSlice.claimed_at < func.now() - QUANTUM, False),
        )
        .join(Job)
        .where(JobSlice.status == Status.RUNNING)
    )
    return [_Running(*row) for row in session.execute(query)]


def _waiting_priorities(session: Session, running: Sequence[_Running], alive_seconds: float) -> list[int]:
    """Priorities of the waiting slices that are more urgent than a running one and find no free worker."""
    if not running:
        return []
    lowest = min(each.priority for each in running)
    waiting = (
        select(Job.priority, JobSlice.queued_at < func.now() - IDLE)
        .join(Job)
        .where(Job.status.in_(OPEN), Job.scan_id.is_not(None), Job.priority > lowest, claimable())
        .order_by(Job.priority.desc(), JobSlice.queued_at)
        .limit(MOST_WAITING)
    )
    rows = session.execute(waiting).all()
    if not rows:
        return []
    busy = [each.worker for each in running if each.worker is not None]
    alive = select(func.count()).select_from(Worker).where(was_seen_recently(alive_seconds), Worker.name.not_in(busy))
    # One that is alive and takes nothing is free by name alone.
    free = 0 if any(long for _, long in rows) else session.scalar(alive) or 0
    return [priority for priority, _ in rows][free:]


def _without_worker(session: Session, running: Sequence[_Running]) -> Sequence[str]:
    """Tenants without any worker whose slices wait and are as urgent as the least urgent running slice."""
    if not any(each.had_its_turn for each in running):
        return []
    waits = select(JobSlice.slice).where(JobSlice.job_id == Job.id, JobSlice.queued_at < func.now() - IDLE, claimable())
    query = (
        select(Job.tenant)
        .where(
            Job.status.in_(OPEN),
            Job.scan_id.is_not(None),
            Job.priority == min(each.priority for each in running),
            Job.tenant.not_in({each.tenant for each in running}),
            waits.correlate(Job).exists(),
        )
        .distinct()
        .limit(MOST_WAITING)
    )
    return session.scalars(query).all()


def _select_slices_to_yield(
    session: Session, running: Sequence[_Running], wanted: Sequence[int], others: Sequence[str]
) -> list[_Running]:
    sums = _sums(_usage(), "tenant")
    used: dict[str, float] = {row.tenant: float(row.seconds) for row in session.execute(select(sums))}

    def order(each: _Running) -> tuple[int, bool, float, float]:
        began = 0.0 if each.claimed_at is None else each.claimed_at.timestamp()
        return each.priority, each.asked_for is None, -used.get(each.tenant, 0.0), began

    candidates = sorted((each for each in running if not each.protected), key=order)
    chosen: list[_Running] = []
    for priority in wanted:
        for each in candidates:
            if each in chosen or each.priority >= priority:
                continue
            chosen.append(each)
            if each.asked_for is None or each.asked_for < UNANSWERED_SECONDS:
                break
    lowest = min(each.priority for each in running)
    for tenant in sorted(others, key=lambda tenant: used.get(tenant, 0.0)):
        for each in candidates:
            had_more = used.get(each.tenant, 0.0) > used.get(tenant, 0.0)
            if each in chosen or each.priority > lowest or not each.had_its_turn or not had_more:
                continue
            chosen.append(each)
            if each.asked_for is None or each.asked_for < UNANSWERED_SECONDS:
                break
    return chosen


def sum_up_usage(session: Session) -> None:
    """Replace many usage rows by one for each minute of a job, and delete old ones. One process at a time."""
    session.execute(delete(ComputeUsage).where(ComputeUsage.at < func.now() - KEPT))
    minute = func.date_trunc("minute", func.now())
    rows = select(func.count()).select_from(ComputeUsage).where(ComputeUsage.at < minute)
    if (session.scalar(rows) or 0) < SUMMED_FROM:
        return
    columns = (ComputeUsage.tenant, ComputeUsage.job_id, ComputeUsage.priority, ComputeUsage.seconds, ComputeUsage.at)
    old = delete(ComputeUsage).where(ComputeUsage.at < minute).returning(*columns).cte("old")
    when = func.date_trunc("minute", old.c.at)
    sums = select(old.c.tenant, old.c.job_id, old.c.priority, func.sum(old.c.seconds), func.max(old.c.at)).group_by(
        old.c.tenant, old.c.job_id, old.c.priority, when
    )
    session.execute(insert(ComputeUsage).from_select(["tenant", "job_id", "priority", "seconds", "at"], sums))

"""Checks after the last job: rows, files, bits of images, and the records of the witness."""

import re
from collections.abc import Container, Sequence
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.chaos import witness
from benchmarks.chaos.clients import Images, Notes
from benchmarks.chaos.faults import Happened, Storm
from benchmarks.chaos.stack import Stack
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.database.tables import DEFAULT_TENANT, Job, JobSlice, Scan, Status
from udig_recon.worker.storage import keys

SURE_TO_HIT = 3  # so often a fault strikes before one that only may hit something must have hit


class Check(NamedTuple):
    """One line of the verdict."""

    what: str
    found: str
    wanted: str
    holds: bool


class Recovery(NamedTuple):
    """The longest that a kind of fault took, in seconds from its strike, and from its lift where it lasted."""

    name: str
    times: int
    longest_held: float
    until_ready: float
    until_claimed: float | None


def misplaced_files(session: Session, stack: Stack) -> tuple[list[str], list[str]]:
    """Files and folders below DATA that no row names, and those that a row names and that are not there.

    On a bucket, its objects, groups, and scratch files of the machine.
    """
    data = stack.settings.data
    scans = session.scalars(select(Scan)).all()
    wanted = {f"scans/{scan.sha256}" for scan in scans} | {"identity"}
    allowed = {f"prepared/{scan.tenant}/{scan.sha256}" for scan in scans} | {f"prepared/{DEFAULT_TENANT}"}
    for job in session.scalars(select(Job)).all():
        if job.status is Status.SUCCEEDED:
            written = [OUTPUTS[name] for name in {"h5", *job.outputs} if not OUTPUTS[name].on_demand]
            wanted |= {f"{job.result}/reconstruction{each.suffix}" for each in written}
            allowed |= {f"{job.result}/reconstruction{each.suffix}" for each in OUTPUTS.values()}
    allowed |= {f"{path}.sha256" for path in allowed}
    for job_slice in session.scalars(select(JobSlice)).all():
        allowed.add(f"jobs/{job_slice.job_id}/previews/{job_slice.slice}.npz")
        if job_slice.result is not None:
            wanted.add(job_slice.result)
    if stack.bucket is None:
        found = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file() or not any(path.iterdir())}
    else:
        storage = stack.storage
        found = {each.key for name in (*keys.COLLECTIONS, keys.PARTS) for each in storage.list(name)} | {keys.IDENTITY}
        found |= {f"{group}/slices" for group, _ in storage.groups()}
        found |= {f"incoming/{path.name}" for path in (data / "incoming").iterdir()}
    jobs = session.scalars(select(Job.id)).all()
    folders = {f"jobs/{job}/{name}" for job in jobs for name in ("checkpoints", "slices", "previews", "results")}
    # Projectors are of geometries, which no row names.
    projectors = {path for path in found if re.fullmatch(r"projectors/[0-9a-f]{64}\.pair", path)}
    collections = {"incoming", "scans", "prepared", "identities", "jobs", "projectors"}
    orphans = found - wanted - allowed - folders - projectors - collections
    return sorted(orphans), sorted(wanted - found)


def checks(stack: Stack, notes: Notes, abandoned: set[str], storm: Storm, calm: dict[str, Images]) -> list[Check]:
    """Every check, in the order of the table."""
    with stack.sessions() as session:
        seen = witness.account(session)
        jobs = session.scalars(select(Job)).all()
        orphans, missing = misplaced_files(session, stack)
    status = {str(job.id): job.status for job in jobs}
    # Whether the request of a client that never asked again had come through, the rows alone know.
    unheard = {str(job.id) for job in jobs if job.idempotency_key in abandoned | notes.given_up}
    answered = set(notes.accepted.values()) - notes.deleted
    kept = answered | unheard
    ended = sum(status[job].ended for job in kept if job in status)
    succeeded = sum(status.get(job) is Status.SUCCEEDED for job in kept)
    lost = [job for job in kept if not seen.accepted.get(job)]
    doubled = [job for job, count in seen.accepted.items() if count > 1]
    unequal = [key for key, (kind, found) in notes.images.items() if found != calm[kind]]
    events, count = stack.events(), len(kept)
    hits = (
        ("scans refused while the disk was full", stack.uploads[507], "full-data"),
        ("answers of commits lost", stack.wire.cut.total(), "lost-answers"),
        *(
            []
            if stack.bucket is None
            else [
                ("answers of puts lost", stack.bucket.counts["answers of puts lost"], "lost-puts"),
                ("requests that the bucket answered 503", stack.bucket.counts["answers 503"], "503-bucket"),
                ("times that the bucket was found to be away", stack.events()["storage.unavailable"], "pause-bucket"),
            ]
        ),
    )
    by_itself = {process.name: process.ended_by_itself for process in stack.workers + stack.api_processes}
    by_itself = {name: statuses for name, statuses in by_itself.items() if statuses}
    return [
        Check("accepted jobs that ended", f"{ended}", f"{count}", ended == count),
        Check("accepted jobs that succeeded", f"{succeeded}", f"{count}", succeeded == count),
        _none("jobs filed twice, or by nobody", len(set(status) ^ kept), sorted(set(status) ^ kept)),
        _none("results lost", len(lost), lost),
        _none("results doubled", len(doubled)),
        _none("slice results doubled", seen.doubled_slices),
        _none("slice results of a stale writer accepted", seen.stale_slices),
        _none("snapshots doubled", seen.doubled_snapshots),
        _none("jobs whose snapshots have gaps", seen.snapshot_gaps),
        Check("results fetched", f"{len(notes.images)}", f"{len(answered)}", len(notes.images) == len(answered)),
        _none("results with other bits than without faults", len(unequal), unequal),
        _none("clients that gave up, for the run was too short", len(notes.given_up)),
        _none("files that no row names", len(orphans), orphans),
        _none("files that are missing", len(missing), missing),
        _some("stale writers fenced off", events["slice.lease_lost"]),
        _none("answers and failures that no client should get", len(notes.unexpected), notes.unexpected),
        _none("scans taken while the disk was full", sum(stack.uploads[status] for status in (200, 201))),
        *(_some(what, count) for what, count, fault in hits if storm.planned[fault] >= SURE_TO_HIT),
        _none("faults that never struck", len(storm.never), storm.never),
        _none("processes that ended by themselves", len(by_itself), [str(by_itself)]),
        Check("ready again at the end", _ready(stack), "yes", _ready(stack) == "yes"),
    ]


def _ready(stack: Stack) -> str:
    return "yes" if stack.readiness.ready_since_probe_at else "; ".join(stack.readiness.last_probe)


def _some(what: str, count: int) -> Check:
    return Check(what, f"{count}", "1 or more", count > 0)


def _none(what: str, count: int, examples: list[str] | None = None) -> Check:
    shown = f": {'; '.join(examples[:3])}" if count and examples else ""
    return Check(what, f"{count}{shown}", "0", count == 0)


def open_jobs(session: Session) -> int:
    """Jobs that have not ended."""
    return session.scalar(select(func.count()).where(Job.status.in_([Status.QUEUED, Status.RUNNING]))) or 0


def left_failed(session: Session, problems: Sequence[str]) -> list[str]:
    """Jobs that failed by a cause which passes, and that nobody asks for again."""
    kind = func.split_part(Job.error["type"].astext, ":", 4)
    query = select(Job.id).where(Job.status == Status.FAILED, kind.in_(problems))
    return [str(job) for job in session.scalars(query)]


def recoveries(session: Session, happened: list[Happened], retried: Container[str]) -> list[Recovery]:
    """By kind of fault. Jobs that had failed and were retried at the end waited for that, not for the service."""
    found = []
    for name in dict.fromkeys(each.name for each in happened):
        same = [each for each in happened if each.name == name]
        ready = [each.ready - each.began for each in same if each.ready is not None]
        claimed = [
            at.timestamp() - each.began_wall
            for each in same
            for held in each.struck.job_slices
            if held.job_id not in retried and (at := witness.claimed_again(session, *held)) is not None
        ]
        held = max((each.lifted or each.began) - each.began for each in same)
        found.append(Recovery(name, len(same), held, max(ready, default=0.0), max(claimed, default=None)))
    return found

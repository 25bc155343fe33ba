"""The state machine of jobs and slices: only its moves are made, and no other module makes any."""

import ast
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support.claim import claim_slice
from tests.support.worker_processes import ROOT, Desk
from udig_recon.worker.database.tables import Job, JobSlice, Status
from udig_recon.worker.jobs import state
from udig_recon.worker.jobs.state import MOVES, SLICE_MOVES, ForbiddenMove, LeaseLost

PAIRS = list(product(Status, Status))


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_job_makes_the_moves_of_the_table_and_no_other(desk: Desk, before: Status, after: Status) -> None:
    job_id = desk.submit(desk.scan(), messages=0)
    with desk.database.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status=before))
    allowed = after in MOVES[before]
    with desk.database.begin() as session:
        job = state.lock_job(session, job_id)
        if allowed:
            state.move_job(session, job, after)
        else:
            with pytest.raises(ForbiddenMove, match=f"is {before}, after which {after} may not follow"):
                state.move_job(session, job, after)
    job = desk.job(job_id)
    assert job.status is (after if allowed else before)
    assert (job.finished_at is not None) == (allowed and after.ended)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_a_slice_makes_the_moves_of_the_table_and_no_other(desk: Desk, before: Status, after: Status) -> None:
    job_id = desk.submit(desk.scan(slices=2), slices=[0, 1], messages=0)
    with desk.database.begin() as session:
        session.execute(update(JobSlice).where(JobSlice.slice == 0).values(status=before))
        if after in SLICE_MOVES[before]:
            assert state.move_slices(session, job_id, [before], after, JobSlice.slice == 0) == [0]
        else:
            with pytest.raises(ForbiddenMove, match=f"{after} may not follow {before}"):
                state.move_slices(session, job_id, [before], after)
    first, second = desk.job_slices(job_id)
    assert first.status is (after if after in SLICE_MOVES[before] else before)
    assert second.status is Status.QUEUED


@pytest.mark.parametrize("after", sorted(SLICE_MOVES[Status.RUNNING]))
def test_a_claim_whose_slice_was_claimed_again_moves_nothing(
    desk: Desk, database: sessionmaker[Session], after: Status
) -> None:
    job_id = desk.submit(desk.scan(), messages=0)
    lost = desk.claimed(job_id)
    with database.begin() as session:
        state.move_slice(session, lost, Status.QUEUED)
        assert claim_slice(session, job_id, 0) is not None
    with pytest.raises(LeaseLost), database.begin() as session:
        state.move_slice(session, lost, after)
    with database() as session:
        assert session.scalars(select(JobSlice.status)).one() is Status.RUNNING


def test_every_ended_status_of_a_job_but_failed_is_final() -> None:
    assert {status for status in Status if not MOVES[status]} == {Status.SUCCEEDED, Status.CANCELLED}


def assigns_status(node: ast.AST) -> bool:
    """Whether a node gives a job or slice a status: `job.status = ...`, `values(status=Status...)`, a dict's entry."""
    match node:
        case ast.Assign(targets=targets):
            parts = [part for target in targets for part in ast.walk(target)]
            return any(isinstance(part, ast.Attribute) and part.attr == "status" for part in parts)
        case ast.AugAssign(target=ast.Attribute(attr="status")) | ast.AnnAssign(target=ast.Attribute(attr="status")):
            return True
        case ast.Call(func=ast.Attribute(attr="values"), keywords=keywords):
            return any(keyword.arg == "status" for keyword in keywords)
        case ast.Call(func=ast.Name(id="Job" | "JobSlice"), keywords=keywords):
            return any(keyword.arg == "status" for keyword in keywords)
        case ast.Call(func=ast.Name(id="setattr"), args=[_, ast.Constant(value="status"), *_]):
            return True
        case ast.Dict(keys=keys, values=values):
            named = [value for key, value in zip(keys, values, strict=True) if _is_status(key)]
            return any(
                isinstance(part, ast.Name) and part.id == "Status" for value in named for part in ast.walk(value)
            )
    return False


def _is_status(key: ast.expr | None) -> bool:
    return isinstance(key, ast.Constant) and key.value == "status"


def assigning(path: Path) -> list[str]:
    """Where a module gives a job or slice a status."""
    tree = ast.parse(path.read_text())
    return [f"{path.relative_to(ROOT)}:{node.lineno}" for node in ast.walk(tree) if _at(node) and assigns_status(node)]


def _at(node: ast.AST) -> bool:
    return hasattr(node, "lineno")


def test_no_other_module_assigns_a_status() -> None:
    modules = [path for room in ("api", "worker") for path in (ROOT / room).rglob("*.py")]
    found = [place for path in modules for place in assigning(path) if not place.startswith("worker/jobs/state.py")]
    assert found == []


def test_the_search_for_assignments_finds_each_way_of_them(tmp_path: Path) -> None:
    ways = ["job.status = x", "a, job.status = x, y", "update(Job).values(status=x)", "Job(status=x)"]
    ways += ["setattr(job, 'status', x)", "again = {'status': Status.QUEUED}"]
    for way in ways:
        assert any(map(assigns_status, ast.walk(ast.parse(way)))), way
    for way in ("job.status == x", "problem(status=404)", "Response(body, status=202)", "row = {'status': 404}"):
        assert not any(map(assigns_status, ast.walk(ast.parse(way)))), way

"""A job as it goes on: its snapshots, and the stream of its events."""

import re
import uuid
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from api import views
from api.context import Context, ContextDep
from api.examples import EVENTS, SNAPSHOTS, answers
from api.negotiation import next_link, tagged_json
from api.problems import Invalid, NotFound
from api.schemas import JobOut, Page, Progress, SnapshotOut
from worker.database import AWAY
from worker.models import Status

router = APIRouter(tags=["jobs"])
KEEP_ALIVE_SECONDS = 15.0
AWAY_SECONDS = 1.0
RECONNECT_MILLISECONDS = 2000
PAGE = 1000
_EVENT_ID = re.compile(r"(\d{1,18})(\.done)?")


class Standing(BaseModel):
    """Data of the events `status` and `done`."""

    status: Status
    progress: Progress


@router.get(
    "/v1/jobs/{job_id}/progress",
    summary="Snapshots of a job",
    response_model=Page[SnapshotOut],
    responses=answers({200: SNAPSHOTS}, 304, 404, 422, 503),
)
def get_progress(
    request: Request,
    context: ContextDep,
    job_id: uuid.UUID,
    slice_: Annotated[int | None, Query(alias="slice", ge=0, lt=1 << 31, description="of this slice only")] = None,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="later than this seq")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
) -> Response:
    """Oldest first; `after` = seq of the last one known gives what is new."""
    with context.sessions() as session:
        views.one_job(session, job_id)
        found = views.snapshots(session, job_id, after=after, slice_=slice_, limit=limit + 1)
    cursor = str(found[limit - 1].seq) if len(found) > limit else None
    return tagged_json(request, Page(items=found[:limit], next_cursor=cursor), next_link(request, cursor, "after"))


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Server-sent events of a job",
    response_class=StreamingResponse,
    responses=answers({200: EVENTS}, 204, 404, 422, 503),
)
async def get_events(
    request: Request,
    context: ContextDep,
    job_id: uuid.UUID,
    last_event_id: Annotated[str | None, Header(description="id of the last event seen: go on after it")] = None,
) -> Response:
    """`status` at first and whenever it changes, `snapshot` with its seq as id, `done` at the end; then it closes.

    A client that comes back with the id of `done` is told by 204 that there is nothing more.
    """
    match = _EVENT_ID.fullmatch(last_event_id or "0")
    if match is None:
        raise Invalid.at("Last-Event-ID", "no event has this id", found=last_event_id or "", expected="id of an event")
    job = await run_in_threadpool(views.read_job, context.sessions, job_id)
    if match[2] and job.status.ended:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.scope.get("head"):
        return Response(media_type="text/event-stream", headers=headers)
    return StreamingResponse(_events(context, job_id, int(match[1])), 200, headers, "text/event-stream")


def _news(context: Context, job_id: uuid.UUID, after: int) -> tuple[JobOut, list[SnapshotOut]]:
    """The job first: once it has ended, every snapshot it will ever have is there to be read after it."""
    with context.sessions() as session:
        job = views.one_job(session, job_id)
        return job, views.snapshots(session, job_id, after=after, slice_=None, limit=PAGE)


async def _events(context: Context, job_id: uuid.UUID, after: int) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RECONNECT_MILLISECONDS)
    told = None
    with context.watcher.watch(job_id) as changed:
        while not context.watcher.closing:
            try:
                job, snapshots = await run_in_threadpool(_news, context, job_id, after)
            except NotFound:
                yield format_sse_event(event="done", data_str='{"status":"deleted"}')
                return
            except AWAY:
                # The client would come back to the same silence: let it wait here.
                await context.watcher.wait(changed, AWAY_SECONDS)
                continue
            standing = Standing(status=job.status, progress=job.progress).model_dump_json()
            if told != (told := (job.status, job.progress.slices_done)):
                yield format_sse_event(event="status", data_str=standing)
            for snapshot in snapshots:
                after = snapshot.seq
                yield format_sse_event(event="snapshot", data_str=snapshot.model_dump_json(), id=str(after))
            if len(snapshots) == PAGE:
                continue
            if job.status.ended:
                yield format_sse_event(event="done", data_str=standing, id=f"{after}.done")
                return
            if not await context.watcher.wait(changed, KEEP_ALIVE_SECONDS):
                yield b": still here\n\n"

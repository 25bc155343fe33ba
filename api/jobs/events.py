"""Server-sent events (SSE) of a job, and its snapshots."""

import re
import time
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from udig_recon.api.access.authentication import Caller, Reader, key_is_valid
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.concurrency import ConcurrencyLimit, client_of
from udig_recon.api.http.pagination import Page, page_response
from udig_recon.api.http.problems import Invalid, NotFound
from udig_recon.api.jobs import queries
from udig_recon.api.jobs.schemas import Progress, SnapshotOut
from udig_recon.api.openapi.content import Content
from udig_recon.api.openapi.responses import responses
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Status

router = APIRouter(tags=["jobs"])
AWAY_SECONDS = 1.0
RECONNECT_MILLISECONDS = 2000
PAGE = 1000
_EVENTS = Content(
    "text/event-stream",
    'event: status\ndata: {"status":"running","progress":{"fraction":0.42},"warnings":[]}\n\n'
    'event: snapshot\ndata: {"seq":7,"slice":0,"iteration":42,"iterations":100,"psnr":34.1}\nid: 7\n\n'
    'event: done\ndata: {"status":"succeeded","progress":{"fraction":1.0},"warnings":[]}\nid: 9.done\n\n',
    item_schema={
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": ["status", "snapshot", "done"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "id": {"type": "string"},
            "retry": {"type": "integer"},
        },
    },
)
_EVENT_ID = re.compile(r"(\d{1,18})(\.done)?")


class StatusEvent(BaseModel):
    """Data of the events `status` and `done`."""

    status: Status
    progress: Progress
    warnings: list[str]


@router.get(
    "/v1/jobs/{job_id}/progress",
    summary="Snapshots of a job",
    response_model=Page[SnapshotOut],
    responses=responses({200: Page[SnapshotOut]}, 304, 404, 422, 503),
)
def list_job_snapshots(
    request: Request,
    context: ContextDep,
    caller: Reader,
    job_id: uuid.UUID,
    slice_: Annotated[int | None, Query(alias="slice", ge=0, lt=1 << 31, description="of this slice only")] = None,
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="later than this seq")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
) -> Response:
    """Oldest first; `after` = seq of the last one known gives what is new."""
    with context.sessions() as session:
        queries.read_job(session, caller.tenant, job_id)
        found = queries.snapshots(session, job_id, after=after, slice_=slice_, limit=limit + 1)
    cursor = str(found[limit - 1].seq) if len(found) > limit else None
    return page_response(request, Page(items=found[:limit], next_cursor=cursor), "after")


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Server-sent events of a job",
    response_class=StreamingResponse,
    responses=responses({200: _EVENTS}, 204, 404, 422, 503),
)
async def stream_job_events(
    request: Request,
    context: ContextDep,
    caller: Reader,
    job_id: uuid.UUID,
    last_event_id: Annotated[str | None, Header(description="id of the last event seen: go on after it")] = None,
) -> Response:
    """`status` at first and whenever it changes, `snapshot` with its seq as id, `done` at the end; then it closes.

    It closes without `done` when the key that opened it holds no longer.

    A client that reconnects with the id of `done` gets 204: there is nothing more.
    """
    match = _EVENT_ID.fullmatch(last_event_id or "0")
    if match is None:
        raise Invalid.at("Last-Event-ID", "no event has this id", found=last_event_id or "", expected="id of an event")
    job = await queries.read_job_async(context.queries, caller.tenant, job_id)
    if match[2] and job.status.ended:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.scope.get("head"):
        return Response(media_type="text/event-stream", headers=headers)
    stream = _events(context, caller, job_id, int(match[1]))
    most = caller.limits(context.settings).max_waits
    return EventStreamResponse(stream, headers, context.concurrency.streams, client_of(request), most)


class EventStreamResponse(StreamingResponse):
    """Server-sent events that hold one of the client's places until they end. Raises TooManyAtOnce or Overloaded."""

    def __init__(
        self,
        events: AsyncIterator[bytes],
        headers: dict[str, str],
        places: ConcurrencyLimit,
        client: str,
        most: int | None = None,
    ) -> None:
        super().__init__(events, 200, headers, "text/event-stream")
        self._places, self._client, self._most = places, client, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        with self._places.slot(self._client, self._most):
            await super().__call__(scope, receive, send)


class _News(NamedTuple):
    """What there is to tell of a job after a snapshot's seq, as it is sent: one reading serves all who are as far."""

    state: tuple[Status, int]  # a change of it makes another `status` event
    status: bytes
    snapshots: bytes
    done: bytes  # empty while it goes on
    seq: int  # of the last snapshot
    more: bool  # further snapshots are there already


def _news(context: Context, tenant: str, job_id: uuid.UUID, after: int) -> _News:
    # The job first: once it has ended, every snapshot it will ever have is there to be read after it.
    with context.sessions() as session:
        job = queries.read_job(session, tenant, job_id)
        found = queries.snapshots(session, job_id, after=after, slice_=None, limit=PAGE)
    seq = found[-1].seq if found else after
    more = len(found) == PAGE
    standing = StatusEvent(status=job.status, progress=job.progress, warnings=job.warnings).model_dump_json()
    snapshots = (
        format_sse_event(event="snapshot", data_str=each.model_dump_json(), id=str(each.seq)) for each in found
    )
    ended = job.status.ended and not more
    return _News(
        state=(job.status, job.progress.slices_done),
        status=format_sse_event(event="status", data_str=standing, retry=RECONNECT_MILLISECONDS),
        snapshots=b"".join(snapshots),
        done=format_sse_event(event="done", data_str=standing, id=f"{seq}.done") if ended else b"",
        seq=seq,
        more=more,
    )


async def _events(context: Context, caller: Caller, job_id: uuid.UUID, after: int) -> AsyncIterator[bytes]:
    state, admitted_at = None, time.monotonic()
    keep_alive_seconds = context.settings.event_keep_alive_seconds
    with context.notifications.subscribe(job_id, None if caller.key is None else caller.key.id) as changed:
        while not context.notifications.closing:
            try:
                if changed.key_changed or time.monotonic() - admitted_at >= keep_alive_seconds:
                    if not await key_is_valid(context, caller):
                        return
                    admitted_at, changed.key_changed = time.monotonic(), False
                news = await context.notifications.read(
                    job_id, after, partial(_news, context, caller.tenant, job_id, after)
                )
            except NotFound:
                yield format_sse_event(event="done", data_str='{"status":"deleted"}')
                return
            except AWAY:
                # The client would come back to the same silence: let it wait here.
                await context.notifications.wait(changed, AWAY_SECONDS)
                continue
            after = news.seq
            if event := (news.status if news.state != state else b"") + news.snapshots + news.done:
                yield event
            state = news.state
            if news.done:
                return
            if not news.more and not await context.notifications.wait(changed, keep_alive_seconds):
                yield b": still here\n\n"

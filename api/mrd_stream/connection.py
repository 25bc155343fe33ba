"""One connection of the MRD stream: its lines become a scan, the scan a job, and the job's images go back."""

import asyncio
import logging
import time
import uuid
from collections.abc import Generator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.authentication import Caller, invalid_key, key_is_valid, record_access
from udig_recon.api.dependencies import Context
from udig_recon.api.error_handlers import problem_of
from udig_recon.api.http.problems import Forbidden, NotFound, Problem
from udig_recon.api.http.threads import run_uncancelled
from udig_recon.api.jobs import queries, stored_files
from udig_recon.api.jobs.schemas import JobOut
from udig_recon.api.jobs.submission import submit
from udig_recon.api.mrd_stream.configuration import Configuration
from udig_recon.api.mrd_stream.images import image_message
from udig_recon.api.mrd_stream.messages import (
    CLOSE_MESSAGE,
    ConnectionCut,
    Line,
    MessageReader,
    ProtocolError,
    text_message,
)
from udig_recon.api.mrd_stream.recording import BLOCK_BYTES, BLOCK_LINES, Recording
from udig_recon.api.scans.ingest import ReceivedScan, begin_upload, examine, store_scan
from udig_recon.api.scans.upload import Upload
from udig_recon.core.formats.readouts.mrd_head import MOST_READOUTS
from udig_recon.core.formats.readouts.mrd_protocol import MessageId
from udig_recon.core.results.hdf5 import open_result
from udig_recon.core.results.mrd import NOTICE
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.access.limits import Scope
from udig_recon.worker.database.engine import AWAY
from udig_recon.worker.database.tables import Status

log = logging.getLogger(__name__)
PROGRESS_SECONDS = 2.0  # between two texts of progress
AWAY_SECONDS = 1.0
WRITE_SECONDS = 60.0  # that a client may leave its images unread
LINGER_SECONDS = 5.0  # how long a client that still sends may go on after it was refused, to read why
LINGER_BYTES = 32 << 20
_EXPECTED = {
    "configuration": "a configuration first (message 1 or 2)",
    "header": "the XML header (message 3) first",
}


class Ended(NamedTuple):
    """How a connection ended: for the log and the metrics."""

    outcome: str
    job_id: uuid.UUID | None = None


class Connection:
    """A client that sends one scan and waits for its images."""

    def __init__(
        self, context: Context, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        settings = context.settings
        self._context, self._caller = context, caller
        self._stream, self._writer = reader, writer
        self._address = str((writer.get_extra_info("peername") or ("",))[0])
        self._messages = MessageReader(
            reader,
            seconds=settings.mrd_timeout_seconds,
            most_bytes=settings.max_upload_bytes,
        )
        self._configuration = Configuration()
        self._lines: list[Line] = []
        self._waiting_bytes, self.line_count = 0, 0
        self._job_id: uuid.UUID | None = None

    @property
    def is_submitted(self) -> bool:
        """Whether the scan is kept and its job is queued: both go on without the connection."""
        return self._job_id is not None

    async def serve(self) -> Ended:
        """Receive the scan, submit its job, follow it and send its images; every way to end is told to the client."""
        try:
            return await self._serve()
        except ConnectionCut:
            return Ended("cut" if self._messages.received_bytes else "unused", self._job_id)
        except (ConnectionError, TimeoutError):
            return Ended("left" if self._job_id else "cut", self._job_id)
        except ProtocolError as error:
            await self._refuse(str(error))
            return Ended("refused", self._job_id)
        except Exception as error:
            problem = problem_of(error)
            if type(problem) is Problem:
                log.error("mrd.failed", exc_info=error)
            await self._refuse(str(problem))
            return Ended("refused", self._job_id)

    async def stop(self) -> None:
        """Tell the client that the service goes down."""
        if self._job_id is None:
            text = "error: this service goes down and has kept nothing of the scan; send it again"
        else:
            text = f"this service goes down; job {self._job_id} goes on, see GET /v1/jobs/{self._job_id}"
        with suppress(ConnectionError, TimeoutError):
            await self._tell(text)
            await self._send(CLOSE_MESSAGE)

    async def _serve(self) -> Ended:
        context = self._context
        self._check_scopes()
        async with begin_upload(context, self._caller, self._address) as upload:
            await self._receive(upload)
            size = f"{self.line_count} lines ({upload.size_bytes / (1 << 20):.1f} MiB)"
            await self._tell(f"received {size}; the scan is being looked into")
            upload.filename = f"mrd-stream-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.h5"
            async with (
                examine(context, self._caller, self._address, upload) as file,
                context.storing_queue.turn(self._caller.tenant),
            ):
                job, header = await run_uncancelled(self._keep, file)
        log.info("mrd.scan_received", extra={"job_id": str(job.id), "lines": self.line_count})
        await self._tell(f"job {job.id} is {job.status}: GET /v1/jobs/{job.id}")
        told: set[str] = set()
        await self._warn(job, told)
        job = await self._follow(job, told)
        if job.status is not Status.SUCCEEDED:
            why = f": {job.error.get('detail', '')}" if job.error else ""
            await self._tell(f"error: job {job.id} is {job.status}{why}")
            await self._send(CLOSE_MESSAGE)
            return Ended("failed", job.id)
        await self._send_images(job, header)
        await self._send(CLOSE_MESSAGE)
        return Ended("succeeded", job.id)

    def _check_scopes(self) -> None:
        key = self._caller.key
        if key is not None and (missing := {Scope.READ.value, Scope.WRITE.value} - set(key.scopes)):
            raise Forbidden(f"the key of this listener lacks the scope {' and '.join(sorted(missing))}")

    async def _receive(self, upload: Upload) -> None:
        """Write what comes until CLOSE. Raises ProtocolError, ConnectionCut, and problems of limits and disk."""
        run = self._context.file_threads.run
        recording: Recording | None = None
        try:
            while True:
                kind = await self._messages.message_id()
                if kind is None:
                    raise ConnectionCut
                if kind == MessageId.CLOSE:
                    break
                if kind in (MessageId.CONFIG_FILE, MessageId.CONFIG_TEXT):
                    if recording is not None:
                        raise ProtocolError(f"a configuration (message {kind}) came after the header, expected before")
                    await self._configure(kind)
                elif kind == MessageId.HEADER:
                    xml = await self._messages.text("the XML header (message 3)")
                    self._check_header(xml, first=recording is None)
                    self._configuration.options()
                    recording = await run(Recording, upload.path)
                    await run(recording.add_header, xml)
                elif recording is None:
                    raise ProtocolError(self._out_of_order(kind))
                elif kind == MessageId.ACQUISITION:
                    self._keep_line(await self._messages.acquisition())
                    if len(self._lines) >= BLOCK_LINES or self._waiting_bytes >= BLOCK_BYTES:
                        await run(self._write_lines, upload, recording)
                elif kind == MessageId.WAVEFORM:
                    await self._messages.skip_waveform()
                elif kind == MessageId.TEXT:
                    await self._messages.text("a text (message 5)")
                else:
                    raise ProtocolError(self._out_of_order(kind))
            if recording is None:
                raise ProtocolError(f"the connection was closed before a scan came, expected {self._next_expected()}")
            if not self.line_count:
                raise ProtocolError("the connection was closed before any line came, expected acquisitions (1008)")
            await run(self._write_lines, upload, recording)
            await run(recording.close)
            recording = None
            await run(upload.finish_file)
        finally:
            if recording is not None:
                with suppress(OSError, RuntimeError):
                    await run(recording.close)

    def _next_expected(self) -> str:
        return _EXPECTED["header" if self._configuration.given else "configuration"]

    def _out_of_order(self, kind: int) -> str:
        if kind in (MessageId.ACQUISITION, MessageId.WAVEFORM, MessageId.TEXT):
            noun = {MessageId.ACQUISITION: "an acquisition", MessageId.WAVEFORM: "a waveform"}.get(
                MessageId(kind), "a text"
            )
            return f"{noun} (message {kind}) came too early, expected {self._next_expected()}"
        if kind == MessageId.IMAGE:
            return "images (message 1022) are not taken: this service reconstructs lines (message 1008)"
        known = ", ".join(str(int(each)) for each in MessageId if each is not MessageId.IMAGE)
        return f"there is no message {kind}, expected one of {known}"

    async def _configure(self, kind: int) -> None:
        if kind == MessageId.CONFIG_FILE:
            self._configuration.add_name(await self._messages.config_file())
        else:
            self._configuration.add_text(await self._messages.text("the configuration (message 2)"))

    def _check_header(self, xml: bytes, *, first: bool) -> None:
        if not first:
            raise ProtocolError("the XML header (message 3) came twice, expected once: one connection is one scan")
        if not self._configuration.given:
            raise ProtocolError(f"the XML header (message 3) came too early, expected {_EXPECTED['configuration']}")
        if b"\0" in xml or b"ismrmrdHeader" not in xml:
            raise ProtocolError("the header (message 3) is no ISMRMRD header, expected XML with <ismrmrdHeader>")

    def _keep_line(self, line: Line) -> None:
        self.line_count += 1
        if self.line_count > MOST_READOUTS:
            raise ProtocolError(f"the scan has more than {MOST_READOUTS} lines, which is the most that is read")
        self._lines.append(line)
        self._waiting_bytes += len(line.data) + len(line.trajectory)

    def _write_lines(self, upload: Upload, recording: Recording) -> None:
        lines, self._lines = self._lines, []
        upload.check(self._messages.received_bytes, max(0, self._messages.received_bytes - self._waiting_bytes))
        self._waiting_bytes = 0
        if lines:
            recording.add_lines(lines)

    def _keep(self, file: ReceivedScan) -> tuple[JobOut, dict[str, Any]]:
        """Scan and job in one transaction, as a form posted to /v1/jobs."""
        asked = self._configuration.options()
        with store_scan(self._context, self._caller, file) as (session, scan, _):
            header = dict(scan.header)
            job = submit(self._context, self._caller, session, scan, asked, None, brought=True).answer
        self._job_id = job.id
        return job, header

    async def _follow(self, job: JobOut, told: set[str]) -> JobOut:
        """Tell the job's progress until it has ended."""
        context, key = self._context, self._caller.key
        told_at, shown = time.monotonic(), ""
        with context.notifications.subscribe(job.id, None if key is None else key.id) as changed:
            while True:
                try:
                    if changed.key_changed and not await key_is_valid(context, self._caller):
                        raise invalid_key()
                    changed.key_changed = False
                    job = await queries.read_job_async(context.queries, self._caller.tenant, job.id)
                except NotFound:
                    raise ProtocolError(f"job {job.id} was deleted") from None
                except AWAY:
                    await context.notifications.wait(changed, AWAY_SECONDS)
                    continue
                await self._warn(job, told)
                if job.status.ended:
                    return job
                now = f"job {job.id}: {job.status}, {100 * job.progress.fraction:.0f} %"
                if now != shown and (not shown or time.monotonic() - told_at >= PROGRESS_SECONDS):
                    await self._tell(now)
                    shown, told_at = now, time.monotonic()
                if self._writer.is_closing():
                    raise ConnectionResetError
                await context.notifications.wait(changed, PROGRESS_SECONDS)

    async def _warn(self, job: JobOut, told: set[str]) -> None:
        """Tell each warning once."""
        for warning in job.warnings:
            if warning not in told:
                told.add(warning)
                await self._tell(f"warning: {warning}")

    async def _send_images(self, job: JobOut, header: dict[str, Any]) -> None:
        """Send the slices in the order of the result, with memory for one."""
        await run_in_threadpool(record_access, self._context, self._caller, "result.read", job=job.id)
        quality = f"rating {job.quality.rating}" if job.quality else "no rating"
        await self._tell(f"job {job.id} has succeeded ({quality}); {len(job.slice_numbers)} images follow")
        messages = self._images(job, header)
        try:
            while (message := await run_in_threadpool(next, messages, None)) is not None:
                await self._send(message)
        finally:
            await run_in_threadpool(messages.close)

    def _images(self, job: JobOut, header: dict[str, Any]) -> Generator[bytes, None, None]:
        context = self._context
        with context.sessions() as session:
            row = queries.job_row(session, self._caller.tenant, job.id)
        whole = stored_files.result_file(context, stored_files.StoredResult.of(row), OUTPUTS["h5"])
        ratings = {each.slice: each.quality.rating for each in job.slices if each.quality is not None}
        with context.storage.local(whole.key) as path, open_result(path) as result:
            for place, (number, image) in enumerate(zip(job.slice_numbers, result.slices(), strict=True)):
                attributes = {
                    "DataRole": "Image",
                    "ImageProcessingHistory": f"uDiG Recon {job.parameters['method']}",
                    "ImageComments": NOTICE,
                    "JobId": str(job.id),
                    "Quality": str(ratings.get(number, "unrated")),
                }
                yield image_message(image.image, number, place, header, attributes)

    async def _tell(self, text: str) -> None:
        await self._send(text_message(text))

    async def _send(self, message: bytes) -> None:
        self._writer.write(message)
        async with asyncio.timeout(WRITE_SECONDS):
            await self._writer.drain()

    async def _refuse(self, why: str) -> None:
        """Say why, close, and throw away what still comes: closed with bytes unread, the client might see a reset."""
        log.info("mrd.refused", extra={"address": self._address})
        with suppress(ConnectionError, TimeoutError):
            await self._tell(f"error: {why}")
            await self._send(CLOSE_MESSAGE)
            self._writer.write_eof()
            async with asyncio.timeout(LINGER_SECONDS):
                left = LINGER_BYTES
                while left > 0 and (piece := await self._stream.read(1 << 16)):
                    left -= len(piece)

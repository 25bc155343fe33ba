"""`Client`, without asyncio. Written from `async_client.py` by `python client/generate_sync.py`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from udig_client import operations
from udig_client.concurrency import as_threads, in_place
from udig_client.errors import (
    Conflict,
    DamagedDownload,
    DamagedUpload,
    Locked,
    NotFound,
    QuotaExceeded,
    ServiceUnreachable,
    UdigError,
    Unavailable,
    UnexpectedAnswer,
    UploadInterrupted,
    WaitTimeout,
)
from udig_client.events import EventDecoder, job_event
from udig_client.files import BLOCK_BYTES, Download, UploadedFile, digest_header, format_of
from udig_client.models import (
    ApiKey,
    Comparison,
    CreatedKey,
    Destination,
    DirectUpload,
    Health,
    Job,
    Method,
    Metrics,
    Page,
    Prior,
    Quality,
    Ranking,
    Scan,
    Snapshot,
    StatusChange,
    Tenant,
    UnfinishedUpload,
    UploadOptions,
    UploadPart,
    Workers,
)
from udig_client.operations import Operation, given
from udig_client.progress import Listener, Progress, ProgressOption, listener
from udig_client.retry import Attempts, reason_of
from udig_client.version import __version__

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
PathLike = str | os.PathLike[str]
MethodOption = str | Mapping[str, Any]
LOCAL_URL = "http://127.0.0.1:8000"
POLL_SECONDS = 30.0
STREAM_SECONDS = 60.0
"""Seconds without a byte after which a stream of events is taken for cut; the service sends comments more often."""
MOST_DAMAGED_DOWNLOADS = 3


class Client:
    """Client of a uDiG Recon service.

    `url` and `key` are by default those of the environment variables `UDIG_URL` and `UDIG_KEY`, and the URL of a
    service on this machine. `timeout` is how many seconds one answer may take. `patience` is how many seconds a
    request is sent again while the service is away, busy (503) or refuses by a rate (429); `Retry-After` is obeyed.
    `piece_bytes` are the most that one request of an upload carries. `verify` is what httpx takes: False, or an SSL
    context with the certificates of your network.

    Every method raises `ProblemError` (a subclass for each kind) where the service refuses, `ServiceUnreachable`
    where no answer came and `UnexpectedAnswer` where the answer is none of a service. Scans, jobs, comparisons and
    keys may be given as objects or by their ids.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 120.0,
        piece_bytes: int = 16 << 20,
        verify: Any = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = (url or os.environ.get("UDIG_URL") or LOCAL_URL).rstrip("/")
        self.patience, self.piece_bytes = patience, piece_bytes
        key = key or os.environ.get("UDIG_KEY")
        headers = {"User-Agent": f"udig-recon-client/{__version__}", "Accept": "application/json, */*"}
        if key:
            headers["Authorization"] = f"Bearer {_checked_key(key)}"
        self._http = httpx.Client(
            base_url=_checked_url(self.url),
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(10.0, timeout)),
            verify=verify,
            transport=transport,
        )
        self._poll_seconds = min(POLL_SECONDS, timeout / 2)
        self._silence_seconds = max(timeout, STREAM_SECONDS)
        self._stream_timeout = httpx.Timeout(self._silence_seconds, connect=min(10.0, timeout))
        self._was_answered = False
        self._may_have_bucket = True

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Many steps at once

    def reconstruct(
        self,
        scan: Scan | PathLike,
        method: MethodOption = "udig_dip",
        *,
        progress: ProgressOption = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Reconstruction:
        """Reconstruct a scan: upload it, submit a job, wait for its end.

        `scan` is a file, a scan or its id. `progress=True` shows a bar; a function is told `Progress`. `options` are
        those of `submit`, the method's parameters among them. Raises JobFailed, and WaitTimeout after `timeout`
        seconds, when the job goes on.
        """
        with listener(progress) as tell:
            stored = self._scan_of(scan, tell)
            job = self.submit(stored, method, **options)
            ended = self.follow_to_end(job, tell, timeout=timeout) if progress else self.wait(job, timeout=timeout)
        return Reconstruction(client=self, scan=stored, job=ended.check())

    def map(
        self,
        scans: Sequence[Scan | PathLike],
        method: MethodOption = "udig_dip",
        *,
        parallel: int = 4,
        progress: ProgressOption = None,
        **options: Any,
    ) -> Iterator[Outcome]:
        """Reconstruct many scans, `parallel` of them on their way at once; outcomes come as they are done.

        A scan that fails is an outcome with an `error`, and the others go on. `progress` counts scans.
        """

        def one(scan: Scan | PathLike) -> Outcome:
            try:
                made = self.reconstruct(scan, method, **options)
            except (UdigError, OSError) as error:
                return Outcome(scan=scan, error=error)
            return Outcome(scan=scan, reconstruction=made)

        if parallel < 1:
            raise ValueError(f"parallel is {parallel}, expected 1 or more")
        with listener(progress) as tell:
            done = 0
            tell(Progress("map", done, len(scans)))
            for outcome in as_threads(one, scans, parallel):
                done += 1
                tell(Progress("map", done, len(scans)))
                yield outcome

    # Scans

    def upload(
        self,
        path: PathLike,
        *,
        header: PathLike | None = None,
        template: PathLike | None = None,
        filename: str | None = None,
        resume: str | None = None,
        progress: ProgressOption = None,
    ) -> Scan:
        """Upload a scan. The same bytes are the same scan, so an upload may be repeated.

        A file of more than `piece_bytes` goes in pieces, and one that is cut off goes on where it ended. `resume` is
        the id of an upload that another program began, as of UploadInterrupted. `filename` is what the service calls
        the file, its own name by default. `header` is a file that belongs to the scan, as BART's .hdr to a .cfl.
        `template` is a DICOM file of the patient's study, which images for destinations then belong to. With either
        the scan goes in one request.

        Raises InvalidScan where the file is no scan that the service reads, UploadInterrupted, and DamagedUpload
        where other bytes arrived than the file has.
        """
        with listener(progress) as tell:
            if header is None and template is None:
                return self._upload(Path(path), tell, filename, resume)
            if resume is not None:
                raise ValueError("an upload with a header or a template goes in one request and cannot be resumed")
            with ExitStack() as opened:
                paths = given(file=path, header=header, template=template)
                files = {name: opened.enter_context(Path(each).open("rb")) for name, each in paths.items()}
                size = sum(Path(each).stat().st_size for each in paths.values())
                return self.send(operations.create_scan_of_form(files, size, filename or Path(path).name))

    def unfinished_uploads(self, *, page_size: int = 50) -> Iterator[UnfinishedUpload]:
        """Uploads in pieces that go on, newest first."""
        return self._pages(lambda cursor: operations.list_uploads(cursor, limit=page_size))

    def unfinished_upload(self, upload: UnfinishedUpload | str) -> UnfinishedUpload:
        """An upload in pieces, with the bytes that have arrived."""
        return self.send(operations.get_upload(_id_of(upload)))

    def delete_upload(self, upload: UnfinishedUpload | str) -> None:
        """Delete an upload in pieces; a scan that it became stays."""
        self.send(operations.delete_upload(_id_of(upload)))

    def upload_options(self) -> UploadOptions:
        """The largest file that the service takes, and its versions and extensions of the tus protocol."""
        return self.send(operations.get_upload_options())

    def scan(self, scan: Scan | str) -> Scan:
        """A scan, with its frames."""
        return self.send(operations.get_scan(_id_of(scan)))

    def scans(self, *, page_size: int = 50) -> Iterator[Scan]:
        """All scans, newest first."""
        return self._pages(lambda cursor: operations.list_scans(cursor, limit=page_size))

    def delete_scan(self, scan: Scan | str) -> None:
        """Delete a scan; results of its jobs stay. Raises Conflict while a job needs it."""
        self.send(operations.delete_scan(_id_of(scan)))

    def scan_file(self, scan: Scan | str, path: PathLike | None = None, *, progress: ProgressOption = None) -> bytes:
        """Download the file of a scan as it was uploaded, to a file, or as bytes where no path is given.

        A download that is cut off goes on where it ended, and its SHA-256 is compared. Raises DamagedDownload.
        """
        target = None if path is None else Path(path)
        with listener(progress) as tell, in_place(Download, target) as download:
            self._download(lambda headers: operations.get_scan_file(_id_of(scan), headers), download, tell)
            return in_place(download.finish)

    def scan_preview(self, scan: Scan | str, *, slice: int | None = None) -> bytes:
        """A picture (PNG) of a slice as it was measured: zero-filled, in CT filtered back-projection."""
        return self.send(operations.get_scan_preview(_id_of(scan), slice))

    # Jobs

    def submit(
        self,
        scan: Scan | PathLike,
        method: MethodOption = "udig_dip",
        *,
        outputs: Sequence[str] | None = None,
        slices: Sequence[int] | None = None,
        seed: int | None = None,
        seeds: int | None = None,
        priority: str | None = None,
        max_seconds: float | None = None,
        webhook_url: str | None = None,
        webhook_events: Sequence[str] | None = None,
        destinations: Sequence[str] | None = None,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **parameters: Any,
    ) -> Job:
        """Submit a job for a scan; a file is uploaded first.

        `parameters` are the method's, as `preset="preview"` or `iterations=50`; `methods()` lists them. `method` may
        also be a mapping with all of them. Jobs with the same `idempotency_key` are one job; by default each call has
        its own, which its retries share.
        """
        stored = self._scan_of(scan, _quiet)
        body = given(
            scan_id=stored.id,
            parameters=_parameters(method, parameters),
            outputs=None if outputs is None else list(outputs),
            slices=None if slices is None else list(slices),
            seed=seed,
            seeds=seeds,
            priority=priority,
            max_seconds=max_seconds,
            webhook_url=webhook_url,
            webhook_events=None if webhook_events is None else list(webhook_events),
            destinations=None if destinations is None else list(destinations),
            tags=None if tags is None else dict(tags),
        )
        return self.send(operations.create_job(body, idempotency_key or uuid.uuid4().hex))

    def job(self, job: Job | str) -> Job:
        """A job as it stands."""
        return self.send(operations.get_job(_id_of(job)))

    def jobs(
        self,
        *,
        status: str | None = None,
        scan: Scan | str | None = None,
        comparison: Comparison | str | None = None,
        tag: str | None = None,
        rating: str | None = None,
        method: str | None = None,
        page_size: int = 50,
    ) -> Iterator[Job]:
        """Jobs, newest first, all or those of a status, scan, comparison, tag (`key:value`), rating or method."""
        query = {
            "status": status,
            "scan_id": None if scan is None else _id_of(scan),
            "comparison_id": None if comparison is None else _id_of(comparison),
            "tag": tag,
            "rating": rating,
            "method": method,
            "limit": page_size,
        }
        return self._pages(lambda cursor: operations.list_jobs(cursor, **query))

    def follow(self, job: Job | str) -> Iterator[Snapshot | StatusChange]:
        """Follow a job: its snapshots and changes of status as they come, until the one that is `done`.

        A stream that is cut off is taken up again after the last event that came.
        """
        return self._follow(job, None)

    def _follow(self, job: Job | str, timeout: float | None) -> Iterator[Snapshot | StatusChange]:
        """The events of `follow`. Raises WaitTimeout after `timeout` seconds, also while no event comes."""
        deadline = None if timeout is None else monotonic() + timeout
        last_id, last_status = "", None
        attempts = self._attempts()
        while True:
            decoder = EventDecoder()
            operation = operations.stream_job_events(_id_of(job), last_id)
            request = operation.request(self._http)
            request.extensions["timeout"] = self._stream_timeout.as_dict()
            if deadline is not None:
                request.extensions["timeout"]["read"] = max(0.001, min(self._silence_seconds, deadline - monotonic()))
            try:
                response = self._http.send(request, stream=True)
                try:
                    if response.status_code == 204:
                        return
                    if not response.is_success:
                        response.read()
                        pause = attempts.after_answer(response)
                    else:
                        self._was_answered = True
                        for block in response.iter_bytes():
                            attempts.progressed()
                            for received in decoder.feed(block):
                                last_id = received.id or last_id
                                event = job_event(received)
                                if event is None or event == last_status:
                                    continue
                                last_status = event if isinstance(event, StatusChange) else last_status
                                yield event
                                if isinstance(event, StatusChange) and event.done:
                                    return
                            _check_deadline(deadline, job, timeout)
                        pause = attempts.after_close(decoder.retry_seconds)
                finally:
                    response.close()
            except httpx.TransportError as error:
                _check_deadline(deadline, job, timeout)
                pause = attempts.after_error(error)
            sleep(pause)

    def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """Wait until a job has ended, however it ended; `check()` of what comes raises JobFailed.

        Raises WaitTimeout after `timeout` seconds.
        """
        return self._wait(lambda seconds: operations.get_job(_id_of(job), seconds), timeout, f"job {_id_of(job)}")

    def follow_to_end(self, job: Job | str, progress: ProgressOption = True, *, timeout: float | None = None) -> Job:
        """Wait until a job has ended, as `wait` does, and tell its progress meanwhile.

        Raises WaitTimeout after `timeout` seconds, or up to 15 s later, when the service is next heard of.
        """
        standing = self.job(job)
        total = len(standing.slice_numbers)
        parts: dict[int, float] = {}
        with listener(progress) as tell:
            tell(Progress("reconstruct", standing.progress.fraction * total, total, standing.status))
            if standing.ended:
                return standing
            for event in self._follow(standing, timeout):
                if isinstance(event, Snapshot):
                    parts[event.slice] = event.iteration / event.iterations if event.iterations else 0.0
                    text = "" if event.psnr is None else f"{event.psnr:.1f} dB"
                    tell(Progress("reconstruct", min(sum(parts.values()), total), total, text))
                elif event.progress is not None:
                    done = max(event.progress.fraction * total, min(sum(parts.values()), total))
                    tell(Progress("reconstruct", done, total, event.status))
        return self.job(standing)

    def snapshots(
        self,
        job: Job | str,
        *,
        slice: int | None = None,
        after: int = 0,
    ) -> Iterator[Snapshot]:
        """Snapshots that a job has left so far, oldest first, of one slice or all."""
        return self._pages(
            lambda cursor: operations.list_job_snapshots(_id_of(job), slice, after if cursor is None else cursor)
        )

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job. Raises Conflict where it has ended."""
        return self.send(operations.cancel_job(_id_of(job)))

    def retry(self, job: Job | str, *, max_seconds: float | None = None) -> Job:
        """Retry a failed job from its checkpoints. Raises Conflict where it has not failed."""
        return self.send(operations.retry_job(_id_of(job), max_seconds))

    def delete_job(self, job: Job | str) -> None:
        """Delete a job with its results; one that runs is cancelled."""
        self.send(operations.delete_job(_id_of(job)))

    # Results

    def result(
        self,
        job: Job | str,
        path: PathLike | None = None,
        *,
        format: str | None = None,
        progress: ProgressOption = None,
    ) -> bytes:
        """Download the result of a job to a file, or as bytes where no path is given.

        The format is `format` or else that of the path's suffix. A download that is cut off goes on where it ended,
        and its SHA-256 is compared with the service's. A file is whole or not there. Raises Conflict before the job
        has succeeded, Gone once its files are deleted, and DamagedDownload.
        """
        target = None if path is None else Path(path)
        wanted = format_of(target) if format is None and target is not None else format
        with listener(progress) as tell, in_place(Download, target) as download:
            self._download(lambda headers: operations.get_job_result(_id_of(job), wanted, headers), download, tell)
            return in_place(download.finish)

    def array(self, job: Job | str, *, progress: ProgressOption = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The images of a job as a NumPy array (slices, y, x); needs NumPy."""
        try:
            import numpy
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("array() needs NumPy: pip install numpy", name="numpy") from error
        content = self.result(job, format="npy", progress=progress)
        images: np.ndarray[Any, np.dtype[np.float32]] = numpy.load(BytesIO(content), allow_pickle=False)
        return images

    def preview(
        self,
        job: Job | str,
        *,
        slice: int | None = None,
        view: str | None = None,
        window: tuple[float, float] | None = None,
    ) -> bytes:
        """A picture (PNG) of a slice, also while the job runs.

        The view is `magnitude`, `direct` (zero-filled or filtered back-projection), `comparison`, `reference`,
        `error`, `direct_error`, `deviation` or `hallucination`; `window` are the black and the white level in the
        image's unit. Raises Conflict while there is nothing to see.
        """
        return self.send(operations.get_job_preview(_id_of(job), slice, view, window))

    # Comparisons

    def compare(
        self,
        scans: Sequence[Scan | PathLike],
        methods: Sequence[MethodOption],
        *,
        seeds: Sequence[int] | None = None,
        slices: Sequence[int] | None = None,
        tags: Mapping[str, str] | None = None,
        webhook_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Comparison:
        """Compare methods on scans; files are uploaded first. `wait_comparison` waits for its end.

        A method is a name, a mapping of parameters with `method`, or `{"label": ..., "parameters": {...}}`.
        """
        stored = [self._scan_of(each, _quiet) for each in scans]
        body = given(
            scan_ids=[each.id for each in stored],
            methods=[_compared(each) for each in methods],
            seeds=None if seeds is None else list(seeds),
            slices=None if slices is None else list(slices),
            tags=None if tags is None else dict(tags),
            webhook_url=webhook_url,
        )
        return self.send(operations.create_comparison(body, idempotency_key or uuid.uuid4().hex))

    def comparison(self, comparison: Comparison | str) -> Comparison:
        """A comparison with its results so far."""
        return self.send(operations.get_comparison(_id_of(comparison)))

    def comparisons(self, *, page_size: int = 50) -> Iterator[Comparison]:
        """All comparisons, newest first."""
        return self._pages(lambda cursor: operations.list_comparisons(cursor, limit=page_size))

    def wait_comparison(self, comparison: Comparison | str, *, timeout: float | None = None) -> Comparison:
        """Wait until all jobs of a comparison have ended. Raises WaitTimeout after `timeout` seconds."""
        found = _id_of(comparison)
        return self._wait(lambda seconds: operations.get_comparison(found, seconds), timeout, f"comparison {found}")

    def table(self, comparison: Comparison | str, *, format: str | None = None) -> str:
        """The table of a comparison: `md` (the default), `csv` or `tex`. Raises Conflict before a job succeeded."""
        return self.send(operations.get_comparison_table(_id_of(comparison), format))

    def rankings(self, comparison: Comparison | str) -> list[Ranking]:
        """The methods in order of PSNR with a paired test, one ranking for each modality."""
        return (self.send(operations.get_comparison_ranking(_id_of(comparison)))).items

    def panel(
        self,
        comparison: Comparison | str,
        *,
        scan: Scan | str | None = None,
        seed: int | None = None,
        slice: int | None = None,
    ) -> bytes:
        """One slice by each method, as a picture (PNG)."""
        scan_id = None if scan is None else _id_of(scan)
        return self.send(operations.get_comparison_panel(_id_of(comparison), scan_id, seed, slice))

    def cancel_comparison(self, comparison: Comparison | str) -> Comparison:
        """Cancel those of its jobs that have not ended."""
        return self.send(operations.cancel_comparison(_id_of(comparison)))

    def delete_comparison(self, comparison: Comparison | str) -> None:
        """Delete a comparison with its jobs and their results."""
        self.send(operations.delete_comparison(_id_of(comparison)))

    # Keys and the tenant

    def create_key(self, name: str, scopes: Sequence[str], **limits: Any) -> CreatedKey:
        """Create an API key; `key` of what comes is shown this once. `limits` as `max_open_jobs=20`."""
        return self.send(operations.create_key(name, scopes, limits))

    def keys(self, *, page_size: int = 50) -> Iterator[ApiKey]:
        """All keys that the tenant ever had, oldest first."""
        return self._pages(lambda cursor: operations.list_keys(cursor, limit=page_size))

    def rotate_key(self, key: ApiKey | str, *, overlap_minutes: int = 0) -> CreatedKey:
        """Rotate an API key: a new secret, beside which the old one is taken for so many minutes."""
        return self.send(operations.rotate_key(_id_of(key), overlap_minutes))

    def revoke_key(self, key: ApiKey | str) -> None:
        """Revoke an API key."""
        self.send(operations.revoke_key(_id_of(key)))

    def tenant(self) -> Tenant:
        """The tenant of this key: its limits and what it has used."""
        return self.send(operations.get_tenant())

    # The service

    def methods(self) -> list[Method]:
        """Every method with its parameters and presets."""
        return (self.send(operations.list_methods())).items

    def priors(self) -> list[Prior]:
        """Every diffusion prior that jobs may name, with its card."""
        return (self.send(operations.list_priors())).items

    def workers(self) -> Workers:
        """Workers with what they are at, and the queue by priority."""
        return self.send(operations.list_workers())

    def destinations(self) -> list[Destination]:
        """Archives that jobs may name, where their results are sent to as DICOM."""
        return (self.send(operations.list_destinations())).items

    def health(self) -> Health:
        """Whether the API process lives."""
        return self.send(operations.get_health())

    def readiness(self, *, exclude: Sequence[str] = ()) -> Health:
        """Whether a job submitted now would run, and what is missing where not; `exclude` leaves checks out."""
        return self.send(operations.get_readiness(exclude))

    def metrics(self) -> str:
        """Metrics in the text format of Prometheus."""
        return self.send(operations.get_metrics())

    # How it is done

    def send(self, operation: Operation[T]) -> T:
        """Send an operation of `udig_client.operations`, again where it may be, and parse its answer."""
        attempts = self._attempts(operation)
        while True:
            try:
                response = self._http.send(operation.request(self._http))
            except httpx.TransportError as error:
                pause = attempts.after_error(error)
            else:
                self._was_answered = True
                if response.is_success or response.status_code in operation.accepted:
                    return operation.parse(response)
                _check_no_redirect(response)
                try:
                    pause = attempts.after_answer(response)
                except NotFound:
                    # What was deleted by a request whose answer was lost is not there any more.
                    if operation.method == "DELETE" and attempts.answer_lost:
                        return operation.parse(response)
                    raise
            sleep(pause)

    def _attempts(self, operation: Operation[Any] | None = None) -> Attempts:
        if operation is None:
            return Attempts(self.url, self.patience, was_answered=self._was_answered)
        return Attempts(
            self.url,
            self.patience + operation.seconds,
            was_answered=self._was_answered,
            repeatable=operation.repeatable,
            problems=operation.problems,
        )

    def _pages(self, operation: Callable[[str | None], Operation[Page[T]]]) -> Iterator[T]:
        cursor = None
        while True:
            page = self.send(operation(cursor))
            for each in page.items:
                yield each
            cursor = page.next_cursor
            if cursor is None:
                return

    def _wait(self, operation: Callable[[float], Operation[T]], timeout: float | None, what: str) -> T:
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = self._poll_seconds if deadline is None else deadline - monotonic()
            found: Any = self.send(operation(round(max(0.0, min(left, self._poll_seconds)), 3)))
            if found.ended:
                return found  # type: ignore[no-any-return]
            if deadline is not None and monotonic() >= deadline:
                raise WaitTimeout(f"{what} is {found.status} after {timeout:g} s, and goes on")

    def _scan_of(self, scan: Scan | PathLike, tell: Listener) -> Scan:
        """The scan of an object, an id or a file."""
        if isinstance(scan, Scan):
            return scan
        if isinstance(scan, str) and _is_id(scan):
            return self.scan(scan)
        return self._upload(Path(scan), tell)

    def _upload(self, path: Path, tell: Listener, filename: str | None = None, resume: str | None = None) -> Scan:
        with in_place(UploadedFile, path, filename) as file:
            if file.size <= self.piece_bytes and resume is None:
                scan = self._upload_at_once(file, tell)
            else:
                scan = self._upload_in_pieces(file, tell, resume)
            if scan.sha256 != (in_place(getattr, file, "sha256")).hex():
                raise DamagedUpload(f"{path}: the bytes that arrived are not those of the file; upload it again")
        return scan

    def _upload_at_once(self, file: UploadedFile, tell: Listener) -> Scan:
        tell(Progress("upload", 0, file.size, file.filename))
        content = in_place(file.read, 0, file.size)
        scan = self.send(operations.create_scan(content, digest_header(file.sha256), file.filename))
        tell(Progress("upload", file.size, file.size, file.filename))
        return scan

    def _upload_in_pieces(self, file: UploadedFile, tell: Listener, resume: str | None) -> Scan:
        upload = self._direct_upload(file, resume)
        if upload is not None:
            return self._upload_to_bucket(file, tell, upload)
        offset = 0
        if resume is None:
            resume = self.send(operations.create_upload(file.size, file.filename))
        else:
            begun = self.send(operations.get_upload(resume))
            if begun.size_bytes != file.size:
                message = f"upload {resume} is of a file of {begun.size_bytes} bytes, and {file.path} has {file.size}"
                raise ValueError(message)
            if begun.scan_id is not None:
                return self.scan(begun.scan_id)
            offset = begun.offset_bytes
        try:
            attempts = self._attempts()
            while offset < file.size:
                reached = self._append(file, resume, offset, attempts, tell)
                if reached > offset:
                    attempts.progressed()
                offset = reached
            return self.send(operations.create_scan_of_upload(resume, file.size))
        except (ServiceUnreachable, Unavailable, QuotaExceeded, Locked) as error:
            raise UploadInterrupted(resume, offset, str(error)) from error

    def _direct_upload(self, file: UploadedFile, resume: str | None) -> DirectUpload | None:
        """A new direct upload of a file, or the one to resume; None: its bytes go to the service."""
        if not self._may_have_bucket:
            return None
        try:
            if resume is None:
                return self.send(operations.create_direct_upload(file.size, file.filename))
            upload = self.send(operations.get_direct_upload(resume))
        except (Conflict, NotFound):
            # It keeps its files in a folder, or is of a version before 0.5; or the upload was begun otherwise.
            self._may_have_bucket = resume is not None
            return None
        if upload.size_bytes != file.size:
            message = f"upload {resume} is of a file of {upload.size_bytes} bytes, and {file.path} has {file.size}"
            raise ValueError(message)
        return upload

    def _upload_to_bucket(self, file: UploadedFile, tell: Listener, upload: DirectUpload) -> Scan:
        """Send each missing part to the service's bucket, then make the scan."""
        attempts = self._attempts()
        try:
            while upload.missing:
                there = upload.offset_bytes
                for part in upload.missing:
                    pause = self._send_part(file, part, attempts)
                    if pause is not None:
                        sleep(pause)
                        break
                    attempts.progressed()
                    there += part.size_bytes
                    tell(Progress("upload", there, file.size, file.filename))
                upload = self.send(operations.get_direct_upload(upload.id))
            if upload.scan_id is not None:
                return self.scan(upload.scan_id)
            return self.send(operations.create_scan_of_upload(upload.id, file.size))
        except (ServiceUnreachable, Unavailable, QuotaExceeded, Locked) as error:
            raise UploadInterrupted(upload.id, upload.offset_bytes, str(error)) from error

    def _send_part(self, file: UploadedFile, part: UploadPart, attempts: Attempts) -> float | None:
        """Send a part; None, or how long to wait before what is missing is asked for again."""
        content = in_place(file.read, part.offset, part.size_bytes)
        try:
            response = self._http.send(self._signed(part.method, part.url, part.headers, content))
        except httpx.TransportError as error:
            return attempts.after_part(reason_of(error))
        # A request that was signed long ago is refused (403); the next answer of the service has another.
        return None if response.is_success else attempts.after_part(f"status {response.status_code}")

    def _signed(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None) -> httpx.Request:
        """A request to the service's bucket, which needs no key of the service and is not told one."""
        timeout = {"timeout": self._http.timeout.as_dict()}
        return httpx.Request(method, url, headers=headers, content=content, extensions=timeout)

    def _append(self, file: UploadedFile, upload: str, offset: int, attempts: Attempts, tell: Listener) -> int:
        """Send one piece; gives the offset that the upload has then, whether all of the piece came or not."""
        length = min(self.piece_bytes, file.size - offset)

        def blocks() -> Iterator[bytes]:
            for start in range(offset, offset + length, BLOCK_BYTES):
                yield in_place(file.read, start, min(BLOCK_BYTES, offset + length - start))
                tell(Progress("upload", min(start + BLOCK_BYTES, offset + length), file.size, file.filename))

        operation = operations.append_to_upload(upload, offset, length, blocks())
        try:
            response = self._http.send(operation.request(self._http))
        except httpx.TransportError as error:
            pause = attempts.after_cut(error)
        else:
            if response.is_success:
                return operation.parse(response)
            # Of a piece whose answer was lost some bytes may have come: then it is not at this offset.
            moved = response.status_code == 409
            pause = attempts.after_close(None) if moved else attempts.after_answer(response)
        sleep(pause)
        return (self.send(operations.get_upload(upload))).offset_bytes

    def _download(
        self, operation: Callable[[Mapping[str, str]], Operation[None]], download: Download, tell: Listener
    ) -> None:
        attempts = self._attempts()
        damaged = 0
        while True:
            request = operation(download.range_headers()).request(self._http)
            try:
                response = self._http.send(request, stream=True)
                if response.status_code == 307 and "repr-digest" in response.headers:
                    # The file lies in a bucket, whose tag is another and whose answer has no digest.
                    response.close()
                    download.redirected(response.headers)
                    headers = download.range_headers(conditional=False)
                    response = self._http.send(self._signed("GET", response.headers["location"], headers), stream=True)
                try:
                    if not response.is_success:
                        response.read()
                        _check_no_redirect(response)
                        pause = attempts.after_answer(response)
                    else:
                        self._was_answered = True
                        total = download.begin(response.status_code, response.headers)
                        for block in response.iter_raw():
                            attempts.progressed()
                            in_place(download.write, block)
                            tell(Progress("download", download.size, total))
                        if download.whole:
                            return
                        damaged += 1
                        if damaged == MOST_DAMAGED_DOWNLOADS:
                            raise DamagedDownload(
                                f"the SHA-256 of what came is not {download.sha256}, {damaged} times: something on "
                                "the way changes it"
                            )
                        download.restart()
                        pause = attempts.after_close(None)
                finally:
                    response.close()
            except httpx.TransportError as error:
                pause = attempts.after_error(error)
            sleep(pause)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A finished reconstruction: the job that made it, and its images."""

    client: Client
    scan: Scan
    job: Job

    @property
    def quality(self) -> Quality | None:
        """Rating of the image, made without a reference, and the reasons."""
        return self.job.quality

    @property
    def metrics(self) -> Metrics | None:
        """Residuals, and PSNR and SSIM where the scan has a reference."""
        return self.job.metrics

    @property
    def warnings(self) -> list[str]:
        """What to know before the image is trusted."""
        return self.job.warnings

    def array(self, *, progress: ProgressOption = None) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The images as a NumPy array (slices, y, x); needs NumPy."""
        return self.client.array(self.job, progress=progress)

    def save(
        self,
        path: PathLike,
        *,
        format: str | None = None,
        progress: ProgressOption = None,
    ) -> Path:
        """Save the images to a file, in `format` or that of the suffix, as .h5, .npy, .nii.gz, .png or .dicom.zip."""
        self.client.result(self.job, path, format=format, progress=progress)
        return Path(path)

    def preview(
        self, *, slice: int | None = None, view: str | None = None, window: tuple[float, float] | None = None
    ) -> bytes:
        """A picture (PNG) of a slice, as of `preview` of the client."""
        return self.client.preview(self.job, slice=slice, view=view, window=window)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one scan of many: a reconstruction or an error."""

    scan: Scan | PathLike
    reconstruction: Reconstruction | None = None
    error: Exception | None = None

    def check(self) -> Reconstruction:
        """The reconstruction. Raises the error where there is one."""
        if self.reconstruction is None:
            raise self.error or UdigError(f"{self.scan} was not reconstructed")
        return self.reconstruction


def _checked_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(f"the URL of the service is {url!r}: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"the URL of the service is {url!r}, expected http://HOST:PORT or https://HOST")
    return parsed


def _checked_key(key: str) -> str:
    """The key without white space around it. An HTTP library would tell a wrong one in its error."""
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the API key has a character that no key has: expected udig_ and letters, digits, - and _")
    return key


def _check_no_redirect(response: httpx.Response) -> None:
    if response.is_redirect:
        target = response.headers.get("location")
        raise UnexpectedAnswer(f"{response.url} leads to {target}: use that as the URL of the service")


def _check_deadline(deadline: float | None, job: Job | str, timeout: float | None) -> None:
    if deadline is not None and monotonic() >= deadline:
        raise WaitTimeout(f"job {_id_of(job)} goes on after {timeout:g} s")


def _id_of(thing: Scan | Job | Comparison | ApiKey | UnfinishedUpload | str) -> str:
    return thing if isinstance(thing, str) else thing.id


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _parameters(method: MethodOption, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {**({"method": method} if isinstance(method, str) else method), **parameters}


def _compared(method: MethodOption) -> dict[str, Any]:
    if isinstance(method, Mapping) and "parameters" in method:
        return dict(method)
    return {"parameters": _parameters(method, {})}


def _quiet(progress: Progress) -> None:
    """Tell nobody."""

"""Every operation of the service as a request and the parser of its answer, without sending anything.

Both clients send these; `Operation.repeatable` says whether an operation may be sent again when its answer is lost.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from udig_client.decode import decode
from udig_client.errors import InvalidScan, ProblemError, UnexpectedAnswer
from udig_client.models import (
    ApiKey,
    Comparison,
    CreatedKey,
    Destination,
    DirectUpload,
    Health,
    Job,
    Method,
    Page,
    Prior,
    Ranking,
    Scan,
    Snapshot,
    Tenant,
    UnfinishedUpload,
    UploadOptions,
    Workers,
)

T = TypeVar("T")
JsonObject = dict[str, Any]
_TUS = {"Tus-Resumable": "1.0.0"}
LOOKED_INTO_BYTES_PER_SECOND = 4 << 20
"""How slowly the service may look into a file, at worst, before it answers."""
SCAN_PROBLEMS: Mapping[int, type[ProblemError]] = {415: InvalidScan, 422: InvalidScan}


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[T]):
    """A request and what its answer means."""

    method: str
    path: str
    parse: Callable[[httpx.Response], T]
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | Iterable[bytes] | AsyncIterable[bytes] | None = None
    files: Mapping[str, Any] | None = None
    """Parts of a form."""
    problems: Mapping[int, type[ProblemError]] = field(default_factory=dict)
    """Kinds of problems that are this operation's own, by status."""
    accepted: frozenset[int] = frozenset()
    """Statuses beside 2xx that are answers rather than refusals."""
    repeatable: bool = True
    """Whether sending it twice has the effect of once."""
    seconds: float = 0.0
    """How much longer than others its answer may take."""

    def request(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request, with the URL and the key of a client."""
        query = {
            name: [_text(each) for each in value] if isinstance(value, list) else _text(value)
            for name, value in self.query.items()
            if value is not None
        }
        return client.build_request(
            self.method,
            self.path,
            params=query,
            headers={name.encode(): value.encode() for name, value in self.headers.items()},
            json=self.json,
            content=self.content,
            files=self.files,
            timeout=self._timeout(client),
        )

    def _timeout(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Timeout:
        allowed = client.timeout.as_dict()
        read = allowed["read"]
        return httpx.Timeout(**{**allowed, "read": None if read is None else read + self.seconds})


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def path_of(*parts: object) -> str:
    """A path of these parts, each quoted. Raises ValueError where one is empty, which would be another path."""
    texts = [str(part) for part in parts]
    if not all(texts):
        raise ValueError("an id is empty")
    return "/" + "/".join(quote(text, safe="") for text in texts)


def json_of(response: httpx.Response) -> Any:
    """The JSON of an answer. Raises UnexpectedAnswer where it is none."""
    try:
        return response.json()
    except ValueError as error:
        kind = response.headers.get("content-type", "no media type")
        message = f"{response.url} answered with {kind}, expected JSON: is the URL that of a uDiG Recon service?"
        raise UnexpectedAnswer(message) from error


def parse_as(kind: type[T]) -> Callable[[httpx.Response], T]:
    """A parser of JSON answers."""
    return lambda response: decode(kind, json_of(response))


def _bytes(response: httpx.Response) -> bytes:
    return response.content


def _text_of(response: httpx.Response) -> str:
    return response.text


def _nothing(response: httpx.Response) -> None:  # noqa: ARG001
    return None


def _get(parse: Callable[[httpx.Response], T], *parts: object, **query: Any) -> Operation[T]:
    return Operation(method="GET", path=path_of(*parts), parse=parse, query=query)


def _delete(*parts: object) -> Operation[None]:
    return Operation(method="DELETE", path=path_of(*parts), parse=_nothing)


def given(**values: Any) -> JsonObject:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


# Scans


def create_scan(content: bytes, digest: str, filename: str) -> Operation[Scan]:
    """Upload a scan in one request; the same bytes are the same scan."""
    headers = {"Content-Type": "application/octet-stream", "Repr-Digest": digest, **_named(filename)}
    return Operation(
        method="POST",
        path="/v1/scans",
        parse=parse_as(Scan),
        headers=headers,
        content=content,
        problems=SCAN_PROBLEMS,
    )


def _named(filename: str) -> dict[str, str]:
    """A file's name, in a header: logs keep URLs."""
    return {"X-Filename": "".join(each for each in filename if each.isprintable())}


def create_scan_of_form(files: Mapping[str, IO[bytes]], size_bytes: int, filename: str) -> Operation[Scan]:
    """Upload a scan as the part `file` of a form, beside it the parts `header` and `template`."""
    return Operation(
        method="POST",
        path="/v1/scans",
        parse=parse_as(Scan),
        headers=_named(filename),
        files=files,
        problems=SCAN_PROBLEMS,
        seconds=size_bytes / LOOKED_INTO_BYTES_PER_SECOND,
    )


def create_scan_of_upload(upload_id: str, size_bytes: int) -> Operation[Scan]:
    """Make a scan of a complete upload; asked again it is the same scan."""
    body, seconds = {"upload_id": upload_id}, size_bytes / LOOKED_INTO_BYTES_PER_SECOND
    return Operation(
        method="POST", path="/v1/scans", parse=parse_as(Scan), json=body, problems=SCAN_PROBLEMS, seconds=seconds
    )


def get_scan(scan_id: str) -> Operation[Scan]:
    """A scan."""
    return _get(parse_as(Scan), "v1", "scans", scan_id)


def list_scans(cursor: str | None, **query: Any) -> Operation[Page[Scan]]:
    """A page of scans, newest first."""
    return _get(parse_as(Page[Scan]), "v1", "scans", cursor=cursor, **query)


def delete_scan(scan_id: str) -> Operation[None]:
    """Delete a scan."""
    return _delete("v1", "scans", scan_id)


def get_scan_file(scan_id: str, headers: Mapping[str, str]) -> Operation[None]:
    """The file as it was uploaded, whose bytes the client takes as they come."""
    path = path_of("v1", "scans", scan_id, "file")
    return Operation(method="GET", path=path, parse=_nothing, headers=headers)


def get_scan_preview(scan_id: str, slice_: int | None) -> Operation[bytes]:
    """A picture (PNG) of a slice as it was measured."""
    return _get(_bytes, "v1", "scans", scan_id, "preview.png", slice=slice_)


# Resumable uploads, by the tus protocol


def get_upload_options() -> Operation[UploadOptions]:
    """What the service takes."""
    return Operation(method="OPTIONS", path="/v1/uploads", parse=_upload_options)


def _upload_options(response: httpx.Response) -> UploadOptions:
    def listed(name: str) -> list[str]:
        return [each.strip() for each in response.headers.get(name, "").split(",") if each.strip()]

    most = response.headers.get("tus-max-size", "")
    return UploadOptions(
        versions=listed("tus-version"),
        extensions=listed("tus-extension"),
        max_bytes=int(most) if most.isdecimal() else None,
        checksum_algorithms=listed("tus-checksum-algorithm"),
    )


def create_upload(size_bytes: int, filename: str) -> Operation[str]:
    """Begin an upload; the answer is its id. Sent twice it begins two, of which the unused one expires."""
    headers = {**_TUS, "Upload-Length": str(size_bytes)}
    if filename:
        headers["Upload-Metadata"] = f"filename {base64.b64encode(filename.encode()).decode()}"
    return Operation(method="POST", path="/v1/uploads", parse=_id_of_location, headers=headers)


def _id_of_location(response: httpx.Response) -> str:
    found: str = response.headers.get("location", "").rstrip("/").rpartition("/")[2]
    if not found:
        raise UnexpectedAnswer(f"{response.url} made an upload and does not say where it is")
    return found


def append_to_upload(
    upload_id: str, offset: int, length: int, content: Iterable[bytes] | AsyncIterable[bytes]
) -> Operation[int]:
    """Append bytes; the answer is the new offset. It is not repeated as it is: the offset may have moved."""
    headers = {
        **_TUS,
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(length),
        "Upload-Offset": str(offset),
    }
    path = path_of("v1", "uploads", upload_id)
    return Operation(method="PATCH", path=path, parse=_offset_of, headers=headers, content=content, repeatable=False)


def _offset_of(response: httpx.Response) -> int:
    found = response.headers.get("upload-offset", "")
    if not found.isdecimal():
        raise UnexpectedAnswer(f"{response.url} does not say how many bytes it has (Upload-Offset)")
    return int(found)


def get_upload(upload_id: str) -> Operation[UnfinishedUpload]:
    """An upload and its offset."""
    return _get(parse_as(UnfinishedUpload), "v1", "uploads", upload_id)


def list_uploads(cursor: str | None, **query: Any) -> Operation[Page[UnfinishedUpload]]:
    """A page of uploads that go on, newest first."""
    return _get(parse_as(Page[UnfinishedUpload]), "v1", "uploads", cursor=cursor, **query)


def delete_upload(upload_id: str) -> Operation[None]:
    """Delete an upload and its bytes."""
    return _delete("v1", "uploads", upload_id)


# Uploads straight to the bucket


def create_direct_upload(size_bytes: int, filename: str) -> Operation[DirectUpload]:
    """Begin one. Sent twice it begins two, of which the unused one expires. Conflict: the service has no bucket."""
    body = {"size_bytes": size_bytes, "filename": filename}
    return Operation(method="POST", path="/v1/direct-uploads", parse=parse_as(DirectUpload), json=body)


def get_direct_upload(upload_id: str) -> Operation[DirectUpload]:
    """What is missing of it, with new requests. Conflict: the bytes of this upload go to the service."""
    return _get(parse_as(DirectUpload), "v1", "direct-uploads", upload_id)


# Jobs and their results


def create_job(body: JsonObject, idempotency_key: str) -> Operation[Job]:
    """Submit a job; sent again with the same key it is the same job."""
    headers = {"Idempotency-Key": idempotency_key}
    return Operation(method="POST", path="/v1/jobs", parse=parse_as(Job), headers=headers, json=body)


def get_job(job_id: str, wait: float | None = None) -> Operation[Job]:
    """A job; with `wait`, when its status has changed or so many seconds are over."""
    return _get(parse_as(Job), "v1", "jobs", job_id, wait=wait)


def list_jobs(cursor: str | None, **query: Any) -> Operation[Page[Job]]:
    """A page of jobs, newest first."""
    return _get(parse_as(Page[Job]), "v1", "jobs", cursor=cursor, **query)


def cancel_job(job_id: str) -> Operation[Job]:
    """Cancel a job. A second request is refused once the job has ended."""
    return Operation(method="POST", path=path_of("v1", "jobs", job_id, "cancel"), parse=parse_as(Job), repeatable=False)


def retry_job(job_id: str, max_seconds: float | None) -> Operation[Job]:
    """Retry a failed job."""
    path = path_of("v1", "jobs", job_id, "retry")
    return Operation(
        method="POST", path=path, parse=parse_as(Job), json=given(max_seconds=max_seconds), repeatable=False
    )


def delete_job(job_id: str) -> Operation[None]:
    """Delete a job and its results."""
    return _delete("v1", "jobs", job_id)


def list_job_snapshots(job_id: str, slice_: int | None, after: str | int) -> Operation[Page[Snapshot]]:
    """Snapshots after the one with seq `after`, oldest first."""
    return _get(parse_as(Page[Snapshot]), "v1", "jobs", job_id, "progress", slice=slice_, after=after)


def stream_job_events(job_id: str, last_event_id: str) -> Operation[None]:
    """Events of a job, after the one with this id."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_event_id} if last_event_id else {})}
    path = path_of("v1", "jobs", job_id, "events")
    return Operation(method="GET", path=path, parse=_nothing, headers=headers)


def get_job_result(job_id: str, format_: str | None, headers: Mapping[str, str]) -> Operation[None]:
    """The result as a file, whose bytes the client takes as they come."""
    path = path_of("v1", "jobs", job_id, "result")
    return Operation(method="GET", path=path, parse=_nothing, query={"format": format_}, headers=headers)


def get_job_preview(
    job_id: str, slice_: int | None, view: str | None, window: tuple[float, float] | None
) -> Operation[bytes]:
    """A picture (PNG), also while the job runs; `window` are its black and its white level."""
    levels = None if window is None else f"{window[0]!r},{window[1]!r}"
    return _get(_bytes, "v1", "jobs", job_id, "preview.png", slice=slice_, view=view, window=levels)


# Comparisons


def create_comparison(body: JsonObject, idempotency_key: str) -> Operation[Comparison]:
    """Submit a comparison; sent again with the same key it is the same comparison."""
    headers = {"Idempotency-Key": idempotency_key}
    return Operation(method="POST", path="/v1/comparisons", parse=parse_as(Comparison), headers=headers, json=body)


def get_comparison(comparison_id: str, wait: float | None = None) -> Operation[Comparison]:
    """A comparison with its results so far; with `wait`, when its status has changed."""
    return _get(parse_as(Comparison), "v1", "comparisons", comparison_id, wait=wait)


def list_comparisons(cursor: str | None, **query: Any) -> Operation[Page[Comparison]]:
    """A page of comparisons, newest first."""
    return _get(parse_as(Page[Comparison]), "v1", "comparisons", cursor=cursor, **query)


def get_comparison_table(comparison_id: str, format_: str | None) -> Operation[str]:
    """The table of a comparison as text: `md`, `csv` or `tex`."""
    return _get(_text_of, "v1", "comparisons", comparison_id, "table", format=format_)


def get_comparison_ranking(comparison_id: str) -> Operation[Page[Ranking]]:
    """The methods in order, one ranking for each modality."""
    return _get(parse_as(Page[Ranking]), "v1", "comparisons", comparison_id, "ranking")


def get_comparison_panel(
    comparison_id: str, scan_id: str | None, seed: int | None, slice_: int | None
) -> Operation[bytes]:
    """One slice by each method, as a picture (PNG)."""
    path = ("v1", "comparisons", comparison_id, "panel.png")
    return _get(_bytes, *path, scan_id=scan_id, seed=seed, slice=slice_)


def cancel_comparison(comparison_id: str) -> Operation[Comparison]:
    """Cancel those of its jobs that have not ended."""
    path = path_of("v1", "comparisons", comparison_id, "cancel")
    return Operation(method="POST", path=path, parse=parse_as(Comparison), repeatable=False)


def delete_comparison(comparison_id: str) -> Operation[None]:
    """Delete a comparison and its jobs."""
    return _delete("v1", "comparisons", comparison_id)


# Keys and the tenant


def create_key(name: str, scopes: Sequence[str], limits: Mapping[str, Any]) -> Operation[CreatedKey]:
    """Create an API key. Sent twice it makes two."""
    body = {"name": name, "scopes": list(scopes), **limits}
    return Operation(method="POST", path="/v1/keys", parse=parse_as(CreatedKey), json=body, repeatable=False)


def list_keys(cursor: str | None, **query: Any) -> Operation[Page[ApiKey]]:
    """A page of the tenant's keys, oldest first."""
    return _get(parse_as(Page[ApiKey]), "v1", "keys", cursor=cursor, **query)


def rotate_key(key_id: str, overlap_minutes: int) -> Operation[CreatedKey]:
    """Rotate an API key. Sent twice, the second secret replaces the first."""
    path, query = path_of("v1", "keys", key_id, "rotate"), {"overlap_minutes": overlap_minutes}
    return Operation(method="POST", path=path, parse=parse_as(CreatedKey), query=query, repeatable=False)


def revoke_key(key_id: str) -> Operation[None]:
    """Revoke an API key."""
    return _delete("v1", "keys", key_id)


def get_tenant() -> Operation[Tenant]:
    """The tenant's limits and usage."""
    return _get(parse_as(Tenant), "v1", "tenant")


# The service


def list_methods() -> Operation[Page[Method]]:
    """Every method with its parameters."""
    return _get(parse_as(Page[Method]), "v1", "methods")


def list_priors() -> Operation[Page[Prior]]:
    """Every diffusion prior with its card."""
    return _get(parse_as(Page[Prior]), "v1", "priors")


def list_workers() -> Operation[Workers]:
    """Workers, and the queue by priority."""
    return _get(parse_as(Workers), "v1", "workers")


def list_destinations() -> Operation[Page[Destination]]:
    """Archives that jobs may name."""
    return _get(parse_as(Page[Destination]), "v1", "destinations")


def get_health() -> Operation[Health]:
    """Whether the API process lives."""
    return _get(parse_as(Health), "healthz")


def get_readiness(exclude: Sequence[str] = ()) -> Operation[Health]:
    """Whether a job submitted now would run; 503 is an answer, which names what is missing."""
    query = {"exclude": list(exclude)}
    return Operation(method="GET", path="/readyz", parse=parse_as(Health), query=query, accepted=frozenset({503}))


def get_metrics() -> Operation[str]:
    """Metrics in the text format of Prometheus."""
    return _get(_text_of, "metrics")

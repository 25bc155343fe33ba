"""What the service answers, as dataclasses. `decode` makes them from JSON.

Fields that a newer service adds are left out, and fields that an older one lacks are None or empty. A field of the
service that means "unknown" or "not yet" as null is None here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from udig_client.errors import JobFailed

T = TypeVar("T")

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""Statuses of jobs and comparisons that have ended."""


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` leads to the next one and is None on the last."""

    items: list[T]
    next_cursor: str | None = None


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Which image a slice of a scan is, by the scanner's counters from 0."""

    slice: int
    contrast: int = 0
    phase: int = 0
    repetition: int = 0
    set: int = 0


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A scan that is stored. Shapes and spacings are (y, x), lengths in mm."""

    id: str
    filename: str
    size_bytes: int
    sha256: str
    format: str
    modality: str
    slices: int
    matrix: tuple[int, int]
    pixel_spacing_mm: tuple[float, float]
    created_at: datetime
    coils: int | None = None
    views: int | None = None
    detectors: int | None = None
    kspace_matrix: tuple[int, int] | None = None
    slice_spacing_mm: float | None = None
    affine: list[list[float]] | None = None
    trajectory: str | None = None
    averages: int | None = None
    prewhitened: bool = False
    geometry: str | None = None
    source_origin_mm: float | None = None
    source_detector_mm: float | None = None
    rotation_center: float | None = None
    water_attenuation_per_mm: float | None = None
    acceleration: float | None = None
    has_maps: bool = False
    has_reference: bool = False
    has_guide: bool = False
    corrections: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    expires_at: datetime | None = None
    frames: list[Frame] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class UnfinishedUpload:
    """A resumable upload: `offset_bytes` of its `size_bytes` have arrived. It may have become a scan."""

    id: str
    filename: str
    size_bytes: int
    offset_bytes: int
    created_at: datetime
    expires_at: datetime
    sha256: str | None = None
    scan_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class UploadPart:
    """A part of a file that goes straight to the service's bucket, and the request that sends it."""

    number: int
    offset: int
    size_bytes: int
    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DirectUpload(UnfinishedUpload):
    """An upload straight to the service's bucket, with the parts that are missing there."""

    part_bytes: int
    missing: list[UploadPart] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class UploadOptions:
    """What the service takes of resumable uploads (tus 1.0)."""

    versions: list[str]
    extensions: list[str]
    max_bytes: int | None = None
    checksum_algorithms: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """Progress of a job over all its slices."""

    fraction: float
    slices_done: int
    slices: int
    iteration: int
    iterations: int | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Quality of a result: means over its slices. Those against a reference are None where the scan has none."""

    psnr: float | None = None
    ssim: float | None = None
    nmse: float | None = None
    data_residual: float | None = None
    validation_residual: float | None = None
    prior_evaluations: float | None = None
    optimizer_steps: float | None = None
    noise_discrepancy: float | None = None
    iterate_variance: float | None = None
    hallucination_share: float | None = None
    seed_std: float | None = None


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Rating of an image, made without a reference: `good`, `unrated`, `check` or `poor`, and the reasons."""

    rating: str
    reasons: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PriorCheck:
    """Comparison of the prior's image with total variation's on held-out measurements."""

    selected: str
    prior_weight: float
    out_of_distribution: bool
    residuals: dict[str, float]
    tv_weight: float
    reason: str
    ood_score: float | None = None


@dataclass(frozen=True, kw_only=True)
class JobSlice:
    """A slice of a job."""

    slice: int
    status: str
    frame: Frame | None = None
    quality: Quality | None = None
    prior_check: PriorCheck | None = None
    reference_slice: int | None = None


@dataclass(frozen=True, kw_only=True)
class WebhookDelivery:
    """Delivery of the webhook of a job's latest event."""

    state: str
    event: str
    attempts: int
    due_at: datetime
    error: str | None = None
    delivered_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Delivery of a job's result to a destination."""

    destination: str
    state: str
    attempts: int
    due_at: datetime
    error: str | None = None
    delivered_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated cost of a job when it was submitted."""

    seconds: float
    memory_bytes: int
    result_bytes: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A reconstruction of a scan. A job of a list has no slices and webhook, and the reasons of few slices."""

    id: str
    status: str
    progress: JobProgress
    parameters: dict[str, Any]
    outputs: list[str]
    slice_numbers: list[int]
    seed: int
    seeds: int
    created_at: datetime
    scan_id: str | None = None
    metrics: Metrics | None = None
    priority: str = "routine"
    max_seconds: float | None = None
    estimate: Estimate | None = None
    compute_seconds: float = 0.0
    tags: dict[str, str] = field(default_factory=dict)
    cancel_requested: bool = False
    warnings: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    attempt: int = 0
    worker: str | None = None
    comparison_id: str | None = None
    versions: dict[str, Any] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    links: dict[str, str] = field(default_factory=dict)
    webhook: WebhookDelivery | None = None
    destinations: list[str] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    quality: Quality | None = None
    slices: list[JobSlice] = field(default_factory=list)
    affine: list[list[float]] | None = None
    corrections: list[str] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether it has succeeded, failed or was cancelled."""
        return self.status in ENDED

    @property
    def method(self) -> str:
        """Name of its method."""
        return str(self.parameters.get("method", ""))

    def check(self) -> Job:
        """The job itself. Raises JobFailed where it has failed or was cancelled."""
        if self.ended and self.status != "succeeded":
            raise JobFailed(self)
        return self


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Progress of one slice at one moment; `seq` grows by one within a job."""

    seq: int
    slice: int
    iteration: int
    iterations: int
    seconds: float
    created_at: datetime
    loss: float | None = None
    data_residual: float | None = None
    psnr: float | None = None
    ssim: float | None = None


@dataclass(frozen=True, kw_only=True)
class StatusChange:
    """A job's status, at first and whenever it changes; `done` with the last one. It may be `deleted`."""

    status: str
    progress: JobProgress | None = None
    warnings: list[str] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparisonProgress:
    """Progress of a comparison over all its jobs."""

    fraction: float
    jobs_done: int
    jobs: int
    slices_done: int
    slices: int
    eta_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ComparisonEntry:
    """Result of a job of a comparison: means over its slices, and the seconds of all of them."""

    job_id: str
    label: str
    scan_id: str
    seed: int
    sampling: str
    slices: int
    seconds: float
    psnr: float | None = None
    ssim: float | None = None
    nmse: float | None = None
    data_residual: float | None = None
    prior_evaluations: float | None = None
    optimizer_steps: float | None = None
    rating: str | None = None


@dataclass(frozen=True, kw_only=True)
class ComparisonFailure:
    """A job of a comparison that has failed, with its problem document."""

    job_id: str
    label: str
    scan_id: str
    seed: int
    error: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods that are compared on scans. A comparison of a list has no entries and errors."""

    id: str
    status: str
    progress: ComparisonProgress
    scan_ids: list[str]
    methods: list[dict[str, Any]]
    seeds: list[int]
    created_at: datetime
    slices: list[int] | None = None
    tags: dict[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    links: dict[str, str] = field(default_factory=dict)
    entries: list[ComparisonEntry] = field(default_factory=list)
    errors: list[ComparisonFailure] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether all its jobs have ended."""
        return self.status in ENDED


@dataclass(frozen=True, kw_only=True)
class RankedMethod:
    """A method compared with the best one."""

    method: str
    psnr: float
    n_slices: int
    rank: int | None = None
    difference: float | None = None
    p: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The methods of one modality, best first."""

    modality: str
    n_slices: int
    min_p: float
    note: str
    methods: list[RankedMethod]


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """An API key, without the key itself."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    max_priority: str = "routine"
    max_open_jobs: int | None = None
    max_jobs_per_day: int | None = None
    max_stored_bytes: int | None = None
    max_requests_per_minute: int | None = None
    retention_days: int | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class CreatedKey(ApiKey):
    """A new API key; the only answer that holds the key itself, which `repr` does not show."""

    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TenantLimits:
    """How much a tenant may do, over all its keys; None: only the service's own limits hold."""

    max_open_jobs: int | None = None
    max_open_slices: int | None = None
    max_jobs_per_day: int | None = None
    max_compute_seconds_per_day: int | None = None
    max_job_seconds: int | None = None
    max_job_memory_bytes: int | None = None
    max_stored_bytes: int | None = None
    max_keys: int | None = None
    max_uploads: int | None = None
    max_waits: int | None = None
    max_requests_per_minute: int | None = None
    retention_days: int | None = None


@dataclass(frozen=True, kw_only=True)
class TenantUsage:
    """What a tenant has used of its limits."""

    open_jobs: int
    open_slices: int
    jobs_today: int
    compute_seconds_today: float
    compute_seconds_to_come: float
    stored_bytes: int
    keys: int
    uploads: int
    waits: int


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """The caller's tenant."""

    tenant: str
    limits: TenantLimits
    usage: TenantUsage


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a method."""

    name: str
    type: str
    description: str
    default: Any = None
    minimum: float | None = None
    exclusive_minimum: float | None = None
    maximum: float | None = None
    exclusive_maximum: float | None = None
    choices: list[str] | None = None
    symbol: str | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method and its parameters; `presets` are complete parameters by preset and modality."""

    name: str
    description: str
    modalities: list[str]
    needs_prior: bool
    parameters: list[Parameter]
    presets: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Destination:
    """An archive that jobs may name."""

    name: str
    kind: str
    identifiers: bool


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A diffusion prior's card."""

    name: str
    modality: str
    description: str
    network: dict[str, Any]
    sha256: str
    data: list[str]
    held_out: list[str]
    training: dict[str, Any]
    scores: dict[str, float]
    limits: str


@dataclass(frozen=True, kw_only=True)
class WorkerSlice:
    """The slice that a worker is at."""

    job_id: str
    slice: int
    iteration: int
    iterations: int | None = None
    claimed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker process: `idle`, `busy` or `lost`; `slice` is that of the caller's tenant, if it is at one."""

    name: str
    state: str
    device: str
    started_at: datetime
    seen_at: datetime
    heartbeat_age_seconds: float
    gpu: str | None = None
    memory_bytes: int | None = None
    gpu_memory_used_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None
    slice: WorkerSlice | None = None


@dataclass(frozen=True, kw_only=True)
class QueueDepth:
    """Slices of one priority that wait or run, of all tenants."""

    priority: str
    queued_slices: int
    running_slices: int
    waiting_jobs: int
    oldest_waiting_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Workers, and the queue by priority, the most urgent first."""

    items: list[Worker]
    queue: list[QueueDepth]


@dataclass(frozen=True, kw_only=True)
class Health:
    """Whether a job submitted now would run; `checks` say of each dependency `ok` or what is wrong."""

    status: str
    checks: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.status == "ok"

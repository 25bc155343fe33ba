"""JSON schemas of jobs: what a request holds, and what answers hold."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, field_validator

from udig_recon.api.destinations.schemas import DeliveryOut
from udig_recon.api.openapi.content import CREATED, JOB_ID, SCAN_ID, SHA256
from udig_recon.api.scans.schemas import AFFINE, AffineOut, FrameOut
from udig_recon.core.acquisition import Modality
from udig_recon.core.metrics import METRICS
from udig_recon.core.parameters import MAX_SEEDS, Method, complete, parse
from udig_recon.core.prior_check import PriorCheck, ood_warning
from udig_recon.core.quality.rating import RatingLevel, Signals, rate, worst
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.access.limits import PriorityName
from udig_recon.worker.database.tables import DeliveryState, Status


def _distinct(numbers: list[int]) -> list[int]:
    if len(set(numbers)) < len(numbers):
        raise ValueError("each slice once")
    return numbers


def _each_name_once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


Slices = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
if TYPE_CHECKING:
    OutputName = str
else:
    OutputName = Literal[tuple(OUTPUTS)]  # a request may name each installed format
NO_NUL = r"^[^\x00]*$"
TagKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^:\x00]+$")]
TagValue = Annotated[str, StringConstraints(max_length=256, pattern=NO_NUL)]
Tags = Annotated[dict[TagKey, TagValue], Field(max_length=16)]


WebhookEvents = Annotated[
    list[Literal["job.started", "job.succeeded", "job.failed", "job.cancelled"]], Field(min_length=1, max_length=4)
]
DestinationName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=NO_NUL)]
DestinationNames = Annotated[list[DestinationName], Field(max_length=16), AfterValidator(_each_name_once)]
MaxSeconds = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


EXAMPLE_PARAMETERS = {"method": "udig_dip", "preset": "standard"}
_REQUEST: dict[str, Any] = {
    "parameters": EXAMPLE_PARAMETERS,
    "outputs": ["h5", "png"],
    "slices": None,
    "seed": 0,
    "seeds": 1,
    "priority": "routine",
    "max_seconds": None,
    "webhook_url": None,
    "webhook_events": None,
    "destinations": [],
    "tags": {"study": "knee-7"},
}


class JobOptions(BaseModel):
    """A job's method, outputs and other options, without the scan."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [_REQUEST]})

    parameters: Method = Field(description="method with its parameters, see GET /v1/methods")
    outputs: list[OutputName] = Field(
        ["h5"],
        min_length=1,
        max_length=len(OUTPUTS),
        description="formats written when the job ends; others are written on first request",
    )
    slices: Slices | None = Field(None, description="slice numbers of the scan, in the order of the result; null: all")
    seed: Seed = Field(0, description="same scan, parameters, seed and device: same image")
    seeds: int = Field(
        1,
        ge=1,
        le=MAX_SEEDS,
        description="so many runs, with seed, seed + 1, ...: the image is their mean, beside it lies their deviation",
    )
    priority: PriorityName = Field(
        "routine", description="`urgent` goes before what is routine, as far as the key's `max_priority` lets it"
    )
    max_seconds: MaxSeconds | None = Field(
        None, description="the job fails when it has computed for so long, over all its slices; null: the most allowed"
    )
    webhook_url: str | None = Field(
        None, description="https URL that receives a webhook at the end of the job (Standard Webhooks)"
    )
    webhook_events: WebhookEvents | None = Field(
        None, description="events that the `webhook_url` hears of; null: every end of the job, but not its start"
    )
    destinations: DestinationNames = Field(
        [],
        description="archives that the result is sent to as DICOM, by their names in GET /v1/destinations; "
        "`dicom` is then among the outputs",
    )
    tags: Tags = Field({}, description="labels for GET /v1/jobs?tag=key:value")


class RetryOptions(BaseModel):
    """Options of a retry."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"max_seconds": 7200.0}]})

    max_seconds: MaxSeconds | None = Field(
        None, description="the new limit, what was computed before counted in; null: it stays"
    )


class JobIn(JobOptions):
    """A job for a scan that was posted before."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"scan_id": SCAN_ID, **_REQUEST}]})

    scan_id: uuid.UUID


class EstimateOut(BaseModel):
    """Estimated cost of a job when it was submitted."""

    seconds: float = Field(description="of one worker, over all its slices and seeds; many runs end earlier")
    memory_bytes: int = Field(description="of a worker at its peak")
    result_bytes: int = Field(description="of all that is kept of it, at most")


class Progress(BaseModel):
    """Progress of a job over all its slices."""

    fraction: float = Field(ge=0, le=1)
    slices_done: int
    slices: int
    iteration: int = Field(description="iterations done, over all slices")
    iterations: int | None = Field(description="iterations in all; null before a slice's first iterate")
    eta_seconds: float | None = Field(description="null while it cannot be estimated")


def metric_field(name: str) -> Any:
    """A metric that may be null, with its description of `core.metrics.METRICS`."""
    metric = METRICS[name]
    return Field(None, description=f"{metric.description}; in {metric.unit}" if metric.unit else metric.description)


class Metrics(BaseModel):
    """Quality of the result: means over its slices."""

    psnr: float | None = metric_field("psnr")
    ssim: float | None = metric_field("ssim")
    nmse: float | None = metric_field("nmse")
    data_residual: float | None = metric_field("data_residual")
    validation_residual: float | None = metric_field("validation_residual")
    prior_evaluations: float | None = metric_field("prior_evaluations")
    optimizer_steps: float | None = metric_field("optimizer_steps")
    noise_discrepancy: float | None = metric_field("noise_discrepancy")
    iterate_variance: float | None = metric_field("iterate_variance")
    hallucination_share: float | None = metric_field("hallucination_share")
    seed_std: float | None = metric_field("seed_std")


class QualityOut(BaseModel):
    """Rating of an image, made without a reference."""

    rating: RatingLevel = Field(
        description="`unrated`: no held-out measurement tested it; `check`: look at it; `poor`: wrong, or mostly "
        "determined by the prior",
    )
    reasons: list[str] = Field(description="short sentences, each with the number that led to it and its limit")


class PriorCheckOut(BaseModel):
    """Comparison of the prior's image with total variation's on held-out measurements.

    The aliases are what workers before 0.2 write.
    """

    selected: Literal["udig_dip", "tv", "blend"] = Field(
        validation_alias=AliasChoices("selected", "chosen"), description="image that was taken"
    )
    prior_weight: float = Field(
        ge=0,
        le=1,
        validation_alias=AliasChoices("prior_weight", "prior_share"),
        description="weight of the prior's image; the rest is total variation's",
    )
    out_of_distribution: bool = Field(description="the scan is unlike the prior's training data")
    ood_score: float | None = Field(
        validation_alias=AliasChoices("ood_score", "strangeness"),
        description="distance of the image from the prior's training images; above 1 is unlike them; null: unknown",
    )
    residuals: dict[str, float] = Field(description="candidate -> |A x - y| / |y| on held-out measurements")
    tv_weight: float = Field(description="weight of total variation")
    reason: str = Field(description="the same in one sentence")

    @field_validator("selected", mode="before")
    @classmethod
    def _rename(cls, stored: str) -> str:
        return "blend" if stored == "mixed" else stored


class SliceOut(BaseModel):
    """A slice of a job."""

    slice: int = Field(description="its number: where the scan has frames, the index into those")
    frame: FrameOut | None = Field(None, description="null where the scan has no frames, or was deleted")
    status: Status
    quality: QualityOut | None = Field(description="null until it has succeeded, and where an older version made it")
    prior_check: PriorCheckOut | None = Field(
        description="null unless held-out measurements compared the prior with total variation"
    )
    reference_slice: int | None = Field(
        description="slice whose weight of total variation this one took over; null: it searched its own"
    )


class WebhookOut(BaseModel):
    """Delivery of the webhook of a job's latest event."""

    state: DeliveryState = Field(description="`failed`: given up; `disabled`: the receiver wants no more (410)")
    event: str = Field(description="`job.started`, `job.succeeded`, `job.failed` or `job.cancelled`")
    attempts: int
    error: str | None = Field(description="what the last attempt came to; null when it was heard")
    due_at: datetime = Field(description="of the next attempt, while it is pending")
    delivered_at: datetime | None


_PROGRESS = {
    "fraction": 0.42,
    "slices_done": 0,
    "slices": 1,
    "iteration": 42,
    "iterations": 100,
    "eta_seconds": 31.5,
}
_ITEM: dict[str, Any] = {
    "id": JOB_ID,
    "scan_id": SCAN_ID,
    "status": "running",
    "progress": _PROGRESS,
    "metrics": None,
    "quality": None,
    "parameters": complete(parse(EXAMPLE_PARAMETERS), Modality.MRI).model_dump(mode="json"),
    "outputs": ["h5", "png"],
    "destinations": [],
    "slice_numbers": [0],
    "seed": 0,
    "seeds": 1,
    "priority": "routine",
    "max_seconds": 259200.0,
    "compute_seconds": 0.0,
    "estimate": {"seconds": 14.2, "memory_bytes": 536870912, "result_bytes": 4653056},
    "tags": {"study": "knee-7"},
    "cancel_requested": False,
    "warnings": [],
    "error": None,
    "attempt": 1,
    "worker": "gpu-1:4711:1770109901",
    "comparison_id": None,
    "versions": None,
    "created_at": CREATED,
    "started_at": "2026-02-03T09:12:42.300000Z",
    "finished_at": None,
    "expires_at": None,
    "links": {"self": f"/v1/jobs/{JOB_ID}", "result": f"/v1/jobs/{JOB_ID}/result"},
}


class JobItem(BaseModel):
    """A job in a list."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ITEM]})

    id: uuid.UUID
    scan_id: uuid.UUID | None = Field(description="null once the scan was deleted")
    status: Status
    progress: Progress
    metrics: Metrics | None = Field(description="null until it has succeeded")
    quality: QualityOut | None = Field(
        description="the worst of its slices', with the reasons of three; null until it has succeeded"
    )
    parameters: dict[str, Any] = Field(description="complete, with the values of preset and defaults")
    outputs: list[str]
    destinations: list[str] = Field(description="names of archives that the result is sent to")
    slice_numbers: list[int] = Field(
        description="slices of the scan, in the order of the result; where it has frames, indices into those"
    )
    seed: int
    seeds: int
    priority: PriorityName
    max_seconds: float | None = Field(description="that it may compute; null: without limit")
    estimate: EstimateOut | None = Field(description="null: of a version that made none")
    compute_seconds: float = Field(description="that workers spent on it, without what they are at")
    tags: dict[str, str]
    cancel_requested: bool
    warnings: list[str] = Field(description="what to know before its image is trusted, of its scan and of its slices")
    error: dict[str, Any] | None = Field(description="problem document of a failed job")
    attempt: int = Field(description="how often a slice of it was begun, at most")
    worker: str | None = Field(description="who works on it, or finished it")
    comparison_id: uuid.UUID | None = Field(description="that it was filed for; null: for none")
    versions: dict[str, Any] | None = Field(description="software and prior that made the result")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="when its files are deleted; null: not by themselves")
    links: dict[str, str]


_CHECK = PriorCheck(
    prior_weight=0.31,
    best_at=0.6,
    residuals={"start": 0.094, "tv": 0.066, "udig_dip": 0.063},
    tv_weight=0.0013,
)
_RATING = rate(Signals(misfit=0.9, prior_excess=_CHECK.excess, hallucination=0.04), Modality.MRI)
_PRIOR_CHECK = {name: value for name, value in _CHECK.as_json().items() if name != "reference_slice"}
_SLICE: dict[str, Any] = {
    "slice": 0,
    "frame": None,
    "status": "running",
    "quality": None,
    "prior_check": None,
    "reference_slice": None,
}
_RUNNING: dict[str, Any] = {
    **_ITEM,
    "webhook": None,
    "deliveries": [],
    "slices": [_SLICE],
    "affine": None,
    "corrections": [],
}
_FINISHED: dict[str, Any] = {
    **_ITEM,
    "status": "succeeded",
    "progress": {**_PROGRESS, "fraction": 1.0, "slices_done": 1, "slices": 1, "iteration": 180, "iterations": 180}
    | {"eta_seconds": None},
    "metrics": {
        "psnr": 33.2,
        "ssim": 0.91,
        "nmse": 0.008,
        "data_residual": 0.041,
        "validation_residual": _CHECK.validation_residual,
        "prior_evaluations": 240.0,
        "optimizer_steps": 0.0,
        "noise_discrepancy": 1.08,
        "iterate_variance": 2.1e-7,
        "hallucination_share": 0.04,
        "seed_std": None,
    },
    "warnings": [ood_warning([0])],
    "versions": {"software": "udig-recon 0.4.0", "prior": "mri", "prior_sha256": SHA256},
    "finished_at": "2026-02-03T09:14:40.900000Z",
    "webhook": {
        "state": "delivered",
        "event": "job.succeeded",
        "attempts": 1,
        "error": None,
        "due_at": "2026-02-03T09:15:11.200000Z",
        "delivered_at": "2026-02-03T09:14:41.400000Z",
    },
    "destinations": ["radiology"],
    "deliveries": [
        {
            "destination": "radiology",
            "state": "pending",
            "attempts": 2,
            "error": "no connection",
            "due_at": "2026-02-03T09:15:11.200000Z",
            "delivered_at": None,
        }
    ],
    "quality": worst({0: _RATING}).as_json(),
    "slices": [{**_SLICE, "status": "succeeded", "quality": _RATING.as_json(), "prior_check": _PRIOR_CHECK}],
}


class JobOut(JobItem):
    """A job with its slices, the reasons of all of them, and its webhook."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RUNNING, _FINISHED]})

    webhook: WebhookOut | None = Field(description="null before its end, and without a `webhook_url`")
    deliveries: list[DeliveryOut] = Field(
        description="what is sent to each destination; empty before the job has succeeded"
    )
    quality: QualityOut | None = Field(description="the worst of its slices'; null until it has succeeded")
    slices: list[SliceOut] = Field(description="in the order of the result")
    affine: AffineOut | None = Field(None, description=f"the scan's: {AFFINE}, or the scan was deleted")
    corrections: list[str] = Field(
        [], description="what was corrected of the scan's measurements; empty once the scan was deleted"
    )


_SNAPSHOT: dict[str, Any] = {
    "seq": 7,
    "slice": 0,
    "iteration": 42,
    "iterations": 100,
    "loss": 0.0021,
    "data_residual": 0.043,
    "psnr": 34.1,
    "ssim": 0.93,
    "seconds": 22.8,
    "created_at": "2026-02-03T09:13:05.100000Z",
}


class SnapshotOut(BaseModel):
    """Progress of one slice at one moment."""

    model_config = ConfigDict(json_schema_extra={"examples": [_SNAPSHOT]})

    seq: int = Field(description="grows by one within a job")
    slice: int
    iteration: int = Field(description="0: coil maps are still being fitted")
    iterations: int = Field(description="in all; 0 while that is not known")
    loss: float | None
    data_residual: float | None
    psnr: float | None = Field(description="null without a reference")
    ssim: float | None = Field(description="null without a reference")
    seconds: float = Field(description="spent on the slice so far")
    created_at: datetime

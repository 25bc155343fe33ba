"""JSON schemas of comparisons: what a request holds, and what answers hold."""

import uuid
from collections.abc import Hashable
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from udig_recon.api.jobs.schemas import EXAMPLE_PARAMETERS, Seed, Slices, Tags, metric_field
from udig_recon.api.openapi.content import COMPARISON_ID, CREATED, JOB_ID, SCAN_ID
from udig_recon.core.acquisition import Modality
from udig_recon.core.parameters import Method
from udig_recon.worker.database.tables import Status

MOST_JOBS = 500
MOST_SLICES = 5000
MOST_METHODS = 32
Once = TypeVar("Once", bound=Hashable)


def _each_once(values: list[Once]) -> list[Once]:
    if len(set(values)) < len(values):
        raise ValueError("each once")
    return values


# Plain enough for Markdown, CSV and LaTeX alike.
PLAIN = r"^[A-Za-z0-9]([A-Za-z0-9 ._,:=+()/-]*[A-Za-z0-9)+])?$"
Words = Annotated[str, StringConstraints(max_length=64, pattern=PLAIN)]


class ComparedMethod(BaseModel):
    """A method with its parameters, and a label that distinguishes it from the same method with others."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: Words | None = Field(
        None, description="words that follow the method's name in tables and pictures: `lambda 0`"
    )
    parameters: Method = Field(description="method with its parameters, see GET /v1/methods")

    @property
    def name(self) -> str:
        """Its name in the comparison."""
        return f"{self.parameters.method} {self.label}" if self.label else self.parameters.method


_REQUEST: dict[str, Any] = {
    "scan_ids": [SCAN_ID],
    "methods": [
        {"parameters": EXAMPLE_PARAMETERS},
        {"label": "weight 0.01", "parameters": {"method": "tv", "weight": 0.01}},
    ],
    "seeds": [0, 1, 2],
    "slices": None,
    "tags": {"study": "knee-7"},
    "webhook_url": None,
}


class ComparisonIn(BaseModel):
    """Methods to compare, and the scans to compare them on."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [_REQUEST]})

    scan_ids: Annotated[list[uuid.UUID], AfterValidator(_each_once)] = Field(
        min_length=1,
        max_length=MOST_JOBS,
        description="scans; PSNR, SSIM and ranking are of those with a reference",
    )
    methods: list[ComparedMethod] = Field(min_length=1, max_length=MOST_METHODS)
    seeds: Annotated[list[Seed], AfterValidator(_each_once)] = Field([0], min_length=1, max_length=MOST_JOBS)
    slices: Slices | None = Field(None, description="slice numbers, which each scan must have; null: all")
    tags: Tags = Field({}, description="labels of the comparison and its jobs")
    webhook_url: str | None = Field(
        None, description="https URL that receives one webhook when the last job has ended (Standard Webhooks)"
    )


class ComparisonProgress(BaseModel):
    """Progress of a comparison over all its jobs."""

    fraction: float = Field(ge=0, le=1, description="of its slices, however long each takes")
    jobs_done: int = Field(description="jobs that have ended")
    jobs: int
    slices_done: int
    slices: int
    eta_seconds: float | None = Field(
        description="by what slices of each method took so far; null until each has begun one"
    )


_ROOT = f"/v1/comparisons/{COMPARISON_ID}"
_ITEM: dict[str, Any] = {
    **{name: value for name, value in _REQUEST.items() if name != "webhook_url"},
    "id": COMPARISON_ID,
    "status": "running",
    "progress": {
        "fraction": 0.35,
        "jobs_done": 2,
        "jobs": 6,
        "slices_done": 2,
        "slices": 6,
        "eta_seconds": 140.0,
    },
    "methods": [
        {"label": "udig_dip", "parameters": EXAMPLE_PARAMETERS},
        {"label": "tv weight 0.01", "parameters": {"method": "tv", "weight": 0.01}},
    ],
    "created_at": CREATED,
    "expires_at": None,
    "links": {"self": _ROOT, "table": f"{_ROOT}/table"},
}


class ComparisonItem(BaseModel):
    """A comparison in a list."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ITEM]})

    id: uuid.UUID
    status: Status = Field(
        description="`failed`: a job of it has failed; `cancelled`: none has, but one was cancelled, or none is left"
    )
    progress: ComparisonProgress
    scan_ids: list[uuid.UUID]
    methods: list[dict[str, Any]] = Field(description="`label` as in the entries, and `parameters` as requested")
    seeds: list[int]
    slices: list[int] | None
    tags: dict[str, str]
    created_at: datetime
    expires_at: datetime | None = Field(description="when it is deleted; null: not by itself")
    links: dict[str, str]


class RunOut(BaseModel):
    """A job of a comparison."""

    job_id: uuid.UUID
    label: str = Field(description="name of its method, with its label")
    scan_id: uuid.UUID
    seed: int


class EntryOut(RunOut):
    """Result of a job: means over its slices, and the seconds of all of them."""

    sampling: str = Field(description="acceleration or views: `4x`, `18 views`")
    slices: int
    psnr: float | None = metric_field("psnr")
    ssim: float | None = metric_field("ssim")
    nmse: float | None = metric_field("nmse")
    data_residual: float | None = metric_field("data_residual")
    seconds: float
    prior_evaluations: float | None = metric_field("prior_evaluations")
    optimizer_steps: float | None = metric_field("optimizer_steps")
    rating: str | None = Field(description="the worst of its slices: good, unrated, check or poor")


class FailureOut(RunOut):
    """A job that has failed."""

    error: dict[str, Any] = Field(description="problem document")


_RUN = {"job_id": JOB_ID, "label": "udig_dip", "scan_id": SCAN_ID, "seed": 0}
_SCORES: dict[str, Any] = {
    "sampling": "4x",
    "psnr": 33.2,
    "ssim": 0.91,
    "nmse": 0.008,
    "data_residual": 0.041,
    "seconds": 118.6,
    "prior_evaluations": 240,
    "optimizer_steps": 0,
    "rating": "good",
}
_COMPARISON: dict[str, Any] = {
    **_ITEM,
    "entries": [{**_RUN, **_SCORES, "slices": 1}],
    "errors": [
        {
            **_RUN,
            "seed": 1,
            "error": {
                "type": "urn:udig-recon:problem:disk-full",
                "title": "Insufficient Storage",
                "status": 507,
                "detail": "the disk was full when slice 0 was to be written; free some space and retry the job",
            },
        }
    ],
}


class ComparisonOut(ComparisonItem):
    """A comparison with its results so far."""

    model_config = ConfigDict(json_schema_extra={"examples": [_COMPARISON]})

    entries: list[EntryOut] = Field(description="of the jobs that have succeeded")
    errors: list[FailureOut] = Field(description="of the jobs that have failed; POST /v1/jobs/{id}/retry tries again")


class RankedMethodOut(BaseModel):
    """A method compared with the best one."""

    model_config = ConfigDict(from_attributes=True)

    method: str = Field(description="its label")
    rank: int | None = Field(description="null: it lacks slices that others have, and is not tested")
    psnr: float = Field(description="dB, mean over its slices, seeds of each averaged")
    n_slices: int
    difference: float | None = Field(description="dB, mean over the slices; null of the first")
    p: float | None = Field(description="Wilcoxon's signed-rank test of the differences, two-sided")
    p_adjusted: float | None = Field(description="Holm's correction of p for all tests")


_SECOND = {"rank": 2, "psnr": 32.1, "n_slices": 8, "difference": -1.1, "p": 0.0078, "p_adjusted": 0.0078}
_RANKING: dict[str, Any] = {
    "modality": "mri",
    "n_slices": 8,
    "min_p": 0.0078125,
    "note": "n = 8; slices of one person, or of one image at two samplings, are not independent",
    "methods": [
        {**dict.fromkeys(_SECOND), "method": "udig_dip", "rank": 1, "psnr": 33.2, "n_slices": 8},
        {"method": "tv weight 0.01", **_SECOND},
    ],
}


class RankingOut(BaseModel):
    """The methods of one modality, best first."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_RANKING]})

    modality: Modality
    n_slices: int = Field(description="paired slices")
    min_p: float = Field(description="smallest p that this many pairs can give")
    note: str = Field(description="what this many pairs can and cannot show")
    methods: list[RankedMethodOut] = Field(description="best first")

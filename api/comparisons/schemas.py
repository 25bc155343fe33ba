"""What a comparison takes and what it tells, as JSON."""

import uuid
from collections.abc import Hashable
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from udig_recon.api.jobs.schemas import Seed, Slices, Tags, metric_field
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
    """A method with its knobs, and what tells it from the same method with others."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: Words | None = Field(
        None, description="words that follow the method's name in tables and pictures: `lambda 0`"
    )
    parameters: Method = Field(description="method with its knobs, see GET /v1/methods")

    @property
    def name(self) -> str:
        """What it is called in the comparison."""
        return f"{self.parameters.method} {self.label}" if self.label else self.parameters.method


class ComparisonIn(BaseModel):
    """Which methods are to be held against each other, and on what."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scan_ids: Annotated[list[uuid.UUID], AfterValidator(_each_once)] = Field(
        min_length=1, max_length=MOST_JOBS, description="scans with a reference"
    )
    methods: list[ComparedMethod] = Field(min_length=1, max_length=MOST_METHODS)
    seeds: Annotated[list[Seed], AfterValidator(_each_once)] = Field([0], min_length=1, max_length=MOST_JOBS)
    slices: Slices | None = Field(None, description="slice numbers, which each scan must have; null: all")
    tags: Tags = Field({}, description="labels of the comparison and its jobs")


class ComparisonProgress(BaseModel):
    """How far a comparison is, over all its jobs."""

    fraction: float = Field(ge=0, le=1, description="of its slices, however long each takes")
    jobs_done: int = Field(description="jobs that have ended")
    jobs: int
    slices_done: int
    slices: int
    eta_seconds: float | None = Field(
        description="by what slices of each method took so far; null until each has begun one"
    )


class ComparisonItem(BaseModel):
    """A comparison of a list and how it stands."""

    id: uuid.UUID
    status: Status = Field(
        description="`failed`: a job of it has failed; `cancelled`: none has, but one was cancelled, or none is left"
    )
    progress: ComparisonProgress
    scan_ids: list[uuid.UUID]
    methods: list[dict[str, Any]] = Field(description="`label` as in the entries, and `parameters` as asked for")
    seeds: list[int]
    slices: list[int] | None
    tags: dict[str, str]
    created_at: datetime
    expires_at: datetime | None = Field(description="when it is deleted; null: not by itself")
    links: dict[str, str]


class RunOut(BaseModel):
    """Which job of a comparison."""

    job_id: uuid.UUID
    label: str = Field(description="name of its method, and what tells it from the same with other knobs")
    scan_id: uuid.UUID
    seed: int


class EntryOut(RunOut):
    """What came of a job: means over its slices, and the seconds of them all."""

    sampling: str = Field(description="acceleration or views: `4x`, `18 views`")
    slices: int
    psnr: float | None = metric_field("psnr")
    ssim: float | None = metric_field("ssim")
    nmse: float | None = metric_field("nmse")
    data_residual: float | None = metric_field("data_residual")
    seconds: float
    prior_evaluations: float | None = metric_field("prior_evaluations")
    optimizer_steps: float | None = metric_field("optimizer_steps")


class FailureOut(RunOut):
    """A job that has failed."""

    error: dict[str, Any] = Field(description="problem document")


class ComparisonOut(ComparisonItem):
    """A comparison and what it has found so far."""

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


class RankingOut(BaseModel):
    """The methods of one modality, best first."""

    model_config = ConfigDict(from_attributes=True)

    modality: Modality
    n_slices: int = Field(description="paired slices")
    min_p: float = Field(description="smallest p that this many pairs can give")
    note: str = Field(description="what this many pairs can and cannot show")
    methods: list[RankedMethodOut] = Field(description="best first")

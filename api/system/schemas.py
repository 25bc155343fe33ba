"""JSON schemas of methods, their parameters, workers, the queue, and the health of the service."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from udig_recon.api.openapi.content import CREATED, JOB_ID
from udig_recon.worker.access.limits import PriorityName


class ParameterOut(BaseModel):
    """A parameter of a method."""

    name: str
    type: str
    default: Any
    minimum: float | None = None
    exclusive_minimum: float | None = None
    maximum: float | None = None
    exclusive_maximum: float | None = None
    choices: list[str] | None = None
    symbol: str | None = Field(None, description="in the paper")
    description: str


_PARAMETER = {
    "name": "outer_iterations",
    "type": "integer",
    "default": 33,
    "minimum": 1,
    "maximum": 100000,
    "symbol": "K",
    "description": "outer iterations",
}
_METHOD: dict[str, Any] = {
    "name": "udig_dip",
    "description": "Sequential diffusion-guided deep image prior, Algorithm 1 of Liang et al. (ICASSP 2025).",
    "modalities": ["mri", "ct"],
    "needs_prior": True,
    "parameters": [_PARAMETER],
    "presets": {"standard": {"mri": {"method": "udig_dip", "preset": "standard", "outer_iterations": 33}}},
}


class MethodOut(BaseModel):
    """A method and its parameters."""

    model_config = ConfigDict(json_schema_extra={"examples": [_METHOD]})

    name: str
    description: str
    modalities: list[str]
    needs_prior: bool
    parameters: list[ParameterOut]
    presets: dict[str, dict[str, dict[str, Any]]] = Field(description="preset -> modality -> complete parameters")


class WorkerSliceOut(BaseModel):
    """The slice that a worker is at."""

    job_id: uuid.UUID
    slice: int
    iteration: int
    iterations: int | None = Field(description="null before its first iterate")
    claimed_at: datetime | None


_WORKER: dict[str, Any] = {
    "name": "gpu-1:4711:1770109901",
    "state": "busy",
    "device": "NVIDIA A100-SXM4-40GB",
    "gpu": "GPU-5f1d8a52-0c8f-4b7e-9f3a-2d6c1e7b9a40",
    "memory_bytes": 68719476736,
    "gpu_memory_used_bytes": 6442450944,
    "gpu_memory_total_bytes": 42949672960,
    "started_at": CREATED,
    "seen_at": "2026-02-03T09:13:05.100000Z",
    "heartbeat_age_seconds": 1.4,
    "slice": {"job_id": JOB_ID, "slice": 0, "iteration": 42, "iterations": 100, "claimed_at": CREATED},
}
_QUEUE: dict[str, Any] = {
    "priority": "routine",
    "queued_slices": 12,
    "running_slices": 2,
    "waiting_jobs": 3,
    "oldest_waiting_seconds": 41.5,
}


class WorkerOut(BaseModel):
    """A worker process."""

    name: str = Field(description="host:process:random")
    state: Literal["idle", "busy", "lost"] = Field(description="`lost`: it was not seen for four sweeps")
    device: str
    gpu: str | None = Field(description="UUID of its GPU")
    memory_bytes: int | None = Field(description="that it may use; null: unknown")
    gpu_memory_used_bytes: int | None = Field(description="by all processes on the GPU")
    gpu_memory_total_bytes: int | None
    started_at: datetime
    seen_at: datetime
    heartbeat_age_seconds: float = Field(description="since it was last seen")
    slice: WorkerSliceOut | None = Field(description="null: it has none, or one of another tenant")


class QueueOut(BaseModel):
    """Slices of one priority that wait or run, of all tenants."""

    priority: PriorityName
    queued_slices: int
    running_slices: int
    waiting_jobs: int = Field(description="jobs with a slice that waits")
    oldest_waiting_seconds: float | None = Field(description="null: none waits")


class WorkersOut(BaseModel):
    """Workers and the queue."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [_WORKER], "queue": [_QUEUE]}]})

    items: list[WorkerOut]
    queue: list[QueueOut] = Field(description="by priority, the most urgent first")


_READY: dict[str, Any] = {
    "status": "ok",
    "checks": dict.fromkeys(("database", "queue", "disk", "storage", "workers", "sandbox"), "ok"),
}
_NOT_READY: dict[str, Any] = {
    "status": "unavailable",
    "checks": {**_READY["checks"], "workers": "no worker was seen in the last 20 s"},
}


class HealthOut(BaseModel):
    """Whether a job posted now would run, dependency by dependency."""

    model_config = ConfigDict(json_schema_extra={"examples": [_READY, _NOT_READY]})

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(description="dependency -> `ok` or what is wrong with it")

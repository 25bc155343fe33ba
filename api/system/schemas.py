"""JSON schemas of methods, their parameters, and the health of the service."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


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
    "default": 100,
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
    "presets": {"standard": {"mri": {"method": "udig_dip", "preset": "standard", "outer_iterations": 100}}},
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


_READY: dict[str, Any] = {
    "status": "ok",
    "checks": dict.fromkeys(("database", "queue", "disk", "workers", "sandbox"), "ok"),
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

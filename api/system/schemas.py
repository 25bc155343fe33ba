"""JSON schemas of methods, their parameters, and the health of the service."""

from typing import Any, Literal

from pydantic import BaseModel, Field


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


class MethodOut(BaseModel):
    """A method and its parameters."""

    name: str
    description: str
    modalities: list[str]
    needs_prior: bool
    parameters: list[ParameterOut]
    presets: dict[str, dict[str, dict[str, Any]]] = Field(description="preset -> modality -> complete parameters")


class HealthOut(BaseModel):
    """Whether a job posted now would run, dependency by dependency."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = Field(description="dependency -> `ok` or what is wrong with it")

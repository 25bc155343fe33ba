"""JSON schemas of methods and their parameters."""

from typing import Any

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

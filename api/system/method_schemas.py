"""How methods and their knobs are told, as JSON."""

from typing import Any

from pydantic import BaseModel, Field


class ParameterOut(BaseModel):
    """One knob of a method."""

    name: str
    type: str
    default: Any
    minimum: float | None = None
    above: float | None = Field(None, description="the value must be greater than this")
    maximum: float | None = None
    below: float | None = Field(None, description="the value must be less than this")
    choices: list[str] | None = None
    symbol: str | None = Field(None, description="in the paper")
    meaning: str


class MethodOut(BaseModel):
    """A method and its knobs."""

    name: str
    meaning: str
    modalities: list[str]
    needs_prior: bool
    parameters: list[ParameterOut]
    presets: dict[str, dict[str, dict[str, Any]]] = Field(description="preset -> modality -> complete parameters")

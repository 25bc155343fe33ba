"""GET /v1/methods and GET /v1/priors: methods with their parameters, priors with their cards."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from fastapi import APIRouter, Request, Response
from pydantic.fields import FieldInfo

from udig_recon.api.access.authentication import Reader
from udig_recon.api.dependencies import ContextDep
from udig_recon.api.http.conditional import json_with_etag
from udig_recon.api.http.pagination import Page
from udig_recon.api.openapi.content import SHA256, Content
from udig_recon.api.openapi.responses import responses
from udig_recon.api.system.schemas import MethodOut, ParameterOut
from udig_recon.core.parameters import METHODS, PRESETS, Parameters, complete, parse
from udig_recon.core.priors.card import Card, cards

_PRIOR = {
    "name": "mri",
    "modality": "mri",
    "description": "Denoiser of brain slices",
    "network": {"channels": 2, "architecture": "edm_unet", "widths": [32, 64, 128], "blocks": 2},
    "sha256": SHA256,
    "data": ["open brain volumes, CC0"],
    "held_out": ["subject 4"],
    "training": {"steps": 20000},
    "scores": {"gain_db_at_sigma_0.2": 9.1},
    "limits": "Not for diagnosis.",
}
router = APIRouter(tags=["methods"])


@router.get(
    "/v1/methods", summary="Methods", response_model=Page[MethodOut], responses=responses({200: Page[MethodOut]}, 304)
)
def list_methods(request: Request, _: Reader) -> Response:
    """Every method with its parameters, from the classes that validate a job."""
    return json_with_etag(request, Page(items=method_list()))


@router.get(
    "/v1/priors",
    summary="Priors",
    response_model=Page[Card],
    responses=responses({200: Content.json({"items": [_PRIOR], "next_cursor": None})}, 304, 422),
)
def list_priors(request: Request, context: ContextDep, caller: Reader) -> Response:
    """Every diffusion prior that jobs may name, with its card."""
    return json_with_etag(request, Page(items=cards(context.settings.priors_folders(caller.tenant))))


def method_list() -> list[MethodOut]:
    """Every method with its parameters."""
    return [_method(name, cls) for name, cls in METHODS.items()]


def _method(name: str, cls: type[Parameters]) -> MethodOut:
    return MethodOut(
        name=name,
        description=(cls.__doc__ or "").strip(),
        modalities=[modality.value for modality in cls.modalities],
        needs_prior=cls.needs_prior,
        parameters=[_parameter(key, field) for key, field in cls.model_fields.items() if key != "method"],
        presets=_presets(name) if "preset" in cls.model_fields else {},
    )


def _presets(name: str) -> dict[str, dict[str, dict[str, Any]]]:
    presets: dict[str, dict[str, dict[str, Any]]] = {}
    for preset, modality in PRESETS:
        parameters = complete(parse({"method": name, "preset": preset}), modality).model_dump(mode="json")
        presets.setdefault(preset, {})[modality.value] = parameters
    return presets


def _parameter(name: str, field: FieldInfo) -> ParameterOut:
    kind, choices = _type(field.annotation)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    symbol = extra.get("symbol")
    return ParameterOut(
        name=name,
        type=kind,
        default=field.default,
        minimum=_bound(field, annotated_types.Ge, "ge"),
        exclusive_minimum=_bound(field, annotated_types.Gt, "gt"),
        maximum=_bound(field, annotated_types.Le, "le"),
        exclusive_maximum=_bound(field, annotated_types.Lt, "lt"),
        choices=choices,
        symbol=None if symbol is None else str(symbol),
        description=field.description or "",
    )


def _type(annotation: Any) -> tuple[str, list[str] | None]:
    """Name of a parameter's type, and its values where there are few."""
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "choice", [str(choice) for choice in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [("null", None) if each is type(None) else _type(each) for each in get_args(annotation)]
        return " or ".join(kind for kind, _ in kinds), next((choices for _, choices in kinds if choices), None)
    return {int: "integer", float: "number", bool: "boolean", str: "string"}[annotation], None


def _bound(field: FieldInfo, kind: type[Any], attribute: str) -> float | None:
    return next((getattr(each, attribute) for each in field.metadata if isinstance(each, kind)), None)

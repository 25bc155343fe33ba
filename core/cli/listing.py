"""`udig methods` and `udig priors`: what can be asked for, one a line."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from udig_recon.core.cli.arguments import print_columns, refuse
from udig_recon.core.parameters import METHODS, Parameters
from udig_recon.core.priors.card import cards

BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


SHARED = tuple(name for name in Parameters.model_fields if name != "method")
"""Parameters that every method has."""


class ParameterRow(NamedTuple):
    """One parameter of a method, in words."""

    name: str
    symbol: str
    """As the method's paper writes it, or nothing."""
    default: str
    allowed: Sequence[str]
    """Choices or bounds."""
    description: str


def list_methods(name: str | None) -> int:
    """Print all methods, or the parameters of one; 2 where there is no such method."""
    if name is None:
        print_columns((key, "/".join(cls.modalities), summary(cls)) for key, cls in METHODS.items())
        return 0
    if name not in METHODS:
        return refuse(f"no method {name!r}; there are: {', '.join(METHODS)}")
    sys.stdout.write(f"{summary(METHODS[name])}\n\n")
    rows = [*parameter_rows(METHODS[name]), *shared_rows()]
    print_columns((row.name, row.default, ", ".join(row.allowed), row.description) for row in rows)
    return 0


def list_priors(name: str | None, folder: Path | None) -> int:
    """Print all priors, or the card of one; 2 where there is no such prior."""
    found = {card.name: card for card in cards(folder)}
    if name is None:
        print_columns((card.name, card.modality.value, card.description) for card in found.values())
        return 0
    if name not in found:
        return refuse(f"no prior {name!r}; there are: {', '.join(found)}")
    sys.stdout.write(f"{found[name].model_dump_json(indent=2)}\n")
    return 0


def summary(method: type[Parameters]) -> str:
    """What a method does: the first line of its docstring."""
    return (method.__doc__ or "").strip().partition("\n")[0]


def parameter_rows(method: type[Parameters]) -> list[ParameterRow]:
    """The parameters of a method, apart from those of all methods, in the order of their declaration."""
    return [_row(name, field) for name, field in method.model_fields.items() if name not in ("method", *SHARED)]


def shared_rows() -> list[ParameterRow]:
    """The parameters of all methods."""
    return [_row(name, Parameters.model_fields[name]) for name in SHARED]


def shown_value(value: object) -> str:
    """A value as JSON has it, and `none` for null."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(name: str, field: FieldInfo) -> ParameterRow:
    return ParameterRow(name, _symbol(field), shown_value(field.default), _bounds(field), field.description or "")


def _symbol(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["symbol"]) if isinstance(extra, dict) and "symbol" in extra else ""


def _bounds(field: FieldInfo) -> list[str]:
    choices = _choices(field.annotation)
    return choices + [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(rule, name)
    ]


def _choices(annotation: Any) -> list[str]:
    """The words that a type takes, with `a number` for those that it takes beside."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(annotation)]
    words = [word for kind in kinds for word in _choices(kind)]
    return [*words, "a number"] if words and float in kinds else words

"""`udig methods` and `udig priors`: what can be asked for, one a line."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic.fields import FieldInfo

from udig_recon.core.cli.arguments import refuse
from udig_recon.core.parameters import METHODS, Parameters
from udig_recon.core.priors.card import cards

BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


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
        _print_columns((key, "/".join(cls.modalities), summary(cls)) for key, cls in METHODS.items())
        return 0
    if name not in METHODS:
        return refuse(f"no method {name!r}; there are: {', '.join(METHODS)}")
    sys.stdout.write(f"{summary(METHODS[name])}\n\n")
    _print_columns(
        (row.name, row.default, ", ".join(row.allowed), row.description) for row in parameter_rows(METHODS[name])
    )
    return 0


def list_priors(name: str | None, folder: Path | None) -> int:
    """Print all priors, or the card of one; 2 where there is no such prior."""
    found = {card.name: card for card in cards(folder)}
    if name is None:
        _print_columns((card.name, card.modality.value, card.description) for card in found.values())
        return 0
    if name not in found:
        return refuse(f"no prior {name!r}; there are: {', '.join(found)}")
    sys.stdout.write(f"{found[name].model_dump_json(indent=2)}\n")
    return 0


def summary(method: type[Parameters]) -> str:
    """What a method does: the first line of its docstring."""
    return (method.__doc__ or "").strip().partition("\n")[0]


def parameter_rows(method: type[Parameters]) -> list[ParameterRow]:
    """The parameters of a method in the order of their declaration."""
    return [
        ParameterRow(name, _symbol(field), shown_value(field.default), _bounds(field), field.description or "")
        for name, field in method.model_fields.items()
        if name != "method"
    ]


def shown_value(value: object) -> str:
    """A value as JSON has it, and `none` for null."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _symbol(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra["symbol"]) if isinstance(extra, dict) and "symbol" in extra else ""


def _bounds(field: FieldInfo) -> list[str]:
    if "Literal" in str(field.annotation):
        return [str(choice) for choice in getattr(field.annotation, "__args__", ())]
    return [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(rule, name)
    ]


def _print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Print rows as columns; the last column is as wide as its text."""
    table = [list(row) for row in rows]
    if not table:
        return
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[-1]]) + "\n")

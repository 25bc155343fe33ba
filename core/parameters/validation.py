"""Validation errors of pydantic in the words of the service: which field, what was found, what was expected."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from udig_recon.core.parameters.base import Parameters

BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
PLACES = ("query", "path", "header")
"""What FastAPI puts before the names of parameters that are not in the body."""


class InvalidField(NamedTuple):
    """One field of the input that is wrong."""

    field: str  # its path, parts joined by dots
    found: Any  # the value, or a word for it
    expected: str


def invalid_field(
    error: Mapping[str, Any], methods: Mapping[str, type[Parameters]], prefix: Sequence[str] = ()
) -> InvalidField:
    """One of the errors of a `ValidationError`, of input that stands at `prefix` in the request."""
    where = [str(part) for part in (*prefix, *error["loc"])]
    method = next((part for part in where if part in methods), None)
    field = ".".join(part for part in where if part not in methods and part not in PLACES)
    match error["type"], error.get("ctx", {}):
        case "extra_forbidden", _:
            return InvalidField(field, "unknown", _near(where[-1], method, methods))
        case "missing", _:
            return InvalidField(field, "nothing", "a value")
        case "union_tag_invalid" | "union_tag_not_found", context:
            return InvalidField(f"{field}.method".lstrip("."), context.get("tag", "nothing"), " | ".join(methods))
        case "literal_error" | "enum", context:
            return InvalidField(field, error["input"], context["expected"])
        case "value_error", context:
            return InvalidField(field, error["input"], str(context["error"]))
        case _, context if bounds := [f"{sign} {context[key]}" for key, sign in BOUNDS.items() if key in context]:
            return InvalidField(field, error["input"], " and ".join(bounds))
    return InvalidField(field, error["input"], error["msg"].removeprefix("Input should be "))


def _near(name: str, method: str | None, methods: Mapping[str, type[Parameters]]) -> str:
    """The parameters of the method that a misspelt one may have meant."""
    if method is None:
        return "no such field"
    known = [key for key in methods[method].model_fields if key != "method"]
    near = difflib.get_close_matches(name, known, n=3)
    return f"one of the parameters of {method}: {', '.join(near or known) or 'none'}"

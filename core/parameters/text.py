"""Parameters of methods as text: NAME=VALUE pairs of a command line, and validation errors in one line."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.parameters import METHODS
from udig_recon.core.parameters.validation import invalid_field

MAX_SHOWN = 100
"""Characters of a wrong value that an error shows."""


def parse_pairs(pairs: Iterable[str], where: str) -> dict[str, Any]:
    """Values of PARAMETER=VALUE pairs: JSON, else text. Raises ReconstructionError for a pair without a value."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ReconstructionError(f"{where} takes PARAMETER=VALUE, found {pair!r}")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def describe_error(error: ValidationError) -> str:
    """The first invalid parameter of a method, in one line and in the words of the service."""
    field, found, expected = invalid_field(error.errors()[0], METHODS)
    shown = found if isinstance(found, str) else repr(found)
    if len(shown) > MAX_SHOWN:
        shown = shown[:MAX_SHOWN] + "..."
    return f"{field} is {shown}, expected {expected}"

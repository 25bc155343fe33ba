"""What the engine's commands share: parameters as they are typed, and refusals of one line."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.parameters import METHODS
from udig_recon.core.parameters.validation import invalid_field

MOST_SHOWN = 100
"""characters of a wrong value"""


def knobs(pairs: Iterable[str], where: str) -> dict[str, Any]:
    """Values of KNOB=VALUE pairs, JSON or else text. Raises ReconstructionError for a pair without a value."""
    found = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ReconstructionError(f"{where} takes KNOB=VALUE, found {pair!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def invalid_knob(error: ValidationError) -> str:
    """The first thing that is wrong with a method's knobs, in one line and in the words of the service."""
    field, found, expected = invalid_field(error.errors()[0], METHODS)
    told = found if isinstance(found, str) else repr(found)
    return f"{field} is {told if len(told) <= MOST_SHOWN else told[:MOST_SHOWN] + '...'}, expected {expected}"


def refuse(message: str) -> int:
    """Say in one line on standard error why the input cannot be used; returns exit status 2."""
    sys.stderr.write(f"error: {message}\n")
    return 2

"""What commands of `python -m core` share: knobs as they are typed, and refusals of one line."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from core.acquisition import ScanHeader
from core.errors import ReconstructionError


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


def chosen_slices(wanted: Sequence[int] | None, header: ScanHeader) -> list[int]:
    """The slices that were asked for, all by default. Raises ReconstructionError for one that the scan has not."""
    if wanted is None:
        return list(range(header.slices))
    for index in wanted:
        if not 0 <= index < header.slices:
            raise ReconstructionError(f"--slices {index}: the scan has slices 0 to {header.slices - 1}")
    return list(wanted)


def invalid_knob(error: ValidationError) -> str:
    """The first thing that is wrong with a method's knobs, in one line."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}, found {first['input']!r}"

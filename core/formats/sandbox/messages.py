"""Answers of a reader as JSON. An answer from a sandbox is trusted as little as the scan: it is validated."""

import json
import math
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter, ValidationError

from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.errors import ReconstructionError, UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.identity import Identity

_ERRORS = {cls.__name__: cls for cls in (UnknownFormat, UnreadableScan, UnsupportedScan)}
_HEADERS = TypeAdapter(ScanHeader)
_LONGEST_TEXT = 4000
_MOST_ENTRIES = 4096  # of a list, such as the frames
_LARGEST = 1e12


class Nonsense(Exception):
    """An answer that no reader gives."""


def pack(outcome: ScanHeader | ReconstructionError) -> str:
    """A header or an error as JSON."""
    if isinstance(outcome, ScanHeader):
        return json.dumps({"header": asdict(outcome)})
    fields = {name: getattr(outcome, name) for name in ("field", "found", "expected")}
    return json.dumps({"error": type(outcome).__name__, "message": str(outcome), **fields})


def pack_identity(outcome: Identity | ReconstructionError) -> str:
    """An identity or an error as JSON."""
    return json.dumps({"identity": outcome.to_json()}) if isinstance(outcome, Identity) else pack(outcome)


def unpack(text: str) -> ScanHeader:
    """The header that `pack` wrote. Raises the error that it wrote, and Nonsense for what it never writes."""
    try:
        answer = _answer(text)
        return header_of(json.dumps(answer["header"]))
    except (ValueError, KeyError, TypeError, RecursionError) as nonsense:
        raise Nonsense from nonsense


def unpack_identity(text: str) -> Identity:
    """The identity that `pack_identity` wrote. Raises the error that it wrote, Nonsense, and UnreadableScan."""
    try:
        stored = _answer(text)["identity"]
    except (ValueError, KeyError, TypeError, RecursionError) as nonsense:
        raise Nonsense from nonsense
    return Identity.from_json(str(stored))


def _answer(text: str) -> dict[str, Any]:
    """The answer, unless it is an error: that is raised."""
    try:
        answer: dict[str, Any] = json.loads(text)
        if "error" not in answer:
            return answer
        fields = {name: str(answer[name])[:_LONGEST_TEXT] for name in ("field", "found", "expected")}
        error: ReconstructionError = _ERRORS[answer["error"]](str(answer["message"])[:_LONGEST_TEXT], **fields)
    except (ValueError, KeyError, TypeError, RecursionError) as nonsense:
        raise Nonsense from nonsense
    raise error


def header_of(text: str) -> ScanHeader:
    """A scan's header from JSON. Raises ValueError for other types, and for numbers and texts beyond all measure."""
    try:
        header = _HEADERS.validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError("no header") from error
    _check(asdict(header))
    return header


def _check(value: Any) -> None:
    match value:
        case dict():
            for each in value.values():
                _check(each)
        case list() | tuple():
            if len(value) > _MOST_ENTRIES:
                raise ValueError("too many")
            for each in value:
                _check(each)
        case str():
            if len(value) > _LONGEST_TEXT or "\0" in value:
                raise ValueError("no text")
        case int() | float():
            if not (math.isfinite(value) and abs(value) <= _LARGEST):
                raise ValueError("no number")

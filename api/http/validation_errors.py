"""Validation errors of the engine and of pydantic as problem documents: field, found, expected."""

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from udig_recon.api.http.problems import (
    LONGEST_DETAIL,
    MOST_ERRORS,
    FieldError,
    Invalid,
    Problem,
    UnknownMedia,
    truncate,
)
from udig_recon.core.errors import ReconstructionError, UnknownFormat
from udig_recon.core.parameters import METHODS
from udig_recon.core.parameters.validation import invalid_field


def problem_of_engine(error: ReconstructionError) -> Problem:
    """The problem of input that the engine refuses."""
    kind = UnknownMedia if isinstance(error, UnknownFormat) else Invalid
    expected = truncate(error.expected, LONGEST_DETAIL)
    errors = [FieldError(field=error.field, found=truncate(error.found), expected=expected)]
    return kind(str(error), errors=errors if error.expected or error.found else ())


def problem_of_validation(error: ValidationError | RequestValidationError, prefix: Sequence[str] = ()) -> Invalid:
    """The problem of input, at `prefix` in the request, that pydantic refuses: all its wrong fields."""
    fields = [_field_error(each, prefix) for each in error.errors()[:MOST_ERRORS]]
    detail = "; ".join(f"{each.field} is {each.found}, expected {each.expected}" for each in fields)
    return Invalid(detail, errors=fields)


def _field_error(error: Any, prefix: Sequence[str]) -> FieldError:
    field, found, expected = invalid_field(error, METHODS, prefix)
    return FieldError(field=truncate(field), found=truncate(found), expected=truncate(expected, LONGEST_DETAIL))

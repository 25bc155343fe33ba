"""JSON to dataclasses, by the annotations of their fields."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from udig_client.errors import UnexpectedAnswer

T = TypeVar("T")


def decode(kind: type[T], value: Any, where: str = "the answer") -> T:
    """A value of JSON as `kind`: a dataclass, a list or dict of them, a date, or what JSON itself has.

    Unknown fields are left out. Raises UnexpectedAnswer where a field is missing or of another type.
    """
    return cast("T", _decode(kind, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (each for each in arguments if each is not type(None))
        return _decode(kind, value, where)
    if kind is Any:
        return value
    if is_dataclass(origin or kind):
        return _decode_fields(origin or kind, arguments, _of(Mapping, value, where), where)
    if origin in (dict, Mapping):
        members = _of(Mapping, value, where)
        return {name: _decode(arguments[1], each, f"{where}.{name}") for name, each in members.items()}
    if origin is list:
        return [_decode(arguments[0], each, f"{where}[{n}]") for n, each in enumerate(_of(list, value, where))]
    if origin is tuple:
        given = _of(list, value, where)
        if len(given) != len(arguments):
            raise UnexpectedAnswer(f"{where} has {len(given)} items, expected {len(arguments)}")
        return tuple(_decode(each, item, where) for each, item in zip(arguments, given, strict=True))
    if kind is datetime:
        return _date(_of(str, value, where), where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return _of(kind, value, where)


def _decode_fields(kind: Any, arguments: tuple[Any, ...], value: Mapping[str, Any], where: str) -> Any:
    given: dict[str, Any] = {}
    for name, annotation, optional in _fields_of(kind):
        if name in value:
            given[name] = _decode(_bound(annotation, arguments), value[name], f"{where}.{name}")
        elif not optional:
            raise UnexpectedAnswer(f"{where} has no {name}: is the URL that of a uDiG Recon service?")
    return kind(**given)


@cache
def _fields_of(kind: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Name, annotation and whether there is a default, of each field."""
    hints = get_type_hints(kind)
    return tuple(
        (each.name, hints[each.name], each.default is not MISSING or each.default_factory is not MISSING)
        for each in fields(kind)
    )


def _bound(annotation: Any, arguments: tuple[Any, ...]) -> Any:
    """The annotation of a generic dataclass with its one type argument in place of the type variable."""
    if get_origin(annotation) is list and isinstance(get_args(annotation)[0], TypeVar):
        return list[arguments[0]]  # type: ignore[valid-type]
    return annotation


def _of(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UnexpectedAnswer(f"{where} is {str(value)[:60]!r}, expected {getattr(kind, '__name__', kind)}")
    return value


def _date(text: str, where: str) -> datetime:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 does not know the Z
    except ValueError as error:
        raise UnexpectedAnswer(f"{where} is {text[:60]!r}, expected a date") from error

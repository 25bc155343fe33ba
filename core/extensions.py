"""Extensions from other distributions: objects that entry points name, such as methods, input and output formats."""

import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class BrokenExtension(Exception):
    """An entry point of an installed distribution cannot be loaded; the message names it and says why."""


class ExtensionWarning(UserWarning):
    """An entry point of an installed distribution is left out; the message names it and says why."""


def load_extensions(group: str, kind: type[Any] = object) -> dict[str, Any]:
    """The objects of all installed entry points of a group, by the entry points' names, in alphabetical order.

    Raises BrokenExtension where one cannot be imported or is not of this kind, or where two distributions use the same
    name.
    """
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    loaded: dict[str, Any] = {}
    for point in _sorted_entry_points(group):
        found = _load(point)
        if not isinstance(found, kind):
            raise BrokenExtension(f"{group}: {point.name} is {found!r}, expected {article} {kind.__name__}")
        if loaded.get(point.name, found) is not found:
            raise BrokenExtension(f"{_description(point)}: another distribution has an entry point of this name")
        loaded[point.name] = found
    return loaded


def load_usable_extensions(group: str, refusal: Callable[[str, Any], str | None]) -> dict[str, Any]:
    """The same without those that are broken; each is left out with a warning of one line.

    `refusal(name, object)` gives the reason why an object cannot be used; None: it can.
    """
    loaded: dict[str, Any] = {}
    for point in _sorted_entry_points(group):
        try:
            found = _load(point)
        except BrokenExtension as error:
            _warn(point, str(error))
            continue
        reason = refusal(point.name, found)
        if reason is None and loaded.get(point.name, found) is not found:
            reason = "another distribution has an entry point of this name"
        if reason is None:
            loaded[point.name] = found
        else:
            _warn(point, f"{_description(point)} is left out: {reason}")
    return loaded


def _sorted_entry_points(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda each: (each.name, each.value))


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise BrokenExtension(f"{_description(point)} cannot be loaded: {reason}") from error


def _description(point: EntryPoint) -> str:
    distribution = "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"
    return f"entry point {point.name} = {point.value} of {distribution} in {point.group}"


def _warn(point: EntryPoint, message: str) -> None:
    # Without a line of source, so that the warning is one line.
    warnings.warn_explicit(message, ExtensionWarning, filename=point.group, lineno=0)

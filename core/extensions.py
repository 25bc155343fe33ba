"""Extensions from other distributions: objects that entry points name, such as input and output formats."""

from importlib.metadata import entry_points
from typing import Any


class BrokenExtension(Exception):
    """An entry point of an installed distribution cannot be loaded; the message names it and says why."""


def load_extensions(group: str) -> dict[str, Any]:
    """The objects of all installed entry points of a group, by the entry points' names, in alphabetical order.

    Raises BrokenExtension where one cannot be imported, or where two distributions use the same name.
    """
    loaded: dict[str, Any] = {}
    for point in sorted(entry_points(group=group), key=lambda each: (each.name, each.value)):
        distribution = "an unknown distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        described = f"entry point {point.name} = {point.value} of {distribution} in {group}"
        try:
            found = point.load()
        except Exception as error:
            raise BrokenExtension(f"{described} cannot be loaded: {type(error).__name__}: {error}") from error
        if point.name in loaded and loaded[point.name] is not found:
            raise BrokenExtension(f"{described}: another distribution has an entry point of this name")
        loaded[point.name] = found
    return loaded

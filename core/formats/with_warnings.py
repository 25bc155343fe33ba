"""A value that was understood from a scan file, with the warnings that its user has to know."""

from typing import Generic, NamedTuple, TypeVar

Value = TypeVar("Value")


class WithWarnings(NamedTuple, Generic[Value]):
    """A value and its warnings, a sentence each."""

    value: Value
    warnings: tuple[str, ...] = ()

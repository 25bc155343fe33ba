"""Errors that the engine raises for input that it cannot use.

Each message names the part of the input that is wrong, what was found there and what was expected.
"""

from typing import Self


class ReconstructionError(Exception):
    """Base of every error that the engine raises on purpose.

    `field` names the part of the input that is wrong, `found` is its value and `expected` says what would be right.
    The message joins the three for people; `at` writes it.
    """

    def __init__(self, message: str, *, field: str = "", found: str = "", expected: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.found = found
        self.expected = expected

    @classmethod
    def at(cls, field: str, found: str, expected: str, *, subject: str | None = None) -> Self:
        """The error of one field, with the message "field: found ..., expected ...".

        With a `subject`, such as the name of a file, the message begins with it instead.
        """
        message = f"{subject or field}: found {found}, expected {expected}"
        return cls(message, field=field, found=found, expected=expected)


class UnknownFormat(ReconstructionError):
    """The bytes are of no format that the engine reads."""


class UnreadableScan(ReconstructionError):
    """The format is known, but its content is broken, contradictory or dangerous."""


class UnsupportedScan(ReconstructionError):
    """The scan is sound, but the chosen method, prior or limit does not fit it."""


class DamagedScan(ReconstructionError):
    """The bytes of a stored scan are not those that were stored."""


class TooCostly(ReconstructionError):
    """What is asked for would take more time or memory than it may."""


class MissingPrior(ReconstructionError):
    """No diffusion prior of that name or for that modality."""


class UnreadableCheckpoint(ReconstructionError):
    """A checkpoint is broken, holds code, or is of no network that the engine builds."""

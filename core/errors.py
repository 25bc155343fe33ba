"""Errors that the engine raises for input it cannot use; each message says what, what was found and what would do."""


class ReconstructionError(Exception):
    """Base of every error that the engine raises on purpose.

    `field` names the part of the input that is wrong, `found` what stands there, `expected` what would be right; the
    message joins the three for people.
    """

    def __init__(self, message: str, *, field: str = "", found: str = "", expected: str = "") -> None:
        super().__init__(message)
        self.field = field
        self.found = found
        self.expected = expected


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

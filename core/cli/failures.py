"""What went wrong with a scan, in one line."""

from pathlib import Path

import torch
from pydantic import ValidationError

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.sandbox.pool import ReaderLost
from udig_recon.core.parameters.text import describe_error


def describe_failure(error: BaseException, path: Path) -> str:
    """The reason in one line; `path` is named where an error of the system names no file."""
    match error:
        case ReconstructionError():
            return str(error)
        case ValidationError():
            return describe_error(error)
        case ReaderLost():
            return "the process that reads scans is killed again and again"
        case OSError():
            return f"{error.filename or path}: {error.strerror or error}"
        case torch.OutOfMemoryError() | MemoryError():
            return "there is not enough memory for a slice of this size"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"

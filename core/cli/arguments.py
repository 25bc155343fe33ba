"""What the engine's commands share: refusals of one line."""

import sys


def refuse(message: str) -> int:
    """Say in one line on standard error why the input cannot be used; returns exit status 2."""
    sys.stderr.write(f"error: {message}\n")
    return 2

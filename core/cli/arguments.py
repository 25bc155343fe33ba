"""What the engine's commands share: refusals of one line, and columns."""

import sys
from collections.abc import Iterable, Sequence


def refuse(message: str) -> int:
    """Say in one line on standard error why the input cannot be used; returns exit status 2."""
    sys.stderr.write(f"error: {message}\n")
    return 2


def print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Print rows as columns; the last column is as wide as its text."""
    table = [list(row) for row in rows]
    if not table:
        return
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        sys.stdout.write("  ".join([*cells, row[-1]]).rstrip() + "\n")

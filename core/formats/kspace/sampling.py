"""Measured samples of k-space, by its mask and by its values."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DUST = 3e-6
"""Share of the peak below which samples may be what rounding leaves of zeros."""

_GAP = 10.0  # between such samples and the faintest that were measured
_LEAST_DUST = 0.02  # share of all samples, and the least share that must be left
_MOST_BETWEEN = 0.01
_MOST_HOLES = 1e-3  # share of zeros among samples that are otherwise measured
_MOST_ZEROS = 0.01  # share of the mask that may be exact zeros by chance


class Measured(NamedTuple):
    """Where a slice was measured (ky, kx), with warnings."""

    where: NDArray[np.bool_]
    notes: tuple[str, ...]


def measured_samples(magnitude: NDArray[np.floating], mask: NDArray[np.bool_] | None) -> Measured:
    """Where samples (ky, kx) of these largest magnitudes over the coils were measured.

    A mask holds, but for what it calls measured and is exactly zero in every coil: padding, or the mask of other data.
    Without one a sample is measured that is not zero; a few zeros amid measured samples happen in whole numbers and
    count as measured. What is a million times fainter than the peak, with nothing in between, is rounding.
    """
    present = magnitude > 0
    if not present.any():
        return Measured(np.ones_like(present) if mask is None else mask, ())
    notes = []
    dust = _dust(magnitude, present)
    if dust.any() and (mask is None or (dust & mask).any()):
        present &= ~dust
        notes.append(
            f"{_percent(dust)} of k-space are fainter than {DUST:g} of its peak, as rounding leaves them: "
            "taken for not measured"
        )
    if mask is None:
        return Measured(present | _holes(magnitude, present), tuple(notes))
    zeros = mask & ~present
    if not (mask & present).any():
        return Measured(mask, tuple(notes))
    filled = mask & present
    rows: NDArray[np.bool_] = np.any(filled, axis=1)
    columns: NDArray[np.bool_] = np.any(filled, axis=0)
    lines = zeros & ~(rows[:, None] & columns)
    absent = zeros & ~_holes(magnitude, present) if zeros.sum() > _MOST_ZEROS * mask.sum() else lines
    exact = absent & (magnitude == 0)
    if exact.any():
        share = exact.sum() / mask.sum()
        notes.append(
            f"{share:.1%} of the samples that the mask calls measured are exactly zero in every coil: "
            "taken for not measured"
        )
    return Measured(mask & ~absent, tuple(notes))


def _dust(magnitude: NDArray[np.floating], present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    dust = present & (magnitude < DUST * magnitude.max())
    count, clear = int(dust.sum()), int((present & ~dust).sum())
    if count < _LEAST_DUST * dust.size or clear < _LEAST_DUST * dust.size:
        return np.zeros_like(present)
    faintest = float(magnitude[dust].max())
    between = (magnitude > faintest) & (magnitude < _GAP * faintest)
    return dust if between.sum() <= _MOST_BETWEEN * clear else np.zeros_like(present)


def _holes(magnitude: NDArray[np.floating], present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Zeros that are but a few amid faint samples that were measured."""
    rows: NDArray[np.bool_] = np.any(present, axis=1)
    columns: NDArray[np.bool_] = np.any(present, axis=0)
    inside = rows[:, None] & columns
    holes = inside & ~present
    count = int(holes.sum())
    if not 0 < count <= max(1.0, _MOST_HOLES * inside.sum()):
        return np.zeros_like(present)
    ordinary = 4 * float(np.median(magnitude[present]))
    faint = np.zeros_like(present)
    for row, column in np.argwhere(holes):
        around = magnitude[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        faint[row, column] = around.mean() <= ordinary
    return faint


def _percent(where: NDArray[np.bool_]) -> str:
    return f"{where.mean():.0%}"

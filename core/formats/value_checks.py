"""Checks of an array's values in one pass: finite, not all zero, of a magnitude that float32 can square."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region
from udig_recon.core.formats.limits import PEAKS


def checked_blocks(
    source: ArraySource,
    axes: Sequence[str] = (),
    remedy: str = "",
    transform: Callable[[Region, Array], Array] | None = None,
) -> Iterator[tuple[Region, Array]]:
    """The blocks of an array, each checked. Raises UnreadableScan for NaN, infinity, only zeros or absurd magnitudes.

    With the names of its axes, the message says where the first value is that is not finite, and `remedy` what to do.
    `transform` changes a block before it is checked.
    """
    peak = 0.0
    for region, given in source.blocks():
        block = given if transform is None else transform(region, given)
        largest = _peak(block)
        if not np.isfinite(largest):
            expected = f"finite numbers; {remedy}" if remedy else "finite numbers"
            raise UnreadableScan.at(source.name, f"NaN or infinity {_place(region, block, axes)}", expected)
        peak = max(peak, largest)
        yield region, block
    if peak == 0:
        raise UnreadableScan.at(source.name, "nothing but zeros", "measured values")
    if not PEAKS[0] <= peak <= PEAKS[1]:
        raise UnreadableScan.at(
            source.name, f"a largest magnitude of {peak:.3g}", f"between {PEAKS[0]:g} and {PEAKS[1]:g}"
        )


def check_values(source: ArraySource) -> None:
    """Check the values of an array whose blocks are not needed."""
    for _ in checked_blocks(source):
        pass


def _peak(block: Array) -> float:
    """Largest magnitude of a real or imaginary part; infinity for NaN. Minimum and maximum need no temporary array."""
    if block.size == 0:
        return 0.0
    parts = (block.real, block.imag) if block.dtype.kind == "c" else (block,)
    with np.errstate(invalid="ignore"):
        extremes = [abs(float(extreme)) for part in parts for extreme in (part.min(), part.max())]
    return max(extremes) if np.isfinite(extremes).all() else np.inf


def _place(region: Region, block: Array, axes: Sequence[str]) -> str:
    """Where the first value is that is not finite, in words."""
    if axes:
        first = np.unravel_index(int(np.argmin(np.isfinite(block))), block.shape)
        places = zip(axes, region, first, strict=True)
        return "at " + ", ".join(f"{axis} {cut.start + int(index)}" for axis, cut, index in places)
    first_cut = region[0]
    if first_cut.stop == first_cut.start + 1:
        return f"in entry {first_cut.start} of the first axis"
    return f"in entries {first_cut.start} to {first_cut.stop - 1} of the first axis"

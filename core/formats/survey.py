"""One pass over an array's values: finite, not all zero, of a size that float32 can square."""

from collections.abc import Iterator

import numpy as np

from core.formats.arrays import Array, ArraySource, Region
from core.formats.limits import PEAKS, unreadable


def surveyed(source: ArraySource) -> Iterator[tuple[Region, Array]]:
    """The source's blocks, checked. Raises UnreadableScan on NaN, infinity, all zeros or absurd magnitudes."""
    peak = 0.0
    for region, block in source.blocks():
        peak = max(peak, _peak(source.name, region, block))
        yield region, block
    if peak == 0:
        raise unreadable(source.name, "nothing but zeros", "measured values")
    if not PEAKS[0] <= peak <= PEAKS[1]:
        raise unreadable(source.name, f"a largest magnitude of {peak:.3g}", f"between {PEAKS[0]:g} and {PEAKS[1]:g}")


def check_values(source: ArraySource) -> None:
    """Survey an array whose blocks nobody else needs."""
    for _ in surveyed(source):
        pass


def _peak(name: str, region: Region, block: Array) -> float:
    """Largest magnitude of a real or imaginary part; minimum and maximum let NaN through, without temporaries."""
    if block.size == 0:
        return 0.0
    parts = (block.real, block.imag) if block.dtype.kind == "c" else (block,)
    with np.errstate(invalid="ignore"):
        extremes = [float(extreme) for part in parts for extreme in (part.min(), part.max())]
    if not np.isfinite(extremes).all():
        first = region[0]
        where = (
            f"entry {first.start}" if first.stop == first.start + 1 else f"entries {first.start} to {first.stop - 1}"
        )
        raise unreadable(name, f"NaN or infinity in {where} of the first axis", "finite numbers")
    return max(abs(extreme) for extreme in extremes)

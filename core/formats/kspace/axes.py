"""Axes of k-space arrays: their names in a file, and the orders that a shape allows."""

import re
from collections.abc import Sequence

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.limits import LEAST_SIDE

SLICE, COIL, KY, KX = "slice", "coil", "ky", "kx"
COUNTERS = ("set", "repetition", "phase", "contrast", SLICE)
"""Axes that are counted through as slices, the last one fastest: counters of `core.acquisition.Frame`."""

CANONICAL = (SLICE, COIL, KY, KX)

_WORDS = {
    SLICE: ("slice", "slices", "s", "z", "partition", "partitions"),
    COIL: ("coil", "coils", "channel", "channels", "ch", "c", "receiver", "receivers"),
    KY: ("ky", "y", "row", "rows", "line", "lines"),
    KX: ("kx", "x", "column", "columns", "readout", "sample", "samples"),
    "phase": ("phase", "phases", "time", "t", "frame", "frames", "cardiac_phase"),
    "contrast": ("contrast", "contrasts", "echo", "echoes", "te"),
    "repetition": ("repetition", "repetitions", "rep", "reps", "average", "averages", "dynamic", "dynamics"),
    "set": ("set", "sets", "flow", "venc"),
}
_OURS = {word: name for name, words in _WORDS.items() for word in words}
_FEW = 64  # coils at most, where an axis could be of something else
_ORDERS = {
    2: ((KY, KX),),
    3: ((KY, KX, COIL),),
    4: ((SLICE, KY, KX, COIL), (KY, KX, COIL, SLICE), (KY, KX, SLICE, COIL)),
}
"""Orders other than ours that are common, by the number of axes."""


def parse_axes(text: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The axes that the attribute `axes` names, such as `slice coil ky kx`. Raises UnreadableScan."""
    words = re.findall(r"[a-z0-9_]+", text.lower())
    names = tuple(_OURS.get(word, "") for word in words)
    expected = f"one name for each of {len(shape)} axes, with spaces between: {', '.join((*CANONICAL, *COUNTERS[:-1]))}"
    if "" in names or len(names) != len(shape) or len(set(names)) < len(names) or not {KY, KX} <= set(names):
        raise UnreadableScan.at("axes", f"{len(words)} words", f"{expected}; ky and kx once each")
    return names


def infer_axes(shape: tuple[int, ...], missing: str, companions: Sequence[tuple[int, ...]] = ()) -> tuple[str, ...]:
    """The axes of k-space of this shape: ours where that can be, else those of the one order that fits.

    `missing` is the axis, `slices` or `coils`, that three axes leave out; `companions` are the shapes of coil maps and
    images beside k-space, which may tell orders apart. Raises UnreadableScan where several orders fit.
    """
    ours = {2: (KY, KX), 3: (COIL, KY, KX) if missing == "slices" else (SLICE, KY, KX), 4: CANONICAL}
    extra = ("repetition",), ("repetition", "phase")
    if len(shape) in (5, 6):
        return (*extra[len(shape) - 5], *CANONICAL)
    if len(shape) not in ours:
        return ()
    if len(shape) == 2 or _can_be(ours[len(shape)], shape):
        return ours[len(shape)]
    fitting = [order for order in _ORDERS[len(shape)] if _can_be(order, shape)]
    told = [order for order in fitting if any(_tells(order, shape, each) for each in companions)]
    fitting = told or fitting
    one_slice = [order for order in fitting if SLICE in order and shape[order.index(SLICE)] == 1]
    if len(one_slice) == 1:
        fitting = one_slice
    if len(fitting) > 1:
        ways = ", or ".join(f"axes = {' '.join(order)!r}" for order in fitting)
        raise UnreadableScan.at(
            "kspace",
            f"shape {shape}, which may be of several orders",
            f"axes (slices, coils, ky, kx), or an attribute: {ways}",
        )
    return fitting[0] if fitting else ours[len(shape)]


def _can_be(order: tuple[str, ...], shape: tuple[int, ...]) -> bool:
    """Whether k-space of this shape can have this order: sides of an image, and not far more coils than pixels."""
    sides = dict(zip(order, shape, strict=True))
    small, coils = min(sides[KY], sides[KX]), sides.get(COIL, 1)
    if small < LEAST_SIDE:
        return False
    counted = [side for name, side in sides.items() if name not in (KY, KX)]
    if order != CANONICAL and len(shape) > 2 and order[-2:] != (KY, KX):
        return coils <= _FEW and coils < small and sides.get(SLICE, 1) <= max(_FEW, 2 * small)
    return not (coils > _FEW // 2 and 4 * small <= min(max(counted), max(sides[KY], sides[KX], coils)))


def _tells(order: tuple[str, ...], shape: tuple[int, ...], companion: tuple[int, ...]) -> bool:
    """Whether an image (slices, y, x) or maps (slices, coils, y, x) beside k-space fit this order and no other."""
    sides = dict(zip(order, shape, strict=True))
    slices, coils = sides.get(SLICE, 1), sides.get(COIL, 1)
    image = (slices, sides[KY], sides[KX])
    return companion in (image, (slices, coils, *image[1:])) and slices != coils

"""Line integrals and their weights from counts, by the Beer-Lambert law, and the unattenuated beam of a file."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region, SqueezedAxes
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.limits import PEAKS, quote_safely
from udig_recon.core.formats.sinogram.consistency import format_numbers
from udig_recon.core.formats.with_warnings import WithWarnings

LEAST_WEIGHT = 1e-3
"""Least weight of a ray that counts, as a share of the mean: starved rays are biased, but not missing."""
CEILING_ERROR = 0.05
"""A saturated ray is left out where its line integral may be wrong by more than this."""
STUCK = 0.05
"""A detector with one reading in all views is dead where its neighbours' transmission differs by more (logarithm)."""
_LEAST_STUCK_VIEWS = 8
_STARVED = 10  # how much more than half a photon reaches the neighbours of a detector that is dead, and not starved
_MOST_DEAD = 0.5  # of the detectors of a slice; with more the beam is not what the file says
_CEILINGS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))  # readings at which converters saturate
_FEWEST_AT_CEILING = 8
VIEW_BY_VIEW = 0.1
"""Correlation of a flat's deviations from its mean between neighbouring frames above which, of as many frames as there
are views, each belongs to its view: noise alone has none."""

_QUANTITIES = {
    "line_integrals": "line_integrals",
    "line_integral": "line_integrals",
    "counts": "counts",
    "count": "counts",
    "photons": "counts",
    "transmission": "transmission",
    "transmissions": "transmission",
    "transmittance": "transmission",
}
_PHOTONS = 100  # i0 of less is a unit, not a number of photons


@dataclass(frozen=True)
class Beam:
    """Readings without an object (flat) and without a beam (dark), both (slices, detectors)."""

    flat: NDArray[np.float64]
    dark: NDArray[np.float64]
    dead: NDArray[np.bool_]  # (slices, detectors), where flat is no more than dark
    gain: NDArray[np.float64] | None = None
    """(views, detectors), what a ray's photons are multiplied by to be those of the mean beam, where each view has a
    flat of its own; 0 where the view's flat is no more than dark"""

    def of(self, slices: "slice | list[int]", detectors: slice = slice(None)) -> "Beam":
        """The beam of some slices and detectors."""
        flat, dark, dead = self.flat[slices], self.dark[slices], self.dead[slices]
        gain = None if self.gain is None else self.gain[:, detectors]
        return Beam(flat[:, detectors], dark[:, detectors], dead[:, detectors], gain)


@dataclass(frozen=True)
class Rays:
    """Line integrals, and how sure each is; both (slices, views, detectors)."""

    integrals: NDArray[np.float32]  # 0 where a ray is left out
    weights: NDArray[np.float32] | None = None  # inverse variances, mean 1 over a slice; 0 where a ray is left out


def line_integrals(
    counts: Array, flat: float | NDArray[np.float64], dark: float | NDArray[np.float64] = 0.0
) -> NDArray[np.float32]:
    """Beer and Lambert: -log((counts - dark) / (flat - dark)), where a ray without photons counts as half a photon.

    `counts` (..., views, detectors) photons, `flat` and `dark`, of one number or of a shape that fits to them, what is
    read without an object and without a beam; with a flat below 100 they are taken for transmissions, not photons.
    """
    beam = np.asarray(flat - np.asarray(dark), np.float64)
    return np.asarray(-np.log(_photons(counts, beam, dark) / beam), np.float32)


def _photons(counts: Array, beam: NDArray[np.float64], dark: float | NDArray[np.float64]) -> Array:
    """Counts less dark, at least half a photon."""
    least = np.where(beam >= _PHOTONS, 0.5, 5e-6 * beam)
    # counts of unsigned types must not wrap below dark
    found = np.asarray(counts, np.float64) - dark if np.any(dark) else counts
    return np.asarray(np.maximum(found, least))


def read_rays(counts: Array, beam: Beam, measured: NDArray[np.bool_] | None) -> Rays:
    """Line integrals of counts (slices, views, detectors), and their weights by counts.

    The variance of a line integral is 1 / counts (first order), so that is its weight, at least LEAST_WEIGHT of the
    mean. Left out are rays where `measured` (views, detectors) is False, of dead and stuck detectors, and saturated
    ones, as `CountStatistics` counts them.
    """
    flat, dark = beam.flat[:, None], beam.dark[:, None]
    kept = np.broadcast_to(True if measured is None else measured, counts.shape).copy()
    photons = _photons(counts, flat - dark, dark)
    whole = flat - dark
    if beam.gain is not None:
        kept &= beam.gain > 0
        whole = whole / np.where(beam.gain > 0, beam.gain, 1)
    integrals = np.asarray(-np.log(photons / whole), np.float32)
    kept &= ~(beam.dead | stuck_detectors(*extremes(counts, measured), beam, counts.shape[1]))[:, None]
    for index, (values, usable) in enumerate(zip(counts, kept, strict=True)):
        highest = float(values.max(where=usable, initial=_least(values.dtype)))
        at_highest = usable & (values == highest)
        if is_ceiling(highest, int(np.count_nonzero(at_highest)), counts.dtype):
            usable &= ~(at_highest & is_clipped(highest, beam.of([index])))
    integrals[~kept] = 0
    weights = np.where(kept, photons, 0).astype(np.float32)
    mean = weights.sum(axis=(1, 2), dtype=np.float64) / np.maximum(np.count_nonzero(kept, axis=(1, 2)), 1)
    weights /= np.maximum(mean, np.finfo(np.float32).tiny)[:, None, None].astype(np.float32)
    return Rays(integrals, np.where(kept, np.maximum(weights, np.float32(LEAST_WEIGHT)), np.float32(0)))


def is_ceiling(highest: float, rays: int, dtype: np.dtype[Any]) -> bool:
    """Whether the highest reading of a slice, which so many rays have, is where the detector saturates.

    It is the largest number of 8, 10, 12, 14 or 16 bits where several rays read just that, and always of the type.
    """
    is_short = dtype.kind in "iu" and dtype.itemsize <= 2
    return (rays >= _FEWEST_AT_CEILING and highest in _CEILINGS) or (is_short and highest == np.iinfo(dtype).max)


def is_clipped(ceiling: float, beam: Beam) -> NDArray[np.bool_]:
    """Detectors (slices, detectors) whose beam reads so much more than the ceiling that rays at it may be wrong."""
    clipped: NDArray[np.bool_] = beam.flat - beam.dark > (1 + CEILING_ERROR) * (ceiling - beam.dark)
    return clipped


def _least(dtype: np.dtype[Any]) -> float:
    return -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)


def extremes(
    counts: Array, measured: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Least, largest and mean reading of each detector over the views, each (slices, detectors)."""
    known = np.broadcast_to(True if measured is None else measured, counts.shape[1:])
    total = np.sum(counts, axis=1, where=known, dtype=np.float64)
    mean = total / np.maximum(np.count_nonzero(known, axis=0), 1)
    if measured is None:
        return counts.min(axis=1).astype(np.float64), counts.max(axis=1).astype(np.float64), mean
    values = np.asarray(counts, np.float64)
    return (
        np.min(values, axis=1, where=known, initial=np.inf),
        np.max(values, axis=1, where=known, initial=-np.inf),
        mean,
    )


def stuck_detectors(
    low: NDArray[np.float64], high: NDArray[np.float64], mean: NDArray[np.float64], beam: Beam, views: int
) -> NDArray[np.bool_]:
    """Detectors (slices, detectors) with one reading in all views, unlike the nearest ones on either side.

    `low`, `high` and `mean` are what `extremes` gives. One at the end of the row, or beside the object, is not told.
    """
    constant = (low == high) & ~beam.dead
    stuck = np.zeros(constant.shape, bool)
    if views < _LEAST_STUCK_VIEWS:
        return stuck
    for index in np.flatnonzero(constant.any(axis=1)):
        living = np.flatnonzero(~constant[index] & ~beam.dead[index] & (low[index] < high[index]))
        numbers = np.flatnonzero(constant[index])
        places = np.searchsorted(living, numbers)
        inside = (places > 0) & (places < living.size)
        numbers, places = numbers[inside], places[inside]
        if not numbers.size:
            continue
        row = beam.of([int(index)])
        level = line_integrals(mean[index], row.flat[0], row.dark[0])
        off = np.minimum(*(np.abs(level[numbers] - level[living[places - step]]) for step in (0, 1)))
        # Where nothing comes through at all, neighbours may get next to nothing too.
        starved = mean[index, numbers] <= row.dark[0, numbers]
        stuck[index, numbers[off > np.where(starved, math.log(_STARVED), STUCK)]] = True
    return stuck


_BEAMS: "WeakKeyDictionary[ArraySource, WithWarnings[Beam | None]]" = WeakKeyDictionary()


def read_beam(
    contents: Contents, shape: tuple[int, int, int], measured: NDArray[np.bool_] | None
) -> WithWarnings[Beam | None]:
    """The unattenuated beam of a sinogram (slices, views, detectors); None where it holds line integrals.

    The frames of an open file are read once.
    """
    source = contents.arrays["sinogram"]
    if source not in _BEAMS:
        _BEAMS[source] = _read_beam(contents, shape, measured)
    return _BEAMS[source]


def _read_beam(
    contents: Contents, shape: tuple[int, int, int], measured: NDArray[np.bool_] | None
) -> WithWarnings[Beam | None]:
    attributes, arrays = contents.attributes, contents.arrays
    given = attributes.get("quantity", "line_integrals")
    quantity = _QUANTITIES.get(str(given).lower().strip().replace(" ", "_").replace("-", "_"))
    if quantity is None:
        raise UnreadableScan.at("quantity", quote_safely(given), "'line_integrals', 'counts' or 'transmission'")
    there = [name for name in ("i0", "flat", "dark") if name in attributes or name in arrays]
    if quantity == "line_integrals":
        if "flat" in there or "dark" in there:
            name = "flat" if "flat" in there else "dark"
            raise UnreadableScan.at(name, f"{name} beside line integrals", f"quantity='counts' beside it, or no {name}")
        unused = "i0 is not used: the sinogram is taken for line integrals, as quantity is not 'counts'"
        return WithWarnings(None, (unused,) if there else ())
    if "i0" in there and "flat" in there:
        raise UnreadableScan.at("flat", "both i0 and flat", "one of them: what a detector reads without an object")
    name = "flat" if "flat" in there else "i0"
    warnings: tuple[str, ...] = ()
    if name not in there:
        if quantity == "counts":
            expected = f"photons per ray without an object, {PEAKS[0]:g} to {PEAKS[1]:g}, for quantity 'counts'"
            raise UnreadableScan.at("i0", "None", f"{expected}; or flat and dark (detectors,)")
        flat = np.ones(())
    else:
        flat, warnings = _readings(contents, name, shape)
    dark, noted = _readings(contents, "dark", shape) if "dark" in there else WithWarnings(np.zeros(()))
    used = np.ones(shape[2], bool) if measured is None else np.asarray(measured.any(axis=0))
    _check_readings(name, flat, dark, used)
    rows = (shape[0], shape[2])
    flat, dark = np.broadcast_to(flat, rows), np.broadcast_to(dark, rows)
    beaten = flat - dark <= PEAKS[0]
    _refuse_dead_beam(name, beaten[:, used], flat.strides == (0, 0) == dark.strides)
    alive = np.where(beaten, dark + 1, flat) if beaten.any() else flat
    gain = _view_by_view(arrays.get(name), shape, flat, dark)
    if gain is not None:
        warnings = (f"{name} of shape {arrays[name].shape} belongs to the views, one row to each: it varies with them",)
    return WithWarnings(Beam(alive, dark, beaten & used, gain), warnings + noted)


def _view_by_view(
    source: ArraySource | None, shape: tuple[int, int, int], mean: NDArray[np.float64], dark: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """`Beam.gain` of a flat of as many frames as there are views, where it varies with them; else None."""
    slices, views, detectors = shape
    if source is None or slices != 1 or views < 2 or _layout(source, slices, detectors) != (views, 1, detectors):
        return None
    if not _varies(source.blocks(), mean[0]):
        return None
    gain = np.zeros((views, detectors))
    for region, block in source.blocks():
        rows, columns = region[0], region[-1]
        beam = block.reshape(-1, block.shape[-1]) - dark[0, columns]
        np.divide(mean[0, columns] - dark[0, columns], beam, out=gain[rows, columns], where=beam > PEAKS[0])
    return gain


def _varies(blocks: Iterator[tuple[Region, Array]], mean: NDArray[np.float64]) -> bool:
    """Whether neighbouring frames deviate from the mean alike."""
    alike, squares = 0.0, 0.0
    for region, block in blocks:
        off = block.reshape(-1, block.shape[-1]) - mean[region[-1]]
        alike += float((off[1:] * off[:-1]).sum())
        squares += float(np.square(off[1:]).sum())
    return alike > VIEW_BY_VIEW * squares > 0


def _readings(contents: Contents, name: str, shape: tuple[int, int, int]) -> WithWarnings[NDArray[np.float64]]:
    """One number, or (detectors,), or (slices, detectors); the mean where there are several frames."""
    slices, _, detectors = shape
    source = contents.arrays.get(name)
    if source is None:
        value = contents.attributes[name]
        if isinstance(value, str):
            raise UnreadableScan.at(name, quote_safely(value), "one number, or one for each detector")
        return WithWarnings(np.asarray(value, np.float64))
    if source.dtype.kind not in "iuf":
        raise UnreadableScan.at(name, f"{source.dtype} values", "numbers")
    layout = _layout(source, slices, detectors)
    if layout is None:
        expected = (
            f"one number or shape {(detectors,)}, one for each detector; frames are averaged: (frames, {detectors}), "
            f"{(slices, detectors)} or (frames, {slices}, {detectors})"
        )
        raise UnreadableScan.at(name, f"shape {source.shape}", expected)
    warnings: tuple[str, ...] = ()
    if layout[0] == shape[1] > 1:
        warnings = (f"{name} of shape {source.shape} is averaged over its first axis, though there are as many views",)
    if slices > 1 and len(source.shape) == 2 and layout[1] == slices:
        warnings = (f"{name} of shape {source.shape} is read as one row for each slice, not as frames",)
    return WithWarnings(_mean_over_frames(source, *layout), warnings)


def _layout(source: ArraySource, slices: int, detectors: int) -> tuple[int, int, int] | None:
    """Frames, rows and detectors of an array of readings; None where its shape does not fit. Rows are 1 or slices."""
    shape = source.shape
    if len(shape) in (2, 3) and shape[-1] == detectors:
        if len(shape) == 3:
            return shape if shape[1] in (1, slices) else None
        return (1, slices, detectors) if shape[0] == slices else (shape[0], 1, detectors)
    return (1, 1, detectors) if SqueezedAxes(source).shape == (detectors,) else None


def _mean_over_frames(source: ArraySource, frames: int, rows: int, detectors: int) -> NDArray[np.float64]:
    """Mean (rows, detectors) over the frames of an array, read block by block."""
    total = np.zeros((rows, detectors))
    if math.prod(source.shape) == detectors:
        return source.whole().reshape(1, detectors).astype(np.float64)
    for region, block in source.blocks():
        if len(source.shape) == 3:
            total[region[1], region[2]] += block.sum(axis=0, dtype=np.float64)
        elif rows > 1:
            total[region[0], region[1]] += block
        else:
            total[0, region[1]] += block.sum(axis=0, dtype=np.float64)
    return total / max(frames, 1)


def _check_readings(name: str, flat: NDArray[np.float64], dark: NDArray[np.float64], used: NDArray[np.bool_]) -> None:
    """Raise UnreadableScan for readings that no detector has, with its number."""
    for which, values in ((name, flat), ("dark", dark)):
        with np.errstate(invalid="ignore"):
            wrong = used & ~((values >= 0) & (values <= PEAKS[1]))
        if wrong.any():
            found = values[wrong] if values.ndim and values.shape[-1] > 1 else values.reshape(-1)
            first = quote_safely(float(np.ravel(found)[0]))
            numbers = np.flatnonzero(np.any(np.atleast_2d(wrong), axis=0))
            where = "" if values.ndim == 0 else f" at {format_numbers('detector', numbers)}"
            expected = f"photons per ray, 0 to {PEAKS[1]:g}; or an array mask with 0 at such detectors"
            raise UnreadableScan.at(which, first + where, expected)


def _refuse_dead_beam(name: str, beaten: NDArray[np.bool_], everywhere: bool) -> None:
    """Raise UnreadableScan where the beam is no more than dark at most detectors of a slice."""
    share = float(beaten.mean(axis=1).max(initial=0)) if beaten.size else 0.0
    if share > _MOST_DEAD:
        where = "everywhere" if everywhere else f"at {100 * share:.3g} percent of the detectors of a slice"
        raise UnreadableScan.at(name, f"no more than dark {where}", f"{name} above dark at most detectors")


class CountStatistics:
    """What a pass over all counts of a scan (slices, views, detectors) tells of its rays and detectors."""

    def __init__(self, beam: Beam, measured: NDArray[np.bool_] | None, dtype: np.dtype[Any]) -> None:
        self._beam, self._measured, self._dtype = beam, measured, dtype
        self._starved = 0
        slices, detectors = beam.flat.shape
        self._highest = np.full(slices, -np.inf)
        self._at_highest, self._clipped = np.zeros(slices, np.intp), np.zeros(slices, np.intp)
        self._low, self._high = np.full((slices, detectors), np.inf), np.full((slices, detectors), -np.inf)
        self._total = np.zeros((slices, detectors))

    def add(self, region: Region, block: Array) -> None:
        """Add a block of counts."""
        beam = self._beam.of(region[0], region[2])
        kept = np.broadcast_to(~beam.dead[:, None], block.shape)
        known = None if self._measured is None else self._measured[region[1:]]
        if known is not None:
            kept = kept & known
        self._starved += int(np.count_nonzero((block <= beam.dark[:, None]) & kept))
        highest = np.max(block, axis=(1, 2), where=kept, initial=_least(block.dtype)).astype(np.float64)
        for index, number in enumerate(range(region[0].start, region[0].stop)):
            if highest[index] < self._highest[number]:
                continue
            if highest[index] > self._highest[number]:
                self._highest[number], self._at_highest[number], self._clipped[number] = highest[index], 0, 0
            reached = np.count_nonzero((block[index] == highest[index]) & kept[index], axis=0)
            self._at_highest[number] += int(reached.sum())
            self._clipped[number] += int(reached[is_clipped(highest[index], beam.of([index]))[0]].sum())
        part = region[0], region[2]
        low, high, mean = extremes(block, known)
        self._low[part], self._high[part] = np.minimum(self._low[part], low), np.maximum(self._high[part], high)
        self._total[part] += mean * (block.shape[1] if known is None else np.count_nonzero(known, axis=0))

    def corrections(self, views: int) -> list[str]:
        """What is left out of the measurements, with numbers. Raises UnreadableScan where there is no count above 0."""
        if self._highest.max(initial=-np.inf) <= 0:
            raise UnreadableScan.at("sinogram", "no count above 0", "photon counts")
        counted = views if self._measured is None else np.maximum(np.count_nonzero(self._measured, axis=0), 1)
        stuck = stuck_detectors(self._low, self._high, self._total / counted, self._beam, views)
        found = [
            *_left_out(self._beam.dead, "flat is no more than dark"),
            *_left_out(stuck, "the same reading in every view"),
        ]
        reached = zip(self._highest.tolist(), self._at_highest.tolist(), strict=True)
        ceilings = [is_ceiling(highest, rays, self._dtype) for highest, rays in reached]
        clipped = int(self._clipped[ceilings].sum())
        if clipped:
            reading = f"{self._highest[ceilings].max():g}"
            found.append(f"{clipped} saturated rays, which read {reading} where the beam reads more, are left out")
        return found

    def warnings(self) -> list[str]:
        """What is doubtful about the counts."""
        warnings = []
        if self._starved:
            warnings.append(f"{self._starved} rays without photons are read as half a photon")
        return warnings + _beam_warnings(self._beam, float(self._highest.max()))


def _left_out(detectors: NDArray[np.bool_], why: str) -> list[str]:
    """A sentence about detectors (slices, detectors) that are left out; none where there are none."""
    if not detectors.any():
        return []
    per_slice, slices = detectors.sum(axis=1), len(detectors)
    if (detectors == detectors[:1]).all():
        return [f"{format_numbers('detector', np.flatnonzero(detectors[0]))} left out: {why}"]
    return [
        f"up to {per_slice.max()} detectors of a slice left out, in {np.count_nonzero(per_slice)} of {slices} slices: "
        f"{why}"
    ]


def _beam_warnings(beam: Beam, highest: float) -> list[str]:
    """Warnings about counts and i0 that cannot belong together."""
    flat, dark = float(beam.flat.max()), float(beam.dark.min())
    share = (highest - dark) / (flat - dark)
    if share > 2:
        return [f"rays read up to {share:.3g} times what i0 or flat says of the beam: is it right?"]
    if share < 3e-4:
        return [f"no ray reads more than {share:.2g} of i0 or flat: is it right, and are these counts?"]
    return []

"""Layouts of k-space in files: whatever the order of their axes, arrays become (slices, coils, ky, kx).

Axes of time, echoes and repetitions are counted through as slices, and `Contents.frames` says what each is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Frame
from udig_recon.core.coils.calibration import echo
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arranged import Arranged, Interleaved, Transformed, move_by_half
from udig_recon.core.formats.containers.arrays import ArraySource, InMemory
from udig_recon.core.formats.containers.views import JoinedComplex
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.kspace.axes import CANONICAL, COIL, COUNTERS, KX, KY, SLICE, infer_axes, parse_axes
from udig_recon.core.formats.kspace.content_checks import is_quartered

_MAPS = ("sensitivity_maps",)
_IMAGES = ("reference", "guide", "reconstruction_rss", "reconstruction_esc")
_FLOATS = (np.float32, np.float64)
_PARTS = "kspace has real and imaginary parts on its {} axis: they are joined"
_LEAST_MATRIX = 32  # of the planes of Calgary-Campinas and SKM-TEA
_MOST_ECHOES = 8
_MOST_COILS = 64
_MOST_MASK_BYTES = 256 << 20
_CMRXRECON = ("kspace_full", "kspace_sub", "kspace_single")
"""Names of arrays in files of CMRxRecon, of a single coil the last: (time, slice, [coil,] ky, kx) as HDF5 sees it."""


def arrange(contents: Contents) -> Contents:
    """The contents of a k-space scan with its arrays in our order of axes.

    What is already in it stays as it is. Raises UnreadableScan where the order of the axes cannot be told.
    """
    kspace = contents.arrays["kspace"]
    kspace, notes = _joined(kspace)
    if (found := _calgary(contents, kspace)) is not None:
        return found
    if kspace.dtype.kind != "c" or not kspace.shape or 0 in kspace.shape:
        return contents  # refused later, by name
    axes = _axes(contents, kspace)
    plain = kspace is contents.arrays["kspace"] or notes[0] == _PARTS.format("last")
    if not axes or (axes == _plain_axes(contents, kspace) and plain):
        maps = {name: _joined(contents.arrays[name])[0] for name in _MAPS if name in contents.arrays}
        return replace(contents, arrays={**contents.arrays, **maps})
    if axes != _plain_axes(contents, kspace):
        notes = (*notes, f"kspace is read with the axes ({', '.join(axes)})")
    return _arranged(contents, kspace, axes, notes)


def _joined(kspace: ArraySource) -> tuple[ArraySource, tuple[str, ...]]:
    """k-space as complex numbers where its real and imaginary parts stand on the last or the first axis."""
    shape = kspace.shape
    if kspace.native not in _FLOATS or len(shape) < 3:
        return kspace, ()
    if shape[-1] == 2 and shape[0] != 2:
        return JoinedComplex(kspace), (_PARTS.format("last"),)
    if shape[-1] == 2 and len(shape) > 4:
        return JoinedComplex(kspace), (_PARTS.format("last"),)
    if shape[0] == 2 and shape[-1] != 2 and len(shape) > 3:
        last = Arranged(kspace, [(shape[1], 1)], [*range(2, len(shape)), 0])
        if (last.read([shape[1] // 2]) < 0).any():  # two slices of magnitudes have no negative values
            return JoinedComplex(last), (_PARTS.format("first"),)
    return kspace, ()


def _plain_axes(contents: Contents, kspace: ArraySource) -> tuple[str, ...]:
    """The axes as they are where nothing else is said."""
    if len(kspace.shape) == 3:
        return CANONICAL[1:] if contents.missing_axis == "slices" else (SLICE, KY, KX)
    return CANONICAL if len(kspace.shape) == 4 else ()


def _axes(contents: Contents, kspace: ArraySource) -> tuple[str, ...]:
    """The axes of k-space, as the file names them, as its layout has them, or as its shape tells."""
    if (given := contents.attributes.get("axes")) is not None:
        return parse_axes(str(given), kspace.shape)
    shape = kspace.shape
    if (cmrxrecon := _cmrxrecon_axes(contents, shape)) is not None:
        return cmrxrecon
    if _is_skm_tea(shape):
        return (SLICE, KY, KX, "contrast", COIL)
    if len(shape) in (5, 6) and 1 in shape[: len(shape) - 4] and len(_squeezed(shape)) <= 4:
        return ()  # axes of length 1 in front are dropped
    companions = [contents.arrays[name].shape for name in (*_MAPS, *_IMAGES) if name in contents.arrays]
    return infer_axes(shape, contents.missing_axis, companions)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 4 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _cmrxrecon_axes(contents: Contents, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    theirs = next((theirs for theirs, ours in contents.renamed if ours == "kspace"), "").lower()
    if not theirs.startswith(_CMRXRECON):
        return None
    # What reads MATLAB's files swaps rows and columns, as MATLAB shows them; these are written the other way round.
    plane = (KX, KY) if contents.format == "matlab" else (KY, KX)
    if len(shape) == 5:
        return ("phase", SLICE, COIL, *plane)
    if len(shape) == 4:
        return ("phase", SLICE, *plane) if "single" in theirs else (SLICE, COIL, *plane)
    return None


def _is_skm_tea(shape: tuple[int, ...]) -> bool:
    """Whether a shape is (x, ky, kz, echo, coil)."""
    return (
        len(shape) == 5
        and min(shape[:3]) >= _LEAST_MATRIX
        and shape[3] <= _MOST_ECHOES
        and shape[4] <= _MOST_COILS
        and shape[4] < min(shape[1:3])
    )


def _calgary(contents: Contents, kspace: ArraySource) -> Contents | None:
    """A scan of Calgary-Campinas, (x, ky, kz, 2 coils) with real and imaginary parts in turn; None: it is another."""
    shape = kspace.shape
    is_one = kspace.native in _FLOATS and len(shape) == 4 and min(shape[1:3]) >= _LEAST_MATRIX
    if not is_one or shape[3] % 2 or not 4 <= shape[3] <= 2 * _MOST_COILS:
        return None
    joined = Arranged(Interleaved(kspace), [(shape[0], 0)], [3, 1, 2])
    one = joined.read([shape[0] // 2])[0]
    with np.errstate(over="ignore", invalid="ignore"):  # all values are checked when they are read
        row, column = echo(np.square(np.abs(one), dtype=np.float64).sum(axis=0))
        from_corner = all(min(at, side - at) < side // 4 for at, side in zip((row, column), shape[1:3], strict=True))
        centred = np.fft.fftshift(one, (-2, -1)) if from_corner else one
        # The data set's images are those of numpy.fft.ifft2 alone: ours, with its shifts, would lie in the corners.
        move_image = not is_quartered(move_by_half(centred)) if from_corner else is_quartered(centred)
    notes = ["kspace has real and imaginary parts in turn on its last axis: read as (slice, ky, kx, coil), joined"]
    if from_corner:
        notes.append("zero frequency lies in the corner of kspace: it is moved to the middle")
    if move_image:
        notes.append("the image of kspace is moved by half its sides, as that of numpy.fft.ifft2 without shifts lies")
    arranged = _arranged(contents, Interleaved(kspace), (SLICE, KY, KX, COIL), tuple(notes))
    if not from_corner and not move_image:
        return arranged
    moved = Transformed(arranged.arrays["kspace"], from_corner=from_corner, move_image=move_image)
    return replace(arranged, arrays={**arranged.arrays, "kspace": moved})


def _arranged(contents: Contents, kspace: ArraySource, axes: tuple[str, ...], notes: tuple[str, ...]) -> Contents:
    """The contents with k-space of these axes, and what stands beside it, in our order."""
    sides = dict(zip(axes, kspace.shape, strict=True))
    outer = [name for name in COUNTERS if name in sides]
    arrays: dict[str, ArraySource] = dict(contents.arrays)
    arrays["kspace"] = _view(kspace, axes, sides, outer, (COIL, KY, KX))
    for name, source in contents.arrays.items():
        if name in _MAPS:
            arrays[name] = _companion(_joined(source)[0], axes, sides, outer, (COIL, KY, KX))
        elif name in _IMAGES:
            arrays[name] = _companion(source, axes, sides, outer, (KY, KX))
        elif name == "mask":
            arrays[name] = _mask(source, axes, sides, outer)
    frames: tuple[Frame, ...] = ()
    if any(name != SLICE for name in outer):
        counts = [range(sides[name]) for name in outer]
        places = np.stack(np.meshgrid(*counts, indexing="ij"), -1).reshape(-1, len(outer)).tolist()
        frames = tuple(Frame(**{SLICE: 0, **dict(zip(outer, place, strict=True))}) for place in places)
    return replace(
        contents,
        arrays=arrays,
        frames=frames or contents.frames,
        warnings=(*contents.warnings, *notes),
        missing_axis="slices",
    )


def _view(
    source: ArraySource,
    names: Sequence[str | None],
    sides: Mapping[str, int],
    outer: Sequence[str],
    inner: Sequence[str],
) -> ArraySource:
    """An array with these names of its axes as (slices, *inner)."""
    at = {name: axis for axis, name in enumerate(names) if name is not None}
    return Arranged(source, [(sides[name], at.get(name)) for name in outer], [at.get(name) for name in inner])


def _companion(
    source: ArraySource, axes: tuple[str, ...], sides: Mapping[str, int], outer: Sequence[str], inner: Sequence[str]
) -> ArraySource:
    """Maps or images beside k-space in our order; as they are where their axes are neither k-space's nor ours."""
    canonical = (*outer, *inner)
    for order in (axes, canonical):
        names = _names_of(source.shape, [name for name in order if name in canonical], sides, inner)
        if names is not None:
            return _view(source, names, sides, outer, inner)
    return source


def _names_of(
    shape: tuple[int, ...], order: Sequence[str], sides: Mapping[str, int], needed: Sequence[str]
) -> list[str | None] | None:
    """Which axes of an order an array of this shape has, None for those of length 1; None where it fits none.

    It may leave out counters, and have axes of length 1 for them and at its end.
    """
    long = [axis for axis, side in enumerate(shape) if side != 1]
    wanted = [name for name in needed if sides.get(name, 1) != 1]
    for count in range(min(len(order), len(long)), -1, -1):
        if count != len(long):
            break
        for chosen in combinations(order, count):
            fits = all(sides[name] == shape[axis] for name, axis in zip(chosen, long, strict=True))
            if fits and set(wanted) <= set(chosen):
                names: list[str | None] = [None] * len(shape)
                for name, axis in zip(chosen, long, strict=True):
                    names[axis] = name
                return names
    return None


def _mask(source: ArraySource, axes: tuple[str, ...], sides: Mapping[str, int], outer: Sequence[str]) -> ArraySource:
    """A mask beside k-space in our order, (slices, ky, kx) or (ky, kx); as it is where its axes fit nothing."""
    if source.nbytes > _MOST_MASK_BYTES or source.dtype.kind not in "biuf":
        return source
    slices = math.prod(sides[name] for name in outer)
    for order in (axes, (*outer, KY, KX)):
        for needed in ((KY, KX), (KX,), (KY,)):
            names = _names_of(source.shape, [name for name in order if name != COIL], sides, needed)
            if names is None:
                continue
            at = {name: axis for axis, name in enumerate(names) if name is not None}
            values: NDArray[np.generic] = source.whole()
            target = [name for name in (*outer, KY, KX) if name in at]
            kept = values.transpose(
                [*(at[name] for name in target), *(a for a in range(values.ndim) if names[a] is None)]
            )
            full = kept.reshape([sides[name] if name in at else 1 for name in (*outer, KY, KX)])
            if not any(name in at for name in outer):
                plane = np.broadcast_to(full.reshape(full.shape[-2:]), (sides[KY], sides[KX]))
                return InMemory(source.name, plane.copy())
            if slices * sides[KY] * sides[KX] * full.itemsize > _MOST_MASK_BYTES:
                raise UnreadableScan.at("mask", f"shape {source.shape}", "a mask (ky, kx) of all slices")
            shape = [sides[name] for name in (*outer, KY, KX)]
            each = np.broadcast_to(full, shape).reshape(slices, sides[KY], sides[KX])
            return InMemory(source.name, each)
    return source

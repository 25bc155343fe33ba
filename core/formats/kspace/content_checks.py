"""Content checks of k-space, sensitivity maps and reference: detect arrays that are something else, or misplaced."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.coils.calibration import SMALLEST_CALIBRATION, centre, full_centre

Complex = NDArray[np.complex64]
Real = NDArray[np.floating[Any]]

_EDGE = 3.0  # how much stronger both ends of an axis are than its middle where zero frequency lies at index 0
_LEAST_SIDE = 16  # an axis too short to tell its middle from its ends
_MISFIT = 0.2  # share of the calibration data's energy that right maps may leave unexplained
_MENDED = 0.5  # share of the misfit below which another reading of the maps explains it
_PARTIAL = 0.8  # how far one side of k-space reaches against the other
_SHIFT = 1.1  # how much better a reference must correlate elsewhere to be shifted
_TURNED = 1.1  # the same of one turned over
_FURTHEST = 24  # pixels
_SPIKE = 5.0  # times the strongest sample of the middle
_QUARTERED = 5.0  # how much brighter corners are than the middle


def one_sided_axes(where: NDArray[np.bool_]) -> list[str]:
    """Axes (of ky, kx) along which measured samples reach far less to one side of the middle than to the other."""
    found = []
    for axis, name in enumerate(("ky", "kx")):
        lines = np.flatnonzero(np.any(where, axis=1 - axis))
        size = where.shape[axis]
        below, above = size // 2 - lines[0], lines[-1] - size // 2
        if min(below, above) < _PARTIAL * max(below, above) - 2:
            found.append(name)
    return found


def axes_with_strong_ends(energy: Real, where: NDArray[np.bool_]) -> list[str]:
    """Axes (of ky, kx) along which the strongest samples lie at both ends and not in the middle."""
    found = []
    for axis, name in enumerate(("ky", "kx")):
        lines: NDArray[np.bool_] = np.any(where, axis=1 - axis)
        size = len(lines)
        if size < _LEAST_SIDE:
            continue
        total = np.sqrt(energy * where).sum(axis=1 - axis)
        profile = total / np.maximum(where.sum(axis=1 - axis), 1)
        wide = max(2, size // 16)
        parts = [slice(0, wide), slice(size - wide, size), centre(size, size // 4)]
        if all(lines[part].any() for part in parts):
            low, high, middle = (float(profile[part][lines[part]].mean()) for part in parts)
            if min(low, high) > _EDGE * middle:
                found.append(name)
    return found


def looks_like_an_image(planes: Complex) -> bool:
    """Whether planes (coils, ky, kx) are an image: spread as objects are, and gathered in the middle once transformed.

    The strongest sample is left out of both, as a single bright point spreads over all of k-space.
    """
    if min(planes.shape[1:]) < 2 * _LEAST_SIDE:
        return False
    given = _energy(planes)
    there = _image_energy(planes)
    return _central_share(given) < 0.2 and _central_share(there) > 0.5


def _central_share(energy: Real) -> float:
    """Share of the energy in the middle eighth of both axes, the strongest sample left out."""
    rest = energy.copy()
    rest.flat[int(rest.argmax())] = 0
    total = float(rest.sum())
    middle = rest[centre(len(rest), max(len(rest) // 8, 3)), centre(rest.shape[1], max(rest.shape[1] // 8, 3))]
    return float(middle.sum()) / total if total > 0 else 0.0


def is_quartered(planes: Complex) -> bool:
    """Whether the image of planes (coils, ky, kx) has its object in the corners and nothing in the middle."""
    image = np.sqrt(_image_energy(planes))
    height, width = (max(2, side // 8) for side in image.shape)
    middle = float(image[centre(image.shape[0], height), centre(image.shape[1], width)].mean())
    corners = [
        image[rows, columns]
        for rows in (slice(height), slice(-height, None))
        for columns in (slice(width), slice(-width, None))
    ]
    return min(float(corner.mean()) for corner in corners) > _QUARTERED * middle


def split_axes(planes: Complex) -> list[str]:
    """Axes (of y, x) along which the image of planes (coils, ky, kx) has its object at both ends alone."""
    image = np.sqrt(_image_energy(planes))
    found = []
    for axis, name in enumerate(("y", "x")):
        profile = image.mean(axis=1 - axis)
        wide = max(2, len(profile) // 8)
        middle = float(profile[centre(len(profile), wide)].mean())
        if min(float(profile[:wide].mean()), float(profile[-wide:].mean())) > _QUARTERED * middle:
            found.append(name)
    return found


def mask_misreading(mask: NDArray[np.bool_]) -> str | None:
    """The reading that gives a mask (ky, kx) without a calibration region one, in words; None where there is none."""
    if min(full_centre(mask)) >= SMALLEST_CALIBRATION:
        return None
    readings = {
        "it looks inverted (send 1 - mask)": ~mask,
        "its zero frequency looks to be at index 0 (numpy.fft.fftshift(mask))": np.fft.fftshift(mask),
    }
    return next((how for how, other in readings.items() if min(full_centre(other)) >= SMALLEST_CALIBRATION), None)


def find_spike(magnitude: Real) -> tuple[int, int] | None:
    """Index (ky, kx) of a spike: a sample far from the centre and several times stronger than the whole centre."""
    row, column = (int(at) for at in np.unravel_index(int(magnitude.argmax()), magnitude.shape))
    rows, columns = (centre(side, max(side // 4, 3)) for side in magnitude.shape)
    if rows.start <= row < rows.stop and columns.start <= column < columns.stop:
        return None
    strongest = float(magnitude[rows, columns].max())
    around = magnitude[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].copy()
    around.flat[int(around.argmax())] = 0
    lone = float(around.max()) < magnitude[row, column] / _SPIKE
    return (row, column) if lone and magnitude[row, column] > _SPIKE * strongest > 0 else None


def maps_misfit(calibration: Complex, maps: Complex, size: tuple[int, int]) -> str | None:
    """What is wrong with maps (coils, h, w) beside calibration data (coils, h, w) of the same coils; None: they fit.

    The middle `size` samples of the data are fully measured, and what counts.
    Coil images of few samples must be a common image times the maps: what part of them is not, is compared with that
    of the maps conjugated, flipped and reordered.
    """
    if len(maps) < 2 or not maps.any() or not calibration.any():
        return None
    height, width = (centre(side, count) for side, count in zip(calibration.shape[1:], size, strict=True))
    taper = np.zeros(calibration.shape[1:])
    taper[height, width] = np.hanning(size[0] + 2)[1:-1, None] * np.hanning(size[1] + 2)[1:-1]
    images = _inverse_fourier((calibration * taper).astype(np.complex64))
    misfit = _unexplained_share(images, maps)
    if misfit <= _MISFIT:
        return None
    mended = {name: _unexplained_share(images, reading) for name, reading in _readings(images, maps)}
    best = min(mended, key=lambda name: mended[name])
    of = f"leave {misfit:.0%} of the calibration data unexplained"
    if mended[best] < _MENDED * misfit:
        return f"sensitivity_maps do not fit k-space: they {of}, and {mended[best]:.0%} {best}"
    return f"sensitivity_maps do not fit k-space: they {of}"


def _readings(images: Complex, maps: Complex) -> Iterator[tuple[str, Complex]]:
    flips: list[tuple[str, Callable[[Complex], Complex]]] = [
        ("with their rows upside down", lambda m: _flip(m, (1,))),
        ("with their columns reversed", lambda m: _flip(m, (2,))),
        ("with rows and columns reversed", lambda m: _flip(m, (1, 2))),
        ("shifted by half the matrix (numpy.fft.fftshift)", lambda m: np.fft.fftshift(m, axes=(1, 2))),
    ]
    if images.shape[1] == images.shape[2]:
        flips.append(("with rows and columns swapped", lambda m: m.swapaxes(1, 2)))
    yield "conjugated", maps.conj()
    for name, change in flips:
        yield name, change(maps)
        yield f"conjugated and {name}", change(maps).conj()
    order = _order(images, maps)
    if not np.array_equal(order, np.arange(len(maps))):
        yield "with their coils in another order", maps[order]
        yield "conjugated and with their coils in another order", maps[order].conj()


def _flip(maps: Complex, axes: tuple[int, ...]) -> Complex:
    """Reversed about the pixel n // 2 of zero phase, as a grid of a finer one's pixels is."""
    return np.roll(np.flip(maps, axes), [1 - maps.shape[axis] % 2 for axis in axes], axes)


def _order(images: Complex, maps: Complex) -> NDArray[np.intp]:
    """For each coil the map that is most like its image in brightness."""
    shading = np.abs(images) / np.maximum(np.sqrt((np.abs(images) ** 2).sum(0)), 1e-30)
    bright = np.sqrt((np.abs(images) ** 2).sum(0))
    likeness = np.einsum("chw,dhw->cd", shading * bright, np.abs(maps), optimize=True)
    likeness /= np.linalg.norm(np.abs(maps).reshape(len(maps), -1) * bright.reshape(1, -1) ** 0.5, axis=1) + 1e-30
    order = np.arange(len(maps))
    for _ in range(len(maps)):
        coil, other = (int(at) for at in np.unravel_index(int(likeness.argmax()), likeness.shape))
        order[coil] = other
        likeness[coil], likeness[:, other] = -1, -1
    return order


def _unexplained_share(images: Complex, maps: Complex) -> float:
    """Share of the energy of coil images that is no common image times the maps; where maps are zero, none of it."""
    seen = (np.abs(maps) ** 2).sum(0)
    inside = seen > 1e-3 * seen.max()
    energy = float((np.abs(images) ** 2).sum())
    if energy == 0:
        return 0.0
    common = (maps.conj() * images).sum(0)[inside] / seen[inside]
    explained = float((np.abs(maps[:, inside] * common) ** 2).sum())
    return max(1 - explained / energy, 0.0)


def reference_misplacement(planes: Complex, reference: Real, cut: tuple[slice, slice]) -> str | None:
    """How a reference (y, x) lies off the image of planes (coils, ky, kx), `cut` to its size; None: it lies on it.

    By the maximum of the cross-correlation of both images' edges, as it is and turned over; only what is clearly
    better counts.
    """
    image = np.sqrt(_image_energy(planes))[cut]
    if min(image.shape) < _LEAST_SIDE or not image.any() or not reference.any():
        return None
    ours = np.fft.rfft2(_edges(image / float(image.max()))).conj()
    plain = _edges(reference / float(reference.max()))
    turned = {
        "as it is": plain,
        "upside down": plain[::-1],
        "with its columns reversed": plain[:, ::-1],
        "with rows and columns reversed": plain[::-1, ::-1],
    }
    best, here = {}, 0.0
    for name, theirs in turned.items():
        likeness = np.fft.irfft2(ours * np.fft.rfft2(theirs), theirs.shape)
        reach = [min(_FURTHEST, side // 4) for side in theirs.shape]
        near = np.roll(likeness, reach, (0, 1))[: 2 * reach[0] + 1, : 2 * reach[1] + 1]
        row, column = (int(at) for at in np.unravel_index(int(near.argmax()), near.shape))
        best[name] = (float(near[row, column]), row - reach[0], column - reach[1])
        here = max(float(near[reach[0], reach[1]]), 0.0) if name == "as it is" else here
    name = max(best, key=lambda each: best[each][0])
    likeness_there, rows, columns = best[name]
    broadcastable = best["as it is"][1:] == (0, 0)
    if name != "as it is" and likeness_there > (_TURNED if broadcastable else 1) * best["as it is"][0]:
        return f"the reference lies {name} on the image"
    likeness_there, rows, columns = best["as it is"]
    if (rows, columns) != (0, 0) and likeness_there > _SHIFT * here:
        return f"the reference lies {rows} rows and {columns} columns off the image"
    return None


def _edges(image: Real) -> Real:
    """Lengths of an image's gradients, less their mean."""
    down, across = np.diff(image, axis=0)[:, :-1], np.diff(image, axis=1)[:-1]
    edges = np.hypot(down, across)
    centred: Real = edges - edges.mean()
    return centred


def untransformed_partitions(energy: Real) -> bool:
    """Whether the energy of the entries of an axis (n,) falls off from its middle as that of a Fourier transform."""
    if len(energy) < 4:
        return False
    at = int(energy.argmax())
    nearby = abs(at - len(energy) // 2) <= 1
    others = np.delete(energy, slice(max(at - 1, 0), at + 2))
    return nearby and float(energy[at]) > 10 * float(others.mean()) and _falls(energy, at)


def _falls(energy: Real, at: int) -> bool:
    right, left = energy[at : at + 3], energy[at::-1][:3]
    return all(a > b for side in (right, left) for a, b in pairwise(side.tolist()))


def _energy(planes: Complex) -> Real:
    """Sum of squares (y, x) over coils, one after the other: all at once would take several times their memory."""
    energy: Real = np.zeros(planes.shape[1:], np.float32)
    for plane in planes:
        energy += np.square(np.abs(plane))
    return energy


def _image_energy(planes: Complex) -> Real:
    """Sum of squares (y, x) over coils of the images of planes (coils, ky, kx)."""
    energy: Real = np.zeros(planes.shape[1:], np.float32)
    for plane in planes:
        energy += np.square(np.abs(_inverse_fourier(plane)))
    return energy


def _inverse_fourier(planes: Complex) -> Complex:
    """Centred inverse Fourier transform of the last two axes."""
    axes = (-2, -1)
    shifted = np.fft.ifftshift(planes, axes=axes)
    image: Complex = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=axes)
    return image

"""Image grid of k-space: matrix, pixel spacing, and whether a reference lies on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from udig_recon.core.formats.kspace.ismrmrd_header import Encoding, Space
from udig_recon.core.formats.limits import LEAST_SIDE
from udig_recon.core.formats.with_warnings import WithWarnings

_SAME = 0.02  # pixel sizes and lengths that differ by no more are the same, rounded
_X, _Y = 0, 1


@dataclass(frozen=True)
class Grid:
    """The image that comes out of a k-space."""

    size: tuple[int, int]  # (rows, columns)
    spacing_mm: tuple[float, float] | None  # (y, x); None: the header does not tell
    slice_spacing_mm: float | None
    reference_fits: bool  # the reference's middle `size` pixels are this image's
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Axis:
    """One axis of k-space as the header tells of it."""

    samples: int
    pixels: int  # of the image
    pixel_mm: float | None
    resampled: bool  # the scanner's own image has pixels of another size
    stated: int  # pixels of the scanner's own image


def image_grid(samples: tuple[int, int], encoding: Encoding | None, reference: Sequence[int] | None) -> Grid:
    """The image of k-space with (ky, kx) samples, by its header and by the shape (..., y, x) of its reference.

    k-space sampled at steps of 1/F over a field of view F with n samples has pixels of F/n, whatever matrix the scanner
    then interpolates to; of the encoded field of view the image keeps that of reconSpace.
    """
    warnings: list[str] = []
    recon = None if encoding is None else encoding.recon
    if encoding is None or recon is None:
        return _without_header(samples, reference)
    order, noted = _order(samples, encoding.encoded)
    warnings += noted
    axes = []
    for length, name in zip(samples, order, strict=True):
        axis, noted = _axis(length, name, encoding.encoded, recon)
        axes.append(axis)
        warnings += noted
    size = axes[0].pixels, axes[1].pixels
    spacing = axes[0].pixel_mm, axes[1].pixel_mm
    if any(axis.resampled for axis in axes):
        stated = f"{axes[0].stated} x {axes[1].stated}"
        warnings.append(
            f"the header's matrix {stated} is interpolated from what was measured: the image is {size[0]} x {size[1]} "
            "pixels of the same field of view"
        )
    elif any(axis.stated > axis.samples for axis in axes):
        stated = f"{axes[0].stated} x {axes[1].stated}"
        warnings.append(f"the header's matrix {stated} is larger than k-space {samples}: image is {size}")
    fits = True
    if reference is not None and len(reference) >= 2:
        (size, fits), noted = _with_reference(size, axes, (reference[-2], reference[-1]))
        warnings += noted
    known = None if spacing[0] is None or spacing[1] is None else (spacing[0], spacing[1])
    return Grid(size, known, _slice_spacing(encoding.encoded, recon), fits, tuple(warnings))


def _without_header(samples: tuple[int, int], reference: Sequence[int] | None) -> Grid:
    """All of k-space, or the reference's size where that is smaller."""
    if reference is None or len(reference) < 2 or min(reference[-2:]) < LEAST_SIDE:
        return Grid(samples, None, None, True, ())
    theirs = reference[-2], reference[-1]
    if theirs == samples[::-1] != samples:
        return Grid(samples, None, None, False, (_swapped_axes_warning(theirs),))
    if theirs[0] > samples[0] and theirs[1] > samples[1]:
        return Grid(samples, None, None, False, (_size_warning(theirs, samples),))
    size = min(theirs[0], samples[0]), min(theirs[1], samples[1])
    return Grid(size, None, None, True, () if size == theirs else (_cut(theirs, size),))


def _order(samples: tuple[int, int], encoded: Space | None) -> WithWarnings[tuple[int, int]]:
    """Which axis of the header (0: x, 1: y) lies along rows and which along columns of k-space.

    fastMRI's files have the readout, x, along rows; others along columns, which the encoded matrix tells.
    """
    if encoded is None:
        return WithWarnings((_X, _Y))
    x, y = encoded.matrix[:2]
    if (x, y) == samples:
        return WithWarnings((_X, _Y))
    if (y, x) == samples:
        warning = f"k-space is {samples[0]} x {samples[1]}: the header's readout, x, lies along columns"
        return WithWarnings((_Y, _X), (warning,))
    warning = (
        f"k-space is {samples[0]} x {samples[1]}, the header's encoded matrix {x} x {y}: "
        "pixel sizes are of the header's field of view"
    )
    along_rows, along_columns = (x == samples[0]) + (y == samples[1]), (y == samples[0]) + (x == samples[1])
    return WithWarnings((_Y, _X) if along_columns > along_rows else (_X, _Y), (warning,))


def _axis(samples: int, name: int, encoded: Space | None, recon: Space) -> WithWarnings[_Axis]:
    stated, kept = recon.matrix[name], recon.field_of_view_mm[name]
    measured = None if encoded is None else encoded.field_of_view_mm[name]
    if kept is None:
        return WithWarnings(_Axis(samples, min(stated, samples), None, False, stated))
    if measured is None or encoded is None:
        # Without what was measured, the scanner's image is taken for all of it or for its middle.
        if stated <= samples:
            return WithWarnings(_Axis(samples, stated, kept / stated, False, stated))
        return WithWarnings(_Axis(samples, samples, kept / samples, True, stated))
    warnings: tuple[str, ...] = ()
    if samples * 2 == encoded.matrix[name] and kept <= measured / 2 * (1 + _SAME):
        measured /= 2
        warnings = (f"the {'xy'[name]} axis has half the header's samples: oversampling was removed from it",)
    pixel = measured / samples
    resampled = abs(kept / stated - pixel) > _SAME * pixel
    pixels = min(round(kept / pixel), samples)
    if not resampled and abs(pixels - stated) <= 1 + _SAME * stated:
        pixels = min(stated, samples)
    return WithWarnings(_Axis(samples, max(pixels, 1), pixel, resampled, stated), warnings)


def _with_reference(
    size: tuple[int, int], axes: Sequence[_Axis], theirs: tuple[int, int]
) -> WithWarnings[tuple[tuple[int, int], bool]]:
    """Size of the image and whether the reference's middle is on its pixels."""
    if theirs == size or min(theirs) < LEAST_SIDE:
        return WithWarnings((size, True))
    if theirs == size[::-1]:
        return WithWarnings((size, False), (_swapped_axes_warning(theirs),))
    ours = [axis.resampled and length == axis.stated for axis, length in zip(axes, theirs, strict=True)]
    beyond = all(length > axis.samples for axis, length in zip(axes, theirs, strict=True))
    if any(ours) or beyond:
        return WithWarnings((size, False), (_size_warning(theirs, size),))
    common = min(theirs[0], axes[0].samples), min(theirs[1], axes[1].samples)
    warnings = []
    if common != size:
        warnings.append(f"the header's matrix {size} differs from the reference's {theirs}: that is used")
    if common != theirs:
        warnings.append(_cut(theirs, common))
    return WithWarnings((common, True), tuple(warnings))


def _slice_spacing(encoded: Space | None, recon: Space) -> float | None:
    """Millimetres from slice to slice, gaps not counted: the field of view across them over their number."""
    for space in (recon, encoded):
        if space is not None and (length := space.field_of_view_mm[2]) is not None:
            return length / space.matrix[2]
    return None


def _size_warning(reference: tuple[int, int], size: tuple[int, int]) -> str:
    return (
        f"the reference is {reference[0]} x {reference[1]} pixels of another size than the image's {size[0]} x "
        f"{size[1]}: it is left out"
    )


def _swapped_axes_warning(reference: tuple[int, int]) -> str:
    return (
        f"rows and columns of the reference {reference} are swapped (numpy.swapaxes(reference, -1, -2)): it is left out"
    )


def _cut(reference: tuple[int, int], size: tuple[int, int]) -> str:
    return f"the reference {reference} is larger than k-space: its middle {size} is used"

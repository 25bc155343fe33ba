"""Sampling mask and noise covariance of a k-space scan."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import Array, ArraySource, InMemory
from udig_recon.core.formats.with_warnings import WithWarnings

_MOST_MASK_BYTES = 256 << 20
_MOST_NOISE_BYTES = 64 << 20
_MOST_KURTOSIS = 6.0  # E|n|^4 / (E|n|^2)^2 is 2 of complex Gaussian noise, about 4 of two scans' with gains 1 and 10


Mask = NDArray[np.bool_] | None


def sampling_mask(source: ArraySource | None, shape: tuple[int, ...]) -> WithWarnings[Mask]:
    """The mask as (ky, kx), or (slices, ky, kx) where slices differ; a row of (kx,) holds for every ky."""
    if source is None:
        return WithWarnings(None)
    slices, coils, ky, kx = shape
    if (lines := _line_numbers(source, ky, kx)) is not None:
        return lines
    broadcastable = _broadcastable_shape(source.shape, slices, ky, kx)
    if broadcastable is None and (alike := _alike_in_coils(source, slices, coils, ky, kx)) is not None:
        return sampling_mask(alike, shape)
    if broadcastable is None:
        expected = f"shape {(kx,)}, {(ky, kx)} or {(slices, ky, kx)}; without a mask, zeros count as not measured"
        raise UnreadableScan.at("mask", f"shape {source.shape}", expected + _remedy(source.shape, shape))
    if source.dtype.kind not in "biuf":
        raise UnreadableScan.at("mask", f"{source.dtype} values", "bool, or numbers 0 and 1")
    if source.nbytes > _MOST_MASK_BYTES:
        expected = f"at most {_MOST_MASK_BYTES}; without a mask, zeros count as not measured"
        raise UnreadableScan.at("mask", f"{source.nbytes} bytes", expected)
    values: NDArray[Any] = source.whole()
    if not np.isin(values, (0, 1)).all() and not np.isin(values, (0, 255)).all():
        raise UnreadableScan.at("mask", "values beside 0 and 1", "0 where not measured, 1 where measured")
    if not values.any():
        raise UnreadableScan.at("mask", "nothing but zeros", "some measured samples")
    mask = values.astype(bool).reshape(broadcastable)
    if broadcastable == (ky, 1) and source.shape[-2:] != (ky, 1):
        whole = np.broadcast_to(mask, (ky, kx)).copy()
        return WithWarnings(whole, (f"the mask has one value for each of {ky} rows: it holds for whole rows, ky",))
    if len(broadcastable) == 3 and (mask != mask[:1]).any():
        each = np.broadcast_to(mask, (slices, ky, kx)).copy()
        return WithWarnings(each, ("slices have masks of their own: each is reconstructed by its own",))
    return WithWarnings(np.broadcast_to(mask[0] if len(broadcastable) == 3 else mask, (ky, kx)).copy())


def _broadcastable_shape(shape: tuple[int, ...], slices: int, ky: int, kx: int) -> tuple[int, ...] | None:
    """The shape of a mask as one that can be broadcast to (ky, kx) or (slices, ky, kx)."""
    sides = tuple(side for side in shape if side != 1)
    if sides == (kx,) and (kx != ky or shape[-1] != 1):
        return (kx,)
    if sides == (kx,) and len(shape) > 2:  # (1, 1, kx, 1), beside numbers of two parts
        return (kx,)
    if sides == (ky,) and (shape[-2:] == (ky, 1) or ky != kx):
        return (ky, 1)
    if sides == (ky, kx):
        return (ky, kx)
    if len(shape) >= 3 and shape[0] == slices and sides[-2:] in ((ky, kx), (slices, kx), (slices, ky)):
        if sides == (slices, ky, kx):
            return (slices, ky, kx)
        if sides == (slices, kx) and shape[-1] == kx:
            return (slices, 1, kx)
    return None


def _line_numbers(source: ArraySource, ky: int, kx: int) -> WithWarnings[Mask] | None:
    """The mask of the lines kx whose numbers, from 0 or from 1, stand in place of a mask; None: it is a mask."""
    sides = [side for side in source.shape if side != 1]
    if len(sides) != 1 or sides[0] in (ky, kx) or not 1 < sides[0] <= kx or source.dtype.kind not in "iuf":
        return None
    numbers: NDArray[Any] = source.whole().reshape(-1)
    if not np.isfinite(numbers).all() or (np.diff(numbers) <= 0).any() or (numbers % 1).any():
        return None
    if numbers[0] < 0 or numbers[-1] > kx or numbers[-1] < 2:
        return None
    first = 1 if numbers[-1] == kx else 0
    if first > numbers[0]:
        return None
    line = np.zeros(kx, bool)
    line[numbers.astype(int) - first] = True
    note = f"the mask holds {len(numbers)} numbers, taken for those of the lines kx that were measured, from {first} on"
    return WithWarnings(np.broadcast_to(line, (ky, kx)).copy(), (note,))


def _alike_in_coils(source: ArraySource, slices: int, coils: int, ky: int, kx: int) -> ArraySource | None:
    """A mask (slices, coils, ky, kx) or (coils, ky, kx) that is the same in all coils, without that axis."""
    shape = source.shape
    if source.nbytes > _MOST_MASK_BYTES or source.dtype.kind not in "biuf" or coils == 1:
        return None
    axis = len(shape) - 3
    if shape[axis:] != (coils, ky, kx) or shape[:axis] not in ((), (1,), (slices,)):
        return None
    values: NDArray[Any] = source.whole()
    one = values.take([0], axis)
    return InMemory(source.name, one[..., 0, :, :]) if axis >= 0 and (values == one).all() else None


def _remedy(found: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """What to do with a mask of this shape beside k-space (slices, coils, ky, kx), where that can be told."""
    _, coils, ky, kx = shape
    sides = tuple(side for side in found if side != 1)
    if sides == (ky,):
        return "; one value for each ky stands in a column: mask.reshape(-1, 1)"
    if found[-2:] == (ky, kx) and coils in found[:-2]:
        return f"; coils are measured at the same places: its first entry along the axis of {coils}"
    if sides[-2:] == (kx, ky):
        return "; rows and columns look swapped: numpy.swapaxes(mask, -1, -2)"
    if len(sides) == 1 and found[-1] < kx:
        return f"; numbers of lines go into zeros: mask = numpy.zeros({kx}); mask[lines] = 1"
    return ""


def noise_covariance(source: ArraySource | None, coils: int) -> NDArray[np.complex64] | None:
    """Covariance (coils, coils) of samples (coils, n) that were measured without any signal."""
    if source is None:
        return None
    expected = f"complex64 of shape ({coils}, n), n samples of each coil without any signal"
    if source.native not in (np.complex64, np.complex128) or len(source.shape) < 2 or source.shape[0] != coils:
        swapped = len(source.shape) == 2 and source.shape[1] == coils
        remedy = "; its axes look swapped: noise.T" if swapped else ""
        raise UnreadableScan.at("noise", f"shape {source.shape} of {source.dtype}", expected + remedy)
    if source.nbytes > _MOST_NOISE_BYTES:
        raise UnreadableScan.at("noise", f"{source.nbytes} bytes", f"at most {_MOST_NOISE_BYTES}")
    samples: Array = source.whole().reshape(coils, -1).astype(np.complex128)
    if samples.shape[1] < 4 * coils or not np.isfinite(samples).all():
        raise UnreadableScan.at(
            "noise", f"{samples.shape[1]} samples of each coil", f"{4 * coils} finite samples or more"
        )
    energy = np.square(np.abs(samples))
    mean = np.maximum(energy.mean(axis=1), 1e-300)
    if float(np.median(np.square(energy / mean[:, None]).mean(axis=1))) > _MOST_KURTOSIS:
        raise UnreadableScan.at(
            "noise",
            "a few samples far stronger than the rest, as of an object",
            "samples measured without any signal; without them noise is estimated from k-space",
        )
    covariance = samples @ samples.conj().T / samples.shape[1]
    variances = np.linalg.eigvalsh(covariance)
    if not variances[0] > 1e-8 * variances[-1] > 0:
        raise UnreadableScan.at("noise", "coils that are silent or alike", "noise of its own in every coil")
    result: NDArray[np.complex64] = covariance.astype(np.complex64)
    return result

"""Statistics of k-space in one pass over all of it, and checks of maps and reference against them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.coils.calibration import LARGEST_CALIBRATION, centre, echo, full_centre
from udig_recon.core.coils.noise import bands, noise_sums, noise_weights
from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region
from udig_recon.core.formats.kspace import content_checks as checks
from udig_recon.core.formats.value_checks import checked_blocks

_PLANES_BYTES = 4 << 20  # of the slice that is kept
_FACTOR = 1.7  # by which a reference may be larger or smaller than the image
_BRIGHT = 1e-3
_TELLING = 12  # calibration samples a side below which maps vary within what they resolve
_AXES = ("slice", "coil", "ky", "kx")
_UNMEASURED = "put zeros where nothing was measured, or send the mask"


@dataclass
class KspaceStatistics:
    """Statistics of a k-space (slices, coils, ky, kx), and some of one slice's samples."""

    index: int  # of the slice whose samples are kept
    energy: NDArray[np.float64]  # (ky, kx), over slices and coils
    magnitude: NDArray[np.float32]  # (ky, kx), the largest over slices and coils
    slice_energy: NDArray[np.float64]  # (slices,)
    columns: NDArray[np.bool_]  # (slices, kx), whether there is anything
    noise: NDArray[np.complex128]  # of `noise_sums`
    kept: list[int]  # coils of `planes`
    planes: NDArray[np.complex64]  # (some coils, ky, kx)
    calibration: NDArray[np.complex64]  # (coils, h, w), the centre
    outside: bool = False  # whether there are samples outside the mask
    outside_peak: float = 0.0  # the largest magnitude of them
    imaginary: bool = False  # whether any imaginary part is not zero
    nan_outside: bool = False
    band: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))


def collect_statistics(kspace: ArraySource, mask: NDArray[np.bool_] | None) -> KspaceStatistics:
    """Check all of k-space where its mask is true. Raises UnreadableScan for values that are no measurements."""
    slices, coils, ky, kx = kspace.shape
    kept = np.unique(np.linspace(0, coils - 1, max(1, min(coils, _PLANES_BYTES // (8 * ky * kx)))).round().astype(int))
    rows, columns = (centre(side, min(side, LARGEST_CALIBRATION)) for side in (ky, kx))
    size = rows.stop - rows.start, columns.stop - columns.start
    statistics = KspaceStatistics(
        index=slices // 2,
        energy=np.zeros((ky, kx)),
        magnitude=np.zeros((ky, kx), np.float32),
        slice_energy=np.zeros(slices),
        columns=np.zeros((slices, kx), bool),
        noise=np.zeros((coils, 8), np.complex128),
        kept=kept.tolist(),
        planes=np.zeros((len(kept), ky, kx), np.complex64),
        calibration=np.zeros((coils, *size), np.complex64),
        band=bands((ky, kx)),
    )

    def apply_mask(region: Region, block: Array) -> Array:
        if mask is None:
            return block
        inside = mask[region[2:]] if mask.ndim == 2 else mask[region[0]][:, None, *region[2:]]
        excess = np.where(inside, 0, block)
        if excess.any():
            odd = ~np.isfinite(excess)
            statistics.nan_outside |= bool(odd.any())
            strongest = float(np.abs(np.where(odd, 0, excess)).max())
            statistics.outside |= strongest > 0
            statistics.outside_peak = max(statistics.outside_peak, strongest)
        return np.where(inside, block, 0)

    try:
        for region, block in checked_blocks(kspace, _AXES, _UNMEASURED, apply_mask):
            _add(statistics, region, block, (rows, columns))
    except UnreadableScan as error:
        if statistics.outside and not statistics.energy.any() and error.field == "kspace":
            expected = "the mask that k-space was measured with"
            raise UnreadableScan.at("mask", "no measured sample that is not zero", expected) from error
        raise
    return statistics


def _add(statistics: KspaceStatistics, region: Region, block: Array, middle: tuple[slice, slice]) -> None:
    which, coils, rows, columns = region
    band = statistics.band[rows, columns]
    for place, samples in enumerate(block):
        for coil, plane in enumerate(samples):
            magnitude = np.abs(plane)
            statistics.imaginary |= bool(np.any(plane.imag))
            energy = np.square(magnitude, dtype=np.float64)
            np.maximum(statistics.magnitude[rows, columns], magnitude, out=statistics.magnitude[rows, columns])
            statistics.energy[rows, columns] += energy
            statistics.slice_energy[which.start + place] += energy.sum()
            statistics.columns[which.start + place, columns] |= (magnitude > 0).any(axis=0)
            statistics.noise[coils.start + coil] += noise_sums(plane[None, None], band)[0]
    if which.start <= statistics.index < which.stop:
        one = block[statistics.index - which.start]
        for place, coil in enumerate(statistics.kept):
            if coils.start <= coil < coils.stop:
                statistics.planes[place, rows, columns] = one[coil - coils.start]
        _copy_region(statistics.calibration[coils], one, (rows, columns), middle)


def _copy_region(kept: Array, block: Array, region: tuple[slice, slice], wanted: tuple[slice, slice]) -> None:
    """Copy the wanted rows and columns from a block (coils, y, x) to the kept array (coils, h, w)."""
    targets, sources = [], []
    for cut, want in zip(region, wanted, strict=True):
        low, high = max(cut.start, want.start), min(cut.stop, want.stop)
        targets.append(slice(low - want.start, max(high, low) - want.start))
        sources.append(slice(low - cut.start, max(high, low) - cut.start))
    kept[:, targets[0], targets[1]] = block[:, sources[0], sources[1]]


def cross_check(
    statistics: KspaceStatistics, where: NDArray[np.bool_], maps: ArraySource | None, reference: ArraySource | None
) -> list[str]:
    """Warnings about k-space, and about maps and a reference that do not fit it, a sentence each.

    Checks all values of maps and reference. Raises UnreadableScan for values that cannot be.
    """
    warnings = []
    if (place := checks.find_spike(statistics.magnitude)) is not None:
        warnings.append(
            f"the sample at ky {place[0]}, kx {place[1]} is several times as strong as the middle of k-space: a spike?"
        )
    weights = noise_weights(statistics.noise)
    if (weights < 1).any():
        noisy = ", ".join(str(coil) for coil in np.flatnonzero(weights < 1)[:20])
        times = f"{1 / weights.min():.1f} times noisier than the others"
        many = "coils" if "," in noisy else "coil"
        warnings.append(f"{many} {noisy}: up to {times}, and weighted by that")
    if not statistics.imaginary and len(statistics.noise) > 1:
        warnings.append("no sample of k-space has an imaginary part: were its magnitudes or real parts saved alone?")
    if where.all() and checks.is_quartered(statistics.planes):
        warnings.append(
            "the object lies in the corners of the image: k-space of an image without numpy.fft.ifftshift before "
            "the transform?"
        )
    elif where.all() and (axes := checks.split_axes(statistics.planes)):
        warnings.append(
            f"the object lies at both ends of {' and '.join(axes)} and not in the middle: has every other line of "
            "k-space the wrong sign?"
        )
    brightness = 1.0
    if maps is not None:
        small = _coarse_maps(maps, statistics.index, statistics.calibration.shape[1:])
        combined = np.sqrt((np.abs(small) ** 2).sum(axis=0, dtype=np.float64))
        brightness = float(np.median(combined[combined > _BRIGHT * combined.max()])) if combined.any() else 1.0
        size = _calibration_size(statistics, where)
        if min(size) >= _TELLING and (misfit := checks.maps_misfit(statistics.calibration, small, size)) is not None:
            warnings.append(misfit)
    if reference is not None:
        image = _checked_image(reference, statistics.index)
        warnings += _reference_warnings(statistics, image, brightness)
    return warnings


def _calibration_size(statistics: KspaceStatistics, where: NDArray[np.bool_]) -> tuple[int, int]:
    """Height and width of the fully measured centre; 0 where the echo is outside it."""
    size = full_centre(where)
    at = echo(statistics.energy * where)
    middle = [centre(side, count) for side, count in zip(where.shape, size, strict=True)]
    return size if all(cut.start <= place < cut.stop for cut, place in zip(middle, at, strict=True)) else (0, 0)


def _reference_warnings(statistics: KspaceStatistics, image: NDArray[np.float32], brightness: float) -> list[str]:
    warnings = []
    measured, theirs = float(statistics.slice_energy[statistics.index]), float(np.square(image, dtype=np.float64).sum())
    if measured > 0 and theirs > 0:
        factor = brightness * (theirs / measured) ** 0.5
        if not 1 / _FACTOR <= factor <= _FACTOR:
            how = f"{factor:.3g} times larger" if factor > 1 else f"{1 / factor:.3g} times smaller"
            warnings.append(
                f"the reference is {how} than the image: psnr, ssim and nmse are of the image scaled to the reference"
            )
    cut = tuple(
        slice((have - keep) // 2, (have - keep) // 2 + keep)
        for have, keep in zip(statistics.energy.shape, image.shape, strict=True)
    )
    if (off := checks.reference_misplacement(statistics.planes, image, (cut[0], cut[1]))) is not None:
        warnings.append(f"{off}: psnr, ssim and nmse are of images that do not coincide")
    return warnings


def _coarse_maps(maps: ArraySource, index: int, size: tuple[int, ...]) -> NDArray[np.complex64]:
    """A slice's maps on the coarse grid (coils, h, w) of an image of h x w samples of k-space."""
    steps = [
        side // 2 + ((np.arange(count) - count // 2) * side) // count
        for side, count in zip(maps.shape[2:], size, strict=True)
    ]
    small = np.zeros((maps.shape[1], *size), np.complex64)
    for (which, coils, rows, columns), block in checked_blocks(maps):
        if which.start <= index < which.stop:
            ys, xs = (
                np.flatnonzero((at >= cut.start) & (at < cut.stop))
                for at, cut in zip(steps, (rows, columns), strict=True)
            )
            part = block[index - which.start][:, steps[0][ys] - rows.start][:, :, steps[1][xs] - columns.start]
            small[coils][:, ys[:, None], xs] = part
    return small


def _checked_image(images: ArraySource, index: int) -> NDArray[np.float32]:
    """The magnitude of one image of a stack (slices, y, x); all values of the stack are checked."""
    entry = np.zeros(images.shape[1:], np.float32)
    for (which, rows, columns), block in checked_blocks(images):
        if which.start <= index < which.stop:
            entry[rows, columns] = np.abs(block[index - which.start])
    return entry

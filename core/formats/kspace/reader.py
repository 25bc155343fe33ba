"""Reader of k-space scans: checks that the arrays are k-space, and reads slices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Modality, MRIAcquisition, ScanHeader
from udig_recon.core.coils.calibration import calibration_size, echo_shift
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.input_format import MRI_ARRAYS, Contents
from udig_recon.core.formats.kspace import content_checks as checks
from udig_recon.core.formats.kspace.fitting import (
    FittedArrays,
    find_reference,
    fit_arrays,
    header_encoding,
    with_four_axes,
)
from udig_recon.core.formats.kspace.grid import image_grid
from udig_recon.core.formats.kspace.many_coils import (
    COMPRESS,
    MOST_COILS,
    check_compressible,
    compression_corrections,
    with_few_coils,
)
from udig_recon.core.formats.kspace.sampling import measured_samples
from udig_recon.core.formats.kspace.statistics import KspaceStatistics, collect_statistics, cross_check
from udig_recon.core.formats.limits import LEAST_SIDE, Limits
from udig_recon.core.formats.value_checks import check_values

USED = frozenset((*MRI_ARRAYS, "axes", "pixel_spacing_mm", "slice_spacing_mm", "slice_thickness_mm"))
"""Names of arrays and attributes that a k-space scan uses."""

_FOURIER = "numpy.fft.fftshift(numpy.fft.fft2(numpy.fft.ifftshift(image)))"


def probe(contents: Contents) -> ScanHeader:
    """Header of a k-space scan, after a check of all its values."""
    arrays = fit_arrays(contents)
    slices, coils, ky, kx = arrays.kspace.shape
    statistics = collect_statistics(arrays.kspace, arrays.mask)
    where, warnings = _measured_locations(arrays, statistics)
    _check_content(arrays, statistics, where)
    warnings += _content_warnings(arrays, statistics, where)
    if arrays.guide is not None:
        check_values(arrays.guide)
    if coils > 1 and arrays.sensitivity_maps is None:
        shift = echo_shift(statistics.energy, where)
        calibration_size(np.roll(where, shift, (0, 1)))
        if shift != (0, 0):
            warnings.append(
                f"the echo and the lines about it lie {-shift[0]} rows and {-shift[1]} columns off the middle of "
                "k-space: it is shifted there, which changes nothing but the image's phase"
            )
    return ScanHeader(
        format=contents.format,
        modality=Modality.MRI,
        slices=slices,
        coils=min(coils, MOST_COILS),
        matrix=arrays.recon_size,
        kspace_matrix=(ky, kx),
        pixel_spacing_mm=arrays.pixel_spacing_mm,
        slice_spacing_mm=arrays.slice_spacing_mm,
        acceleration=round(ky * kx / int(where.sum()), 4),
        has_maps=arrays.sensitivity_maps is not None,
        has_reference=arrays.reference is not None,
        has_guide=arrays.guide is not None,
        corrections=(*arrays.corrections, *compression_corrections(coils)),
        warnings=(*arrays.warnings, *warnings),
    )


def read(contents: Contents, slices: Sequence[int]) -> MRIAcquisition:
    """Read the wanted slices, each with its measured samples; where these differ, `mask` holds those of any slice."""
    arrays = fit_arrays(contents)
    kspace = arrays.kspace.read(slices).astype(np.complex64, copy=False)
    masks = np.empty((len(slices), *kspace.shape[-2:]), bool)
    for place, index in enumerate(slices):
        masks[place] = _zero_unmeasured(kspace[place], arrays.mask_of(index))
    coils = kspace.shape[1]
    if coils > 1 and arrays.sensitivity_maps is None and len(slices):
        energy = sum(np.square(np.abs(plane), dtype=np.float64) for each in kspace for plane in each)
        everywhere: NDArray[np.bool_] = np.all(masks, axis=0)
        shift = echo_shift(energy, everywhere)
        kspace, masks = np.roll(kspace, shift, (-2, -1)), np.roll(masks, shift, (-2, -1))
    mask: NDArray[np.bool_] = np.any(masks, axis=0)
    maps, reference, guide = arrays.sensitivity_maps, arrays.reference, arrays.guide
    scan = MRIAcquisition(
        kspace=kspace,
        mask=mask,
        masks=masks if len(masks) and (masks != masks[0]).any() else None,
        sensitivity_maps=None if maps is None else maps.read(slices).astype(np.complex64, copy=False),
        reference=None if reference is None else np.abs(reference.read(slices)).astype(np.float32, copy=False),
        guide=None if guide is None else np.abs(guide.read(slices)).astype(np.float32, copy=False),
        noise_covariance=arrays.noise_covariance,
        recon_size=arrays.recon_size,
        pixel_spacing_mm=arrays.pixel_spacing_mm,
    )
    return with_few_coils(scan)


def check_limits(contents: Contents, limits: Limits) -> None:
    """Refuse a scan that is too large, by the sizes that its arrays declare."""
    shape = slices, coils, ky, kx = with_four_axes(contents).value.shape
    _check_order(shape, limits)
    limits.check("kspace", "slices", slices, limits.max_slices)
    limits.check("kspace", "coils", coils, limits.max_coils, remedy=COMPRESS)
    limits.check("kspace", "samples along ky", ky, limits.max_matrix, LEAST_SIDE)
    limits.check("kspace", "samples along kx", kx, limits.max_matrix, LEAST_SIDE)
    check_compressible("kspace", coils, coils * ky * kx)
    reference = find_reference(contents, coils)
    size = image_grid((ky, kx), header_encoding(contents), None if reference is None else reference.shape).size
    for side in size:
        limits.check("ismrmrd_header", "pixels a side", side, limits.max_matrix, LEAST_SIDE)


def slice_count(contents: Contents) -> int:
    """Slices of the scan."""
    return with_four_axes(contents).value.shape[0]


def _check_order(shape: tuple[int, ...], limits: Limits) -> None:
    """Raise UnreadableScan for an order of axes that cannot be, with the right one."""
    slices, coils, ky, kx = shape
    if min(ky, kx) < LEAST_SIDE <= min(slices, coils) and ky <= limits.max_slices and kx <= limits.max_coils:
        remedy = (
            "the first two axes look like ky and kx: numpy.transpose(kspace, (2, 3, 0, 1)) of (ky, kx, slices, coils)"
        )
        raise UnreadableScan.at("kspace", f"shape {shape}", f"axes (slices, coils, ky, kx); {remedy}")
    small = kx < LEAST_SIDE or (coils > limits.max_coils and 4 * kx <= min(coils, ky))
    if small and min(coils, ky) >= LEAST_SIDE and kx <= limits.max_coils:
        remedy = f"the last axis of {kx} looks like the coils: numpy.moveaxis(kspace, -1, 1)"
        raise UnreadableScan.at("kspace", f"shape {shape}", f"axes (slices, coils, ky, kx); {remedy}")


def _zero_unmeasured(kspace: NDArray[np.complex64], mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Set the samples of a slice (coils, ky, kx) to zero where none was measured; returns where some were."""
    if mask is not None:
        kspace[:, ~mask] = 0
    where = measured_samples(np.abs(kspace).max(axis=0), mask).where
    kspace[:, ~where] = 0
    return where


def _measured_locations(arrays: FittedArrays, statistics: KspaceStatistics) -> tuple[NDArray[np.bool_], list[str]]:
    """The measured locations (ky, kx) of any slice, and warnings about them."""
    warnings = []
    empty = np.flatnonzero(~statistics.columns.any(axis=1))
    if empty.size:
        warnings.append(f"slices without any signal: {', '.join(map(str, empty[:20]))}")
    if arrays.mask is None:
        filled = statistics.columns[statistics.columns.any(axis=1)]
        if (filled != filled[0]).any():
            warnings.append("slices are sampled at different places: each is reconstructed by its own")
    if statistics.outside:
        warnings.append("k-space holds samples outside the mask: they are not used")
    if statistics.nan_outside:
        warnings.append("k-space holds NaN outside the mask: taken for not measured")
    mask = arrays.mask
    if mask is not None and mask.ndim == 3:
        mask = np.asarray(mask.any(axis=0))
    where, notes = measured_samples(statistics.magnitude, mask)
    return where, [*warnings, *notes]


def _check_content(arrays: FittedArrays, statistics: KspaceStatistics, where: NDArray[np.bool_]) -> None:
    """Raise UnreadableScan or UnsupportedScan where k-space or its mask is something else."""
    mask = arrays.mask
    if mask is not None and statistics.outside_peak > float(statistics.magnitude.max()):
        how = checks.mask_misreading(mask if mask.ndim == 2 else np.asarray(mask.any(axis=0)))
        if how is not None:
            found_mask = "one that leaves out the middle of k-space, where its strongest samples are"
            raise UnreadableScan.at(
                "mask", found_mask, f"1 where k-space was measured, zero frequency at n // 2: {how}"
            )
    if axes := checks.axes_with_strong_ends(statistics.energy, where):
        raise UnreadableScan.at(
            "kspace",
            f"the strongest samples at both ends of {' and '.join(axes)}",
            f"zero frequency in the middle, at index n // 2: of an image {_FOURIER}",
        )
    if checks.looks_like_an_image(statistics.planes):
        raise UnreadableScan.at("kspace", "what looks like an image", f"its k-space, {_FOURIER}")
    space = None if arrays.encoding is None else arrays.encoding.encoded
    if (
        space is not None
        and space.matrix[2] > 1
        and not arrays.corrections
        and checks.untransformed_partitions(statistics.slice_energy)
    ):
        raise UnsupportedScan.at(
            "kspace",
            f"{arrays.kspace.shape[0]} partitions of a 3D scan that are not transformed along kz",
            "slices, or as many partitions as the header says, all sampled at the same places. Fully sampled ones are "
            "transformed along the first axis, "
            "numpy.fft.fftshift(numpy.fft.ifft(numpy.fft.ifftshift(kspace, 0), axis=0, norm='ortho'), 0)",
        )


def _content_warnings(arrays: FittedArrays, statistics: KspaceStatistics, where: NDArray[np.bool_]) -> list[str]:
    """Warnings about the values of the arrays. Raises UnreadableScan for values that cannot be."""
    warnings = []
    space = None if arrays.encoding is None else arrays.encoding.encoded
    if space is not None and space.matrix[2] > 1 and not arrays.corrections:
        warnings.append(
            f"the header tells of a 3D scan of {space.matrix[2]} partitions: the first axis of kspace is taken for "
            "slices, transformed along kz"
        )
    if axes := checks.one_sided_axes(where):
        warnings.append(
            f"k-space reaches less far to one side along {' and '.join(axes)} (partial Fourier): the image is blurred "
            "there, as the other side is not filled in"
        )
    return warnings + cross_check(statistics, where, arrays.sensitivity_maps, arrays.reference)

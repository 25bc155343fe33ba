"""Fits the arrays of a k-space scan to each other: axes, shapes, the image's grid; values are not looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import AddedAxis, ArraySource
from udig_recon.core.formats.containers.views import CentreCrop, DroppedAxis, JoinedComplex
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.kspace.grid import Grid, image_grid
from udig_recon.core.formats.kspace.ismrmrd_header import Encoding, read_encoding
from udig_recon.core.formats.kspace.masks import noise_covariance, sampling_mask
from udig_recon.core.formats.kspace.partitions import Partitions
from udig_recon.core.formats.lengths import length, slice_spacing
from udig_recon.core.formats.with_warnings import WithWarnings

_THREE_AXES = {"slices": "(coils, ky, kx)", "coils": "(slices, ky, kx)"}  # without the missing one
_ALONG_KZ = (
    "partitions of a 3-D scan were transformed to slices: by the inverse Fourier transform along kz, the first axis "
    "of kspace"
)
_LEAST_PIXEL_MM = 0.003  # MR microscopy has pixels of a few micrometres


@dataclass(frozen=True)
class FittedArrays:
    """The arrays of a k-space scan, fitted to each other by their shapes."""

    kspace: ArraySource  # (slices, coils, ky, kx)
    mask: NDArray[np.bool_] | None  # (ky, kx), or (slices, ky, kx) where slices have masks of their own
    sensitivity_maps: ArraySource | None  # (slices, coils, ky, kx)
    reference: ArraySource | None  # (slices, *recon_size)
    guide: ArraySource | None  # (slices, *recon_size)
    noise_covariance: NDArray[np.complex64] | None  # (coils, coils)
    encoding: Encoding | None
    recon_size: tuple[int, int]
    pixel_spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None
    warnings: tuple[str, ...]
    corrections: tuple[str, ...] = ()

    def mask_of(self, index: int) -> NDArray[np.bool_] | None:
        """The mask (ky, kx) of a slice."""
        return self.mask if self.mask is None or self.mask.ndim == 2 else self.mask[index]


def fit_arrays(contents: Contents) -> FittedArrays:
    """Fit the arrays of a scan to each other. Raises UnreadableScan where that is impossible."""
    kspace, noted = with_four_axes(contents)
    warnings = [*noted]
    slices, coils, *samples = kspace.shape
    three_axes = len(contents.arrays["kspace"].shape) == 3
    if three_axes and contents.missing_axis == "coils" and contents.header_xml is None:
        warnings.append(
            "kspace has 3 axes: read as (slices, ky, kx) of a single coil; coils of one slice need a first axis of 1"
        )
    maps = contents.arrays.get("sensitivity_maps")
    if maps is not None:
        if len(maps.shape) > 4:
            expected = f"one set of maps of shape {kspace.shape}"
            raise UnreadableScan.at("sensitivity_maps", f"shape {maps.shape}", expected)
        maps = fit_shape(maps, kspace.shape, "c")
    given = find_reference(contents, coils)
    header = header_encoding(contents)
    image = image_grid((samples[0], samples[1]), header, None if given is None else given.shape)
    warnings += image.warnings
    guide = contents.arrays.get("guide")
    if guide is not None:
        guide = fit_shape(guide, (slices, *image.size), "iuf")
    mask, noted = sampling_mask(contents.arrays.get("mask"), kspace.shape)
    warnings += noted
    reference, noted = _fit_reference(given, slices, image)
    warnings += noted
    covariance = noise_covariance(contents.arrays.get("noise"), coils)
    spacing, across = image.spacing_mm, image.slice_spacing_mm
    if spacing is None:
        spacing, noted = pixel_spacing(contents)
        warnings += noted
    if across is None:
        across, noted = slice_spacing(contents.attributes)
        warnings += noted
    return FittedArrays(
        kspace=kspace,
        mask=mask,
        sensitivity_maps=maps,
        reference=reference,
        guide=guide,
        noise_covariance=covariance,
        encoding=header,
        recon_size=image.size,
        pixel_spacing_mm=spacing,
        slice_spacing_mm=across,
        warnings=tuple(warnings),
        corrections=(_ALONG_KZ,) if isinstance(kspace, Partitions) and kspace.is_transformed else (),
    )


def with_four_axes(contents: Contents) -> WithWarnings[ArraySource]:
    """k-space with all four axes, an axis of length 1 in place of the one that the file's format leaves out."""
    expected = f"4 axes (slices, coils, ky, kx) or 3 axes {_THREE_AXES[contents.missing_axis]}"
    source, warnings = complex_kspace(contents, (4, 5))
    if len(source.shape) == 3:
        return WithWarnings(AddedAxis(source, axis=("slices", "coils").index(contents.missing_axis)), warnings)
    while len(source.shape) > 4 and source.shape[0] == 1:
        source = DroppedAxis(source, 0)
    if len(source.shape) > 4:
        remedy = "average the repetitions, or choose one average, echo, phase or frame, first"
        raise UnreadableScan.at("kspace", f"{len(source.shape)} axes {source.shape}", f"{expected}: {remedy}")
    if len(source.shape) != 4:
        raise UnreadableScan.at("kspace", f"{len(source.shape)} axes {source.shape}", expected)
    return WithWarnings(source, warnings)


def with_partitions(kspace: ArraySource, header: bytes | None) -> ArraySource:
    """k-space whose header tells of a 3-D scan with so many partitions, as `Partitions`; any other as it is."""
    if header is None or len(kspace.shape) != 4 or kspace.native not in (np.complex64, np.complex128):
        return kspace
    encoded = read_encoding(header).encoded
    return Partitions(kspace) if encoded is not None and encoded.matrix[2] == kspace.shape[0] > 1 else kspace


def complex_kspace(contents: Contents, joined_axes: Sequence[int]) -> WithWarnings[ArraySource]:
    """k-space as complex numbers; real and imaginary parts on the last of `joined_axes` many axes are joined.

    Raises UnreadableScan for other numbers.
    """
    source = contents.arrays["kspace"]
    advice = f"; {contents.remedy}" if contents.remedy else ""
    warnings: tuple[str, ...] = ()
    if source.dtype.kind in "iuf":
        parts = len(source.shape) in joined_axes and source.shape[-1] == 2
        if source.native not in (np.float32, np.float64) or not parts:
            remedy = "complex64: join real and imaginary parts (re + 1j * im)"
            raise UnreadableScan.at("kspace", f"{source.dtype} values", f"{remedy}{advice}")
        source = JoinedComplex(source)
        warnings = ("kspace has real and imaginary parts on its last axis: they are joined",)
    if source.native not in (np.complex64, np.complex128):
        raise UnreadableScan.at("kspace", f"{source.dtype} values", f"complex64{advice}")
    return WithWarnings(source, warnings)


def header_encoding(contents: Contents) -> Encoding | None:
    """The encoding of the ISMRMRD header; None where the file has no header."""
    return None if contents.header_xml is None else read_encoding(contents.header_xml)


def _fit_reference(reference: ArraySource | None, slices: int, image: Grid) -> WithWarnings[ArraySource | None]:
    """The reference's centre, of the image's size; None where its pixels have another size."""
    if reference is None or not image.reference_fits:
        return WithWarnings(None)
    complex_ = reference.dtype.kind == "c"
    sides = zip(reference.shape[-2:], image.size, strict=False)
    if len(reference.shape) >= 2 and all(have >= want for have, want in sides):
        reference = CentreCrop(reference, image.size)
    fitted = fit_shape(reference, (slices, *image.size), "iufc")
    return WithWarnings(fitted, ("the reference is complex: its magnitude is used",) if complex_ else ())


def find_reference(contents: Contents, coils: int) -> ArraySource | None:
    """The array `reference`, or fastMRI's: root sum of squares, or of a single coil first the emulated coil's image."""
    theirs = ("reconstruction_rss", "reconstruction_esc")
    names = ("reference", *(reversed(theirs) if coils == 1 else theirs))
    return next((contents.arrays[name] for name in names if name in contents.arrays), None)


def fit_shape(source: ArraySource, shape: tuple[int, ...], kinds: str) -> ArraySource:
    """The array with missing axes of length 1 added. Raises UnreadableScan unless it then has this shape.

    It must also have one of these kinds of numbers (numpy's letters). Where complex numbers are meant, real and
    imaginary parts on a last axis of 2 are joined.
    """
    if "c" in kinds and source.shape == (*shape, 2) and source.native in (np.float32, np.float64):
        source = JoinedComplex(source)
    if source.dtype.kind not in kinds or source.native in (np.longdouble, np.clongdouble):
        wanted = {"c": "complex64", "iuf": "numbers such as float32", "iufc": "numbers such as float32"}[kinds]
        raise UnreadableScan.at(source.name, f"{source.dtype} values", wanted)
    fitted = source
    for axis in range(len(shape)):
        if len(fitted.shape) < len(shape) and shape[axis] == 1 and fitted.shape[axis:] == shape[axis + 1 :]:
            fitted = AddedAxis(fitted, axis)
    if len(fitted.shape) == len(shape) + 1 and fitted.shape[1] == 1 and fitted.shape[2:] == shape[1:]:
        fitted = DroppedAxis(fitted, 1)
    if fitted.shape != shape:
        raise UnreadableScan.at(source.name, f"shape {source.shape}", f"shape {shape}")
    return fitted


def pixel_spacing(contents: Contents) -> WithWarnings[tuple[float, float]]:
    """Pixel spacing (y, x) in millimetres, by the attribute; 1 mm where the file gives none."""
    spacing = length(contents.attributes, "pixel_spacing_mm")
    if spacing is None:
        return WithWarnings((1.0, 1.0), ("the file gives no pixel spacing: 1 mm is assumed",))
    if spacing < _LEAST_PIXEL_MM:
        warning = f"pixel_spacing_mm is {spacing:g}, finer than any scanner's: metres are multiplied by 1000"
        return WithWarnings((spacing, spacing), (warning,))
    return WithWarnings((spacing, spacing))

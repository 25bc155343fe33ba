"""k-space files: which array means what, whether they fit each other, and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.acquisition import Modality, MRIAcquisition, ScanHeader
from core.formats.arrays import ArraySource, Contents, Expanded
from core.formats.ismrmrd import recon_space
from core.formats.lengths import slice_spacing
from core.formats.limits import LEAST_SIDE, Limits, quoted, unreadable
from core.formats.survey import check_values, surveyed

USED = frozenset(
    ("kspace", "mask", "sensitivity_maps", "reference", "guide", "reconstruction_rss", "reconstruction_esc")
) | {"pixel_spacing_mm", "slice_spacing_mm", "slice_thickness_mm"}
"""Names of arrays and attributes that have a meaning beside k-space."""


@dataclass(frozen=True)
class _Layout:
    """The arrays of a scan, fitted to each other by shape, their values not looked at."""

    kspace: ArraySource  # (slices, coils, ky, kx)
    mask: NDArray[np.bool_] | None  # (ky, kx)
    sensitivity_maps: ArraySource | None  # (slices, coils, ky, kx)
    reference: ArraySource | None  # (slices, *recon_size)
    guide: ArraySource | None  # (slices, *recon_size)
    recon_size: tuple[int, int]
    pixel_spacing_mm: tuple[float, float]
    warnings: tuple[str, ...]


def probe(contents: Contents) -> ScanHeader:
    """Header of a k-space scan whose every value has been looked at."""
    layout = _layout(contents)
    slices, coils, ky, kx = layout.kspace.shape
    measured, warnings = _survey(layout)
    for source in (layout.sensitivity_maps, layout.reference, layout.guide):
        if source is not None:
            check_values(source)
    return ScanHeader(
        format="fastmri_hdf5" if contents.format == "hdf5" else contents.format,
        modality=Modality.MRI,
        slices=slices,
        coils=coils,
        matrix=layout.recon_size,
        kspace_matrix=(ky, kx),
        pixel_spacing_mm=layout.pixel_spacing_mm,
        slice_spacing_mm=slice_spacing(contents.attributes, warnings),
        acceleration=round(ky * kx / int(measured.sum()), 4),
        has_maps=layout.sensitivity_maps is not None,
        has_reference=layout.reference is not None,
        has_guide=layout.guide is not None,
        warnings=(*layout.warnings, *warnings),
    )


def read(contents: Contents, slices: Sequence[int]) -> MRIAcquisition:
    """The wanted slices. Without a mask in the file a location is measured where any coil of them is not zero."""
    layout = _layout(contents)
    kspace = layout.kspace.read(slices).astype(np.complex64, copy=False)
    mask = layout.mask
    if mask is None:
        mask = np.asarray((kspace != 0).any(axis=(0, 1)))
        # A slice without any signal is an image without any signal, not an image of which nothing is known.
        mask = mask if mask.any() else ~mask
    else:
        kspace *= mask
    maps, reference, guide = layout.sensitivity_maps, layout.reference, layout.guide
    return MRIAcquisition(
        kspace=kspace,
        mask=mask,
        sensitivity_maps=None if maps is None else maps.read(slices).astype(np.complex64, copy=False),
        reference=None if reference is None else np.abs(reference.read(slices)).astype(np.float32, copy=False),
        guide=None if guide is None else np.abs(guide.read(slices)).astype(np.float32, copy=False),
        recon_size=layout.recon_size,
        pixel_spacing_mm=layout.pixel_spacing_mm,
    )


def check_limits(contents: Contents, limits: Limits) -> None:
    """Refuse a scan that is too large, by the sizes that its arrays declare."""
    shape = slices, coils, ky, kx = _stack(contents).shape
    limits.check("kspace", "slices", slices, limits.max_slices)
    limits.check("kspace", "coils", coils, limits.max_coils)
    limits.check("kspace", "samples along ky", ky, limits.max_matrix, LEAST_SIDE)
    limits.check("kspace", "samples along kx", kx, limits.max_matrix, LEAST_SIDE)
    size, _ = _geometry(contents, _reference(contents, coils), shape, [])
    for side in size:
        limits.check("ismrmrd_header", "pixels a side", side, limits.max_matrix, LEAST_SIDE)


def slice_count(contents: Contents) -> int:
    """Slices of the scan."""
    return _stack(contents).shape[0]


def _stack(contents: Contents) -> ArraySource:
    """k-space with all four axes. HDF5 as fastMRI has it leaves out a single coil, numpy's files a single slice."""
    source = contents.arrays["kspace"]
    expected = _axes(contents.format)
    if source.native not in (np.complex64, np.complex128):
        hint = "; a sinogram goes with its angles into one .npz" if contents.format == "npy" else ""
        raise unreadable("kspace", f"{source.dtype} values", f"complex64{hint}")
    if len(source.shape) == 3:
        return Expanded(source, axis=1 if contents.format == "hdf5" else 0)
    if len(source.shape) != 4:
        raise unreadable("kspace", f"{len(source.shape)} axes {source.shape}", expected)
    return source


def _axes(kind: str) -> str:
    short = "3 axes (slices, ky, kx)" if kind == "hdf5" else "3 axes (coils, ky, kx)"
    return f"4 axes (slices, coils, ky, kx) or {short}"


def _layout(contents: Contents) -> _Layout:
    kspace = _stack(contents)
    warnings: list[str] = []
    if contents.format == "hdf5" and len(contents.arrays["kspace"].shape) == 3 and contents.header_xml is None:
        warnings.append("kspace has 3 axes: read as (slices, ky, kx) of a single coil")
    maps = contents.arrays.get("sensitivity_maps")
    if maps is not None:
        maps = _fitting(maps, kspace.shape, np.complex64, np.complex128)
    reference = _reference(contents, kspace.shape[1])
    recon_size, spacing = _geometry(contents, reference, kspace.shape, warnings)
    if reference is not None:
        reference = _fitting(reference, (kspace.shape[0], *recon_size), np.float32, np.float64)
    guide = contents.arrays.get("guide")
    if guide is not None:
        guide = _fitting(guide, (kspace.shape[0], *recon_size), np.float32, np.float64)
    mask = _mask(contents.arrays.get("mask"), kspace.shape)
    return _Layout(kspace, mask, maps, reference, guide, recon_size, spacing, tuple(warnings))


def _reference(contents: Contents, coils: int) -> ArraySource | None:
    """Ours, or fastMRI's: the emulated single coil has a truth of its own beside the root of sum of squares."""
    theirs = ("reconstruction_rss", "reconstruction_esc")
    names = ("reference", *(reversed(theirs) if coils == 1 else theirs))
    return next((contents.arrays[name] for name in names if name in contents.arrays), None)


def _fitting(source: ArraySource, shape: tuple[int, ...], *dtypes: type[np.generic]) -> ArraySource:
    """The source with the missing axes of length 1, if it then has this shape."""
    if source.native not in dtypes:
        raise unreadable(source.name, f"{source.dtype} values", " or ".join(dtype.__name__ for dtype in dtypes))
    fitted = source
    for axis in range(len(shape)):
        if len(fitted.shape) < len(shape) and shape[axis] == 1 and fitted.shape[axis:] == shape[axis + 1 :]:
            fitted = Expanded(fitted, axis)
    if fitted.shape != shape:
        raise unreadable(source.name, f"shape {source.shape}", f"shape {shape}")
    return fitted


def _geometry(
    contents: Contents, reference: ArraySource | None, shape: tuple[int, ...], warnings: list[str]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Size and pixel spacing of the image: from the header, or the reference's size, or all of k-space."""
    ky, kx = shape[-2:]
    space = recon_space(contents.header_xml) if contents.header_xml is not None else None
    size = (ky, kx)
    if space is not None:
        size = (min(space.matrix[0], ky), min(space.matrix[1], kx))
        if size != space.matrix:
            warnings.append(f"the header's matrix {space.matrix} is larger than k-space {(ky, kx)}: image is {size}")
    if reference is not None and len(reference.shape) >= 2:
        rows, columns = reference.shape[-2:]
        fits = LEAST_SIDE <= rows <= ky and LEAST_SIDE <= columns <= kx
        if fits and space is not None and (rows, columns) != size:
            warnings.append(f"the header's matrix {size} differs from the reference's {(rows, columns)}: that is used")
        size = (rows, columns) if fits else size
    if space is not None and space.field_of_view_mm is not None:
        fov, matrix = space.field_of_view_mm, space.matrix
        return size, (fov[0] / matrix[0], fov[1] / matrix[1])
    return size, _spacing(contents, warnings)


def _spacing(contents: Contents, warnings: list[str]) -> tuple[float, float]:
    spacing = contents.attributes.get("pixel_spacing_mm")
    if spacing is None:
        warnings.append("the file gives no pixel spacing: 1 mm is assumed")
        return (1.0, 1.0)
    if isinstance(spacing, str) or not 1e-3 <= spacing <= 1e3:
        raise unreadable("pixel_spacing_mm", quoted(spacing), "millimetres per pixel")
    return (spacing, spacing)


def _mask(source: ArraySource | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The mask as (ky, kx); a row of (kx,) holds for every ky."""
    if source is None:
        return None
    ky, kx = shape[-2:]
    if source.shape not in ((kx,), (ky, kx)):
        raise unreadable("mask", f"shape {source.shape}", f"shape {(kx,)} or {(ky, kx)}")
    if source.dtype.kind not in "biuf":
        raise unreadable("mask", f"{source.dtype} values", "bool, or numbers 0 and 1")
    values: NDArray[Any] = source.whole()
    if not np.isin(values, (0, 1)).all():
        raise unreadable("mask", "values beside 0 and 1", "0 where not measured, 1 where measured")
    if not values.any():
        raise unreadable("mask", "nothing but zeros", "some measured samples")
    return np.broadcast_to(values.astype(bool), (ky, kx)).copy()


def _survey(layout: _Layout) -> tuple[NDArray[np.bool_], list[str]]:
    """Look at all of k-space. Gives the measured locations (ky, kx) and what is odd about them."""
    slices, _, ky, kx = layout.kspace.shape
    union = np.zeros((ky, kx), bool)
    columns = np.zeros((slices, kx), bool)
    for (which, _, rows, cols), block in surveyed(layout.kspace):
        nonzero = (block != 0).any(axis=1)
        union[rows, cols] |= nonzero.any(axis=0)
        columns[which, cols] |= nonzero.any(axis=1)
    warnings = []
    empty = np.flatnonzero(~columns.any(axis=1))
    if empty.size:
        warnings.append(f"slices without any signal: {', '.join(map(str, empty[:20]))}")
    if layout.mask is None:
        filled = columns[columns.any(axis=1)]
        if (filled != filled[0]).any():
            warnings.append("slices are sampled at different places: each is reconstructed by its own")
        return union, warnings
    if not (union & layout.mask).any():
        raise unreadable("mask", "no measured sample that is not zero", "the mask that k-space was measured with")
    if (union & ~layout.mask).any():
        warnings.append("k-space holds samples outside the mask: they are not used")
    return layout.mask, warnings

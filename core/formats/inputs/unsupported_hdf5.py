"""Layouts of HDF5 files that are recognised but not read, each with how to convert it."""

from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.input_format import UnsupportedFormat

_MOST_GROUPS = 64
_SINOGRAM = "a file with sinogram (slices, views, detectors) and angles (views,) in radians"
_DATA_EXCHANGE = UnsupportedFormat(
    "a Data Exchange file without exchange/data",
    "projections (views, rows, columns) in exchange/data, with exchange/theta, data_white and data_dark",
)
_NEXUS = UnsupportedFormat(
    "a NeXus file without an NXtomo entry: data and rotation_angle",
    f"NXtomo with instrument/detector/data, image_key and sample/rotation_angle in an entry, or {_SINOGRAM}",
)
_MRD_IMAGES = UnsupportedFormat("a file of ISMRMRD (MRD) images", "k-space: an image needs no reconstruction")


def known_layout(file: h5py.File) -> UnsupportedFormat | None:
    """The layout of an HDF5 file without kspace or sinogram at its root, where it has a name."""
    groups = [name for name in ("exchange", "entry", "entry1", "entry_1", "raw_entry") if _is_group(file, name)]
    if "exchange" in groups:
        return _DATA_EXCHANGE
    if (layout := _mrd_images(file)) is not None:
        return layout
    if groups or any("NX_class" in holder.attrs for holder in (file, *file.values()) if isinstance(holder, h5py.Group)):
        return _NEXUS
    return None


def _mrd_images(file: h5py.File) -> UnsupportedFormat | None:
    """Images (data, header and attributes), at most two groups deep."""
    groups = [name for name in file if _is_group(file, name)][:_MOST_GROUPS]
    for name in groups:
        members = set(file[name])
        inner = [each for each in sorted(members)[:_MOST_GROUPS] if _is_group(file[name], each)]
        if {"data", "header"} <= members or any({"data", "header"} <= set(file[name][each]) for each in inner):
            return _MRD_IMAGES
    return None


def _is_group(file: h5py.Group, name: str) -> bool:
    return name in file and file.get(name, getclass=True) is h5py.Group

"""Arrangements of HDF5 files that are known but not read: each is refused by its name, with what to do."""

import h5py

from core.formats.arrays import Layout

_SINOGRAM = "a file with sinogram (slices, views, detectors) and angles (views,) in radians"
_DATA_EXCHANGE = Layout(
    "a Data Exchange file (exchange/data), which is not read",
    f"{_SINOGRAM}: sinogram = exchange/data with its first two axes swapped, angles = exchange/theta in radians "
    "(numpy.deg2rad), and for counts quantity='counts' with flat and dark (detectors,), the means over frames of "
    "exchange/data_white and exchange/data_dark",
)
_NEXUS = Layout(
    "a NeXus file, which is not read",
    f"{_SINOGRAM}: from NXtomo the projections of image_key 0 with their first two axes swapped, rotation_angle in "
    "radians (numpy.deg2rad), and for counts quantity='counts' with flat and dark (detectors,), the means over the "
    "frames of image_key 1 and 2",
)


def known_layout(file: h5py.File) -> Layout | None:
    """The layout of an HDF5 file without kspace or sinogram at its root, where it has a name."""
    groups = [name for name in ("exchange", "entry", "entry1", "entry_1", "raw_entry") if _is_group(file, name)]
    if "exchange" in groups:
        return _DATA_EXCHANGE
    if groups or any("NX_class" in holder.attrs for holder in (file, *file.values()) if isinstance(holder, h5py.Group)):
        return _NEXUS
    return None


def _is_group(file: h5py.File, name: str) -> bool:
    return name in file and file.get(name, getclass=True) is h5py.Group

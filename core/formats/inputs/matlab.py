"""Input format MATLAB 7.3: HDF5 behind MATLAB's own header, with axes in MATLAB's order (ky, kx, coils, slices)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import ArraySource, SqueezedAxes
from udig_recon.core.formats.containers.hdf5_arrays import find_hdf5, open_hdf5
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.views import SwappedAxes
from udig_recon.core.formats.input_format import ARRAYS_OR_ATTRIBUTES, Contents, UnsupportedFormat
from udig_recon.core.formats.inputs.hdf5 import read_contents
from udig_recon.core.formats.synonyms import match_names

SIGNATURE = b"MATLAB 7.3"

# MATLAB stores the first axis innermost: HDF5 sees all axes reversed, and rows and columns of an image swapped.
_IMAGES = ("kspace", "mask", "sensitivity_maps", "reference", "guide", "reconstruction_rss", "reconstruction_esc")
_NO_KSPACE = UnsupportedFormat(
    "a MATLAB file without kspace or sinogram", "kspace (ky, kx, coils, slices) in it, or an .npz"
)


class Matlab:
    """A file that MATLAB saved with -v7.3."""

    name = "MATLAB 7.3"
    expected = "MATLAB 7.3 with kspace"

    def sniff(self, file: ScanFile) -> bool:
        """Whether MATLAB's header stands before HDF5."""
        return file.start(len(SIGNATURE)) == SIGNATURE and find_hdf5(file)

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The datasets of known names, in our order of axes."""
        with open_hdf5(file) as opened:
            struct = _find_struct(opened.file)
            yield reorder_axes(read_contents(opened, file.size, struct), self.name)

    def samples(self) -> Sequence[bytes]:
        """None: HDF5's sample uses all that is used here."""
        return ()


FORMAT = Matlab()


def _find_struct(file: h5py.File) -> str:
    """Name of the one struct that holds k-space or a sinogram, where they do not stand beside it; else nothing."""
    wanted = ("kspace", "sinogram")
    if match_names(file, wanted):
        return ""
    groups = [name for name in file if file.get(name, getclass=True) is h5py.Group]
    found = [name for name in groups if match_names(file[name], wanted)]
    if len(found) > 1:
        raise UnreadableScan.at("file", f"{len(found)} structs with k-space or a sinogram", "one of them")
    return found[0] if found else ""


def reorder_axes(contents: Contents, version: str) -> Contents:
    """Contents whose axes MATLAB reversed, in our order of axes, with a warning of how they are read."""
    arrays = dict(contents.arrays)
    order = "(ky, kx, coils, slices)"
    images: tuple[str, ...] = _IMAGES
    if "sinogram" in arrays and "kspace" not in arrays:
        images = ("reference", "guide")
        order = "(detectors, views, slices)"
        if _has_views_last(arrays):
            order = "(views, detectors, slices)"
            images = (*images, "sinogram", "mask")
    elif (noise := arrays.get("noise")) is not None and "kspace" in arrays and len(noise.shape) == 2:
        coils = arrays["kspace"].shape[-3] if len(arrays["kspace"].shape) > 2 else 1
        if noise.shape[0] != coils == noise.shape[1]:
            arrays["noise"] = SwappedAxes(noise)
    for name, source in arrays.items():
        if name in images and len(source.shape) > 1:
            arrays[name] = SwappedAxes(source)
        elif name in ARRAYS_OR_ATTRIBUTES:
            arrays[name] = SqueezedAxes(source)
    known = arrays.keys() & {"kspace", "sinogram"}
    return replace(
        contents,
        format="matlab",
        arrays=arrays,
        missing_axis="slices",
        warnings=(f"a {version} file: its axes are read as {order}", *contents.warnings),
        unsupported=None if known else contents.unsupported or _NO_KSPACE,
    )


def _has_views_last(arrays: Mapping[str, ArraySource]) -> bool:
    """Whether the sinogram's last axis, MATLAB's first, is as long as its angles, and the one before it is not."""
    angles, shape = arrays.get("angles"), arrays["sinogram"].shape
    if angles is None or len(shape) < 2:
        return False
    views = math.prod(angles.shape)
    return shape[-1] == views != shape[-2]

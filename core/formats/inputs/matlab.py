"""Input format MATLAB 7.3: HDF5 behind MATLAB's own header, with axes in MATLAB's order (ky, kx, coils, slices)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from udig_recon.core.formats.containers.hdf5_arrays import find_hdf5, open_hdf5
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.views import SwappedAxes
from udig_recon.core.formats.input_format import Contents, UnsupportedFormat
from udig_recon.core.formats.inputs.hdf5 import read_contents

SIGNATURE = b"MATLAB 7.3"

# MATLAB stores the first axis innermost: HDF5 sees all axes reversed, and rows and columns of an image swapped.
_IMAGES = ("kspace", "mask", "sensitivity_maps", "reference", "guide", "reconstruction_rss", "reconstruction_esc")
_NO_KSPACE = UnsupportedFormat("a MATLAB 7.3 file without kspace", "kspace (ky, kx, coils, slices) in it, or an .npz")


class Matlab:
    """A file that MATLAB saved with -v7.3."""

    name = "MATLAB 7.3"
    expected = "MATLAB 7.3 with kspace"

    def sniff(self, file: ScanFile) -> bool:
        """Whether MATLAB's header stands before HDF5."""
        return file.start(len(SIGNATURE)) == SIGNATURE and find_hdf5(file)

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The datasets of known names, the last two axes of images swapped."""
        with open_hdf5(file) as opened:
            contents = read_contents(opened, file.size)
            arrays = {
                name: SwappedAxes(source) if name in _IMAGES and len(source.shape) > 1 else source
                for name, source in contents.arrays.items()
            }
            yield replace(
                contents,
                format="matlab",
                arrays=arrays,
                missing_axis="slices",
                warnings=("a MATLAB 7.3 file: its axes are read as (ky, kx, coils, slices)",),
                unsupported=None if {"kspace", "sinogram"} & arrays.keys() else contents.unsupported or _NO_KSPACE,
            )

    def samples(self) -> Sequence[bytes]:
        """None: HDF5's sample uses all that is used here."""
        return ()


FORMAT = Matlab()

"""Input format .npy: k-space as one numpy array (coils, ky, kx), or with slices in front."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from udig_recon.core.formats.containers.npy_arrays import SIGNATURE, NpyArray
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import Contents


class Npy:
    """One array without a name, which is k-space."""

    name = ".npy"
    expected = ".npy with kspace"

    def sniff(self, file: ScanFile) -> bool:
        """Whether the file begins with numpy's signature."""
        return file.start(len(SIGNATURE)) == SIGNATURE

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The array."""
        kspace = NpyArray("kspace", file.stream, file.size, file.size)
        yield Contents("npy", {"kspace": kspace}, remedy="a sinogram goes with its angles into one .npz")

    def samples(self) -> Sequence[bytes]:
        """One coil image's k-space."""
        stream = io.BytesIO()
        np.save(stream, np.ones((2, 8, 8), np.complex64))
        return (stream.getvalue(),)


FORMAT = Npy()

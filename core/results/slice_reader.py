"""One slice of a result file, as a picture of it needs it."""

from pathlib import Path

import h5py
import numpy as np

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.files.checksummed_arrays import UNREADABLE
from udig_recon.core.results.store import SliceResult

_DATASETS = (
    *("reconstruction", "reconstruction_complex", "zero_filled", "fbp", "reference"),
    *("standard_deviation", "hallucination_map"),
)


def read_slice(hdf5: Path, index: int) -> SliceResult:
    """The slice at this place of a result file, without its curves, verdict and rating. Raises DamagedFile.

    The file's digest is to be compared before: HDF5's own checksums cover the images alone.
    """
    try:
        with h5py.File(hdf5, "r") as file:
            found = {name: file[name][index] if name in file else None for name in _DATASETS}
    except UNREADABLE as error:
        raise DamagedFile(f"{hdf5.name} cannot be read: {type(error).__name__}") from error
    # A slice that lacks what others have is filled up with NaN.
    there = {name: array for name, array in found.items() if array is not None and not np.isnan(array).all()}
    plain = there.get("zero_filled", there.get("fbp", found["reconstruction"]))
    image = found["reconstruction"]
    if image is None or plain is None:
        raise DamagedFile(f"{hdf5.name} holds no reconstruction")
    return SliceResult(
        image=image,
        image_complex=there.get("reconstruction_complex"),
        plain=plain,
        reference=there.get("reference"),
        curves={},
        deviation=there.get("standard_deviation"),
        hallucination=there.get("hallucination_map"),
    )

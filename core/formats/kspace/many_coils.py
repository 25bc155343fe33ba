"""Scans of many coils: compressed to fewer virtual ones when they are read, so that a prepared slice stays small."""

from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.preprocessing.coils import MultiCoil, compressed

MOST_COILS = 64
"""More coils are compressed to so many, slice by slice."""
COMPRESS = (
    "compress them first, to the strongest of their singular vectors (numpy.linalg.svd of k-space as (coils, "
    "samples)), usually 8 to 32"
)
_MOST_COMPRESSED_SAMPLES = 64 << 20  # of a slice in all coils, so that the sandbox has the memory for it


def check_compressible(field: str, coils: int, samples: int) -> None:
    """Raise UnsupportedScan for slices of too many samples, in all coils, to be compressed."""
    if coils > MOST_COILS and samples > _MOST_COMPRESSED_SAMPLES:
        most = f"at most {_MOST_COMPRESSED_SAMPLES} of more than {MOST_COILS} coils; {COMPRESS}"
        raise UnsupportedScan.at(field, f"slices of {samples} samples", most)


def with_few_coils(scan: MultiCoil) -> MultiCoil:
    """The scan with at most `MOST_COILS` virtual coils."""
    if scan.kspace.shape[1] <= MOST_COILS or not scan.slices:
        return scan
    return compressed(scan, scan.slices // 2, 1.0, MOST_COILS)


def compression_corrections(coils: int) -> tuple[str, ...]:
    """The correction that `with_few_coils` is of a scan of so many coils."""
    if coils <= MOST_COILS:
        return ()
    return (f"{coils} coils were compressed to {MOST_COILS} virtual coils, by the slice's strongest signal",)

"""Mark of the result files that this software writes, by which the reader of scans refuses them."""

RESULT_MARK = "udig_recon_result"
"""Attribute of the HDF5 file."""

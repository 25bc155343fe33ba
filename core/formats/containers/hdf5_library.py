"""h5py on an HDF5 without holes that a file reaches: import it from here wherever strangers' files are read.

h5py 3.16.0 is the newest and brings HDF5 2.0.0, of which CVE-2025-44904, -2308, -2309, CVE-2026-26197, -26199, -17572
and -17573 are published; 2.2.0 has none of them. netCDF4's wheel brings 2.2.0 with the same binary interface
(libhdf5.so.320). Loaded first, and for all, its functions are those that h5py finds; nothing else of netCDF4 is used.
"""

import ctypes
import sys
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

NEEDED = (2, 2, 0)


def _load() -> None:
    """Load the library, where there is one and no other has been loaded by h5py before."""
    found = find_spec("netCDF4")
    if "h5py" in sys.modules or found is None or found.origin is None:
        return
    for path in sorted((Path(found.origin).parents[1] / "netcdf4.libs").glob("libhdf5-*.so*")):
        with suppress(OSError):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


_load()
with warnings.catch_warnings():
    # It was built against 2.0.0: told of what is done here on purpose.
    warnings.filterwarnings("ignore", message="h5py is running against HDF5", category=UserWarning)
    import h5py


def missing_parts() -> dict[str, str]:
    """Why this process had better read no stranger's HDF5, as a part that a sandbox lacks; empty where it may."""
    version: tuple[int, int, int] = h5py.version.hdf5_version_tuple
    return {} if version >= NEEDED else {"hdf5": f"HDF5 {h5py.version.hdf5_version} has published holes"}


__all__ = ["NEEDED", "h5py", "missing_parts"]

"""h5py on an HDF5 library without published vulnerabilities: import it from here to read files from outside.

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
    """Load netCDF4's library, unless h5py has already loaded another."""
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
    """The part `hdf5` of the sandbox, with the reason, where the library has published vulnerabilities; else empty."""
    version: tuple[int, int, int] = h5py.version.hdf5_version_tuple
    return {} if version >= NEEDED else {"hdf5": f"HDF5 {h5py.version.hdf5_version} has published holes"}


__all__ = ["NEEDED", "h5py", "missing_parts"]

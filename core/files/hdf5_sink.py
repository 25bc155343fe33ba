"""The file below an HDF5 file that is written."""

import io
from typing import Any


class Hdf5Sink(io.FileIO):
    """The file that HDF5 writes to. It keeps the first error of writing, and accepts and drops all bytes after it.

    HDF5 loses errors that occur when it writes its caches, and crashes over what such an error leaves behind.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it, or, once something has failed, nothing."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.failure is None:
                left = left[super().write(left) or 0 :]
        except OSError as error:
            self.failure = error
        return size

"""Images of one size that are kept until all are there: the first in memory, more of them in a temporary file."""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import overload

import numpy as np

from udig_recon.core.results.output_format import Image

_MEMORY_BYTES = 64 << 20


class SpooledImages(Sequence[Image]):
    """Images (y, x) of one size, one after the other. `folder` is for the temporary file."""

    def __init__(self, folder: Path) -> None:
        self._file = SpooledTemporaryFile(_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115
        self._shape: tuple[int, ...] = (0, 0)
        self._count = 0

    def append(self, image: Image) -> None:
        """Keep one more image."""
        self._shape = image.shape
        self._file.seek(0, 2)
        self._file.write(np.asarray(image, np.float32).tobytes())
        self._count += 1

    def close(self) -> None:
        """Delete the temporary file."""
        self._file.close()

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Image: ...

    @overload
    def __getitem__(self, index: slice) -> list[Image]: ...

    def __getitem__(self, index: int | slice) -> Image | list[Image]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        size = math.prod(self._shape) * np.dtype(np.float32).itemsize
        self._file.seek(index * size)
        return np.frombuffer(self._file.read(size), np.float32).reshape(self._shape)

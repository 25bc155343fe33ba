"""Partitions of a 3-D scan: k-space arrays whose first axis is kz are transformed to slices."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.formats.containers.arrays import Array, ArraySource, Region, View
from udig_recon.core.formats.kspace.content_checks import untransformed_partitions

_PIECE_BYTES = 512 << 20
"""Memory for the slices that are made at a time, of the 3 GiB that the reader has."""


class Partitions(View):
    """k-space (partitions, coils, ky, kx), as slices where its values show that it was not transformed along kz.

    The sum over partitions is taken for some slices at a time, of all partitions in each pass.
    """

    def __init__(self, source: ArraySource) -> None:
        self._source = source
        super().__init__(source.name, source.shape, np.dtype(np.complex64), source.stored_bytes)
        self._held: tuple[int, NDArray[np.complex64]] | None = None  # first of some slices, and they

    @cached_property
    def is_transformed(self) -> bool:
        """Whether the transform is applied: energy falls off from the middle, and all have the same samples."""
        energy = np.zeros(self.shape[0])
        filled: NDArray[np.bool_] = np.zeros((self.shape[0], *self.shape[2:]), bool)
        for (partitions, _, rows, columns), block in self._source.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                energy[partitions] += np.nansum(np.square(np.abs(block), dtype=np.float64), axis=(1, 2, 3))
            filled[partitions, rows, columns] |= (np.nan_to_num(block) != 0).any(axis=1)
        held = filled[filled.any(axis=(1, 2))]
        return untransformed_partitions(energy) and not (held != held[:1]).any()

    def blocks(self) -> Iterator[tuple[Region, Array]]:
        """Blocks of the file, or slice after slice."""
        if not self.is_transformed:
            yield from self._source.blocks()
            return
        whole = tuple(slice(0, side) for side in self.shape[1:])
        for index in range(self.shape[0]):
            yield (slice(index, index + 1), *whole), self._slice(index)[None]

    def read(self, indices: Sequence[int]) -> Array:
        """Slices, stacked (len(indices), coils, ky, kx)."""
        if not self.is_transformed:
            return self._source.read(indices)
        return np.stack([self._slice(index) for index in indices])

    def _slice(self, index: int) -> NDArray[np.complex64]:
        if self._held is None or not self._held[0] <= index < self._held[0] + len(self._held[1]):
            self._held = None  # its memory goes before the next takes as much
            step = max(1, _PIECE_BYTES // max(1, self.nbytes // self.shape[0]))
            first = index // step * step
            self._held = first, self._transformed(first, min(first + step, self.shape[0]))
        found: NDArray[np.complex64] = self._held[1][index - self._held[0]]
        return found

    def _transformed(self, first: int, last: int) -> NDArray[np.complex64]:
        """Slices first to last of the centred inverse Fourier transform along the first axis, orthonormal."""
        count = self.shape[0]
        places = np.arange(count) - count // 2
        waves = np.exp(2j * np.pi * np.outer(places[first:last], places) / count) / np.sqrt(count)
        slices = np.zeros((last - first, *self.shape[1:]), np.complex64)
        for region, block in self._source.blocks():
            part = waves[:, region[0]].astype(np.complex64)
            with np.errstate(over="ignore", invalid="ignore"):
                slices[:, *region[1:]] += np.tensordot(part, block.astype(np.complex64, copy=False), 1)
        return slices

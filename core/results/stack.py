"""Stack of a result's slices: its volumes, one for each contrast, phase, repetition and set, and their positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from udig_recon.core.acquisition import FRAME_COUNTERS, Frame


@dataclass(frozen=True)
class Stack:
    """Slice positions and volumes of a result. Each volume has all positions, or else there is but one."""

    positions: tuple[int, ...]  # of the slices of a volume, in the order of the result
    volumes: tuple[Frame, ...]  # the first frame of each volume, by contrast, phase, repetition and set; may be empty
    order: tuple[int, ...]  # indices of the result's slices, volume after volume

    @classmethod
    def of(cls, slice_numbers: Sequence[int], frames: Sequence[Frame]) -> "Stack":
        """The stack of slices with these numbers in their scan, and its frames where it has any.

        Frames that are not complete, with every position in every volume, stay one volume in the order of the result.
        """
        if not frames:
            return cls(tuple(slice_numbers), (), tuple(range(len(slice_numbers))))
        positions = tuple(dict.fromkeys(frame.slice for frame in frames))
        counters = sorted({_counters(frame) for frame in frames})
        places = {(_counters(frame), frame.slice): index for index, frame in enumerate(frames)}
        if len(frames) == len(positions) * len(counters) == len(places):
            order = tuple(places[each] for each in product(counters, positions))
            return cls(positions, tuple(frames[index] for index in order[:: len(positions)]), order)
        return cls(tuple(frame.slice for frame in frames), (), tuple(range(len(frames))))

    @property
    def step(self) -> int | None:
        """From one position to the next, 1 of a single one; None where positions are not evenly spaced."""
        steps = {after - before for before, after in pairwise(self.positions)} or {1}
        step = steps.pop()
        return None if steps or step == 0 else step


def _counters(frame: Frame) -> tuple[int, ...]:
    return tuple(getattr(frame, name) for name in FRAME_COUNTERS)

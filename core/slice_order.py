"""Processing order of a volume's slices: a reference slice first, then its neighbours, which start from its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from udig_recon.core.acquisition import Frame
from udig_recon.core.parameters import Parameters

BLOCK = 8
"""Slices, from the first to the last of a block, that share the reference slice in their middle."""


@dataclass(frozen=True)
class WarmStart:
    """Results of a reference slice that hold for the whole scan, so that dependent slices need not find them again."""

    slice: int  # the reference slice
    tv_weight: float  # weight of total variation

    @classmethod
    def from_check(cls, slice_: int, check: Mapping[str, Any] | None) -> "WarmStart | None":
        """From the reference slice's prior check as JSON; None where it has none, or one without the weight."""
        if check is None or "tv_weight" not in check:
            return None
        return cls(slice_, float(check["tv_weight"]))


def reference_slices(slices: Sequence[int], method: Parameters, frames: Sequence[Frame] = ()) -> dict[int, int]:
    """Reference slice of each dependent slice; empty where the method has no results to share.

    Of a scan's `frames` those of one contrast and set share a reference slice, phases and repetitions of a slice
    position as its nearest neighbours. Other contrasts and sets have noise and structures of their own.
    """
    if not method.accepts_warm_start:
        return {}
    blocks: list[list[int]] = []
    places = _places(sorted(set(slices)), frames)
    for number, (kind, place) in places.items():
        first = places[blocks[-1][0]] if blocks else None
        if first is None or kind != first[0] or place - first[1] >= BLOCK:
            blocks.append([])
        blocks[-1].append(number)
    references: dict[int, int] = {}
    for block in blocks:
        middle = block[len(block) // 2]
        references |= {number: middle for number in block if number != middle}
    return references


def _places(numbers: Sequence[int], frames: Sequence[Frame]) -> dict[int, tuple[tuple[int, int], int]]:
    """Contrast and set of each slice, and its place among the scan's slices of these; neighbours come one by one."""
    if not frames:
        return {number: ((0, 0), number) for number in numbers}

    def order(number: int) -> tuple[int, ...]:
        frame = frames[number]
        return frame.contrast, frame.set, frame.slice, frame.phase, frame.repetition

    ordered = sorted(range(len(frames)), key=order)
    wanted = set(numbers)
    return {
        number: ((frames[number].contrast, frames[number].set), place)
        for place, number in enumerate(ordered)
        if number in wanted
    }


def processing_order(slices: Sequence[int], references: Mapping[int, int]) -> list[int]:
    """Each slice once, those that depend on no other first."""
    return sorted(dict.fromkeys(slices), key=lambda number: number in references)

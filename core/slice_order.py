"""Processing order of a volume's slices: a reference slice first, then its neighbours, which start from its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def reference_slices(slices: Sequence[int], method: Parameters) -> dict[int, int]:
    """Reference slice of each dependent slice; empty where the method has no results to share."""
    if not method.accepts_warm_start:
        return {}
    blocks: list[list[int]] = []
    for number in sorted(set(slices)):
        if not blocks or number - blocks[-1][0] >= BLOCK:
            blocks.append([])
        blocks[-1].append(number)
    references: dict[int, int] = {}
    for block in blocks:
        middle = block[len(block) // 2]
        references |= {number: middle for number in block if number != middle}
    return references


def processing_order(slices: Sequence[int], references: Mapping[int, int]) -> list[int]:
    """Each slice once, those that depend on no other first."""
    return sorted(dict.fromkeys(slices), key=lambda number: number in references)

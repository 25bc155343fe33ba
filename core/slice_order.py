"""Slices of one volume help each other: what a leader found out of the scan, its neighbours need not find again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from udig_recon.core.parameters import Parameters, UDiGDIP

BLOCK = 8
"""Slices, from the first to the last of a block, that follow the one in their middle."""


@dataclass(frozen=True)
class Precedent:
    """What is a property of the scan rather than of the slice, as the leader's verdict tells it."""

    slice: int  # the leader
    tv_weight: float  # of total variation

    @classmethod
    def of(cls, leader: int, verdict: Mapping[str, Any] | None) -> "Precedent | None":
        """From the leader's verdict as JSON; None where it was not judged, or by a version that tells too little."""
        if verdict is None or "tv_weight" not in verdict:
            return None
        return cls(leader, float(verdict["tv_weight"]))


def leaders(slices: Sequence[int], method: Parameters) -> dict[int, int]:
    """The leader of each slice that follows one.

    Of a run that trusts its prior there is nothing to take over, and one that fits a network cannot be cut short.
    """
    if not isinstance(method, UDiGDIP) or method.holdout_share == 0 or method.inner_iterations > 0:
        return {}
    blocks: list[list[int]] = []
    for number in sorted(set(slices)):
        if not blocks or number - blocks[-1][0] >= BLOCK:
            blocks.append([])
        blocks[-1].append(number)
    return {number: block[len(block) // 2] for block in blocks for number in block if number != block[len(block) // 2]}


def in_order(slices: Sequence[int], led: Mapping[int, int]) -> list[int]:
    """Each slice once, those that follow none first."""
    return sorted(dict.fromkeys(slices), key=lambda number: number in led)

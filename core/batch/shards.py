"""Shards: a part of a list of work for each of several processes, such as the tasks of a job array."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from udig_recon.core.errors import ReconstructionError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `I/N`. Raises ReconstructionError unless 1 <= I <= N."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise ReconstructionError.at("--shard", text, "I/N with I from 1 to N, as 2/8")
        return cls(number, count)

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every count-th item, beginning with item `number`: the shards of a list have no item in common."""
        return list(items[self.number - 1 :: self.count])

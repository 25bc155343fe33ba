"""Deduplication of repeated events: the first one is logged, the others once a minute with their number."""

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
MINUTE = 60.0
MOST_KINDS = 10_000  # followed at once


class RepeatedEvents(NamedTuple, Generic[Kind]):
    """A number of events of one kind that were not logged one by one, and the fields that all of them share."""

    kind: Kind
    times: int
    same: Mapping[str, str]


@dataclass
class _Fold:
    until: float
    same: Mapping[str, str]
    count: int = 0


class EventDeduplicator(Generic[Kind]):
    """Counts what comes, by kind, for all threads.

    `nothing_is_lost`: while `max_kinds` kinds are followed, each event of a further kind counts as a first one.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        nothing_is_lost: bool = False,
        max_kinds: int = MOST_KINDS,
    ) -> None:
        self._clock, self._nothing_is_lost, self._max_kinds = clock, nothing_is_lost, max_kinds
        self._lock = threading.Lock()
        self._folds: dict[Kind, _Fold] = {}

    def is_first(self, kind: Kind, **what: str) -> bool:
        """Whether to log this event now: none of its kind came within the last minute. Otherwise it is counted."""
        with self._lock:
            if (fold := self._folds.get(kind)) is None:
                if len(self._folds) < self._max_kinds:
                    self._folds[kind] = _Fold(self._clock() + MINUTE, {})
                    return True
                return self._nothing_is_lost
            fold.same = what if not fold.count else dict(fold.same.items() & what.items())
            fold.count += 1
            return False

    def due(self, *, at_once: bool = False) -> list[RepeatedEvents[Kind]]:
        """Counted events to log now: those whose minute is over, or all of them `at_once`."""
        due = []
        with self._lock:
            now = self._clock()
            for kind, fold in list(self._folds.items()):
                if not at_once and now < fold.until:
                    continue
                if fold.count:
                    due.append(RepeatedEvents(kind, fold.count, fold.same))
                    self._folds[kind] = _Fold(now + MINUTE, {})
                else:
                    del self._folds[kind]
        return due

    def put_back(self, folded: RepeatedEvents[Kind]) -> None:
        """Count events again that could not be written."""
        with self._lock:
            fold = self._folds.setdefault(folded.kind, _Fold(self._clock() + MINUTE, {}))
            fold.same = dict(fold.same.items() & folded.same.items()) if fold.count else folded.same
            fold.count += folded.times

"""Progress bar over many pieces of work, with the time left as pieces of the same kind took it so far."""

import time
from collections import Counter
from collections.abc import Hashable, Iterable
from datetime import timedelta
from typing import NoReturn

from tqdm import tqdm

REFRESH_SECONDS = 0.5
"""Time between updates of the bar."""


class ProgressBar:
    """One bar over pieces of work, each of a kind; a `+` behind the time left stands for kinds that are still unknown.

    A piece begins, is reported on, and ends; or it is skipped.
    """

    def __init__(self, kinds: Iterable[Hashable], unit: str) -> None:
        self._pending = Counter(kinds)
        self._seconds: dict[Hashable, list[float]] = {}
        form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        self._bar: tqdm[NoReturn] = tqdm(total=self._pending.total(), unit=unit, bar_format=form)
        self._kind: Hashable = None
        self._place = ""
        self._began = self._shown_at = 0.0

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def begin(self, kind: Hashable, place: str) -> None:
        """A piece of this kind begins; `place` says in words which it is."""
        self._pending[kind] -= 1
        self._kind, self._place, self._began = kind, place, time.monotonic()

    def report(self, share: float) -> None:
        """Show that this share of the piece is done."""
        now = time.monotonic()
        if now > self._shown_at + REFRESH_SECONDS:
            self._show(share, (now - self._began) / max(share, 0.01))
            self._shown_at = now

    def end(self, seconds: float = 0.0) -> None:
        """The piece is done; it took so many `seconds`, or the time since it began where that is longer."""
        self._seconds.setdefault(self._kind, []).append(max(seconds, time.monotonic() - self._began))
        self._bar.update(1)

    def skip(self, kind: Hashable, count: int) -> None:
        """So many pieces of a kind need no work, or get none."""
        self._pending[kind] -= count
        self._bar.update(count)

    def write(self, line: str) -> None:
        """Write a line above the bar, on standard error."""
        self._bar.write(line, file=self._bar.fp)

    def _show(self, share: float, seconds: float) -> None:
        """Show that a share of a piece of this length is done."""
        means = {kind: sum(times) / len(times) for kind, times in self._seconds.items()}
        means.setdefault(self._kind, seconds)
        left = (1 - share) * seconds + sum(means.get(kind, 0.0) * count for kind, count in self._pending.items())
        more = "+" if any(count and kind not in means for kind, count in self._pending.items()) else ""
        self._bar.set_postfix_str(f"left {timedelta(seconds=round(left))}{more}, {self._place}: {share:.0%}")

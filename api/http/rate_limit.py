"""Rate limit (token bucket) for requests per minute of each key and each tenant, counted by each process."""

import threading
import time
import uuid
from collections.abc import Callable

MINUTE = 60.0


class RateLimiter:
    """One bucket for each, which holds a minute's worth and fills up evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[uuid.UUID | str, tuple[float, float]] = {}  # requests left, and when that was

    def wait(self, whose: uuid.UUID | str, most: int) -> float:
        """Take one request; 0 when there was one, else the seconds until there is."""
        with self._lock:
            now = self._clock()
            left, since = self._buckets.get(whose, (float(most), now))
            left = min(most, left + (now - since) * most / MINUTE)
            granted = left >= 1
            self._buckets[whose] = (left - granted, now)
            return 0.0 if granted else (1 - left) * MINUTE / most

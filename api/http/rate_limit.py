"""Rate limit (token bucket) for requests per minute of each key, tenant and address, counted by each process."""

import threading
import time
import uuid
from collections.abc import Callable

MINUTE = 60.0
MOST_BUCKETS = 10_000


class RateLimiter:
    """One bucket for each key, tenant and address. It holds the requests of a minute and refills evenly."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[uuid.UUID | str, tuple[float, float]] = {}  # requests that are available, and at which time

    def wait(self, owner: uuid.UUID | str, requests_per_minute: int) -> float:
        """Take one request of an owner; 0 when there was one, else the seconds until there is one."""
        with self._lock:
            now = self._clock()
            if len(self._buckets) >= MOST_BUCKETS:  # those that nobody asked for within a minute are full again
                self._buckets = {each: bucket for each, bucket in self._buckets.items() if now - bucket[1] < MINUTE}
            available, since = self._buckets.get(owner, (float(requests_per_minute), now))
            refilled = available + (now - since) * requests_per_minute / MINUTE
            available = min(requests_per_minute, refilled)
            if available < 1:
                self._buckets[owner] = (available, now)
                return (1 - available) * MINUTE / requests_per_minute
            self._buckets[owner] = (available - 1, now)
            return 0.0

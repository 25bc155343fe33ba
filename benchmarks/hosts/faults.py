"""Faults of a network: a host cut off, packets lost, links that are slow; and how long until all is well again."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import NamedTuple

from benchmarks.chaos.faults import Fault, Storm, Struck
from benchmarks.chaos.stack import Stack
from benchmarks.hosts.stack import HOSTS, STORE, WORKER_HOSTS, HostStack

CUT_SECONDS = (3.0, 12.0, 35.0)  # less than a lease, beyond leases, beyond every time-out of TCP
LOST_SHARE, LOSSY_SECONDS = 0.1, 20.0
SLOW_BITS_PER_SECOND, SLOW_SECONDS = 2_000_000, 20.0
GIVE_UP_SECONDS = 90.0  # to wait for a recovery


def _cut(host: str) -> Fault:
    seconds = cycle(CUT_SECONDS)

    def course(stack: Stack, _: random.Random) -> Iterator[Struck]:
        assert isinstance(stack, HostStack)
        held = tuple(each for worker, each in stack.running() if worker.name == host)
        stack.network.cut(host)
        yield Struck(next(seconds), held)
        stack.network.join(host)

    course.__doc__ = f"link of {host} down"
    return course


def lose_packets(stack: Stack, _: random.Random) -> Iterator[Struck]:
    """one packet in ten lost, on all hosts"""
    assert isinstance(stack, HostStack)
    stack.network.lose_packets(LOST_SHARE)
    yield Struck(LOSSY_SECONDS)
    stack.network.lose_packets(0)


def slow_links(stack: Stack, _: random.Random) -> Iterator[Struck]:
    """links of 2 Mbit/s with a queue of a second, of all hosts"""
    assert isinstance(stack, HostStack)
    stack.network.slow_down(SLOW_BITS_PER_SECOND)
    yield Struck(SLOW_SECONDS)
    stack.network.slow_down(0)


NETWORK_FAULTS: dict[str, Fault] = {
    **{f"cut-{host}": _cut(host) for host in (*HOSTS, STORE)},
    "lossy": lose_packets,
    "slow": slow_links,
}


class Recovery(NamedTuple):
    """One fault, and the seconds from its end until the service was whole again; None: not within the bound."""

    name: str
    lasted: float
    api: float | None  # /readyz answers 200
    workers: float | None  # every worker has renewed its row
    claimed: float | None  # the hosts that were cut off, or any, have begun a slice


class Cuts(Storm):
    """One fault after the other; the next when API and workers are back, and a slice has begun since."""

    def __init__(self, stack: HostStack, names: list[str], repeats: int, seed: int) -> None:
        super().__init__(stack, names, repeats, seed, NETWORK_FAULTS)
        self._host_stack = stack
        self.recovered: list[Recovery] = []
        self._lifted_wall = 0.0
        self._seen: dict[str, float] = {}

    def _strike(self) -> None:
        super()._strike()
        self._at_once = 1

    def _recover(self) -> None:
        for each, course in list(self._active):
            now = time.monotonic()
            if each.lifted is None:
                if now >= each.began + each.struck.seconds:
                    next(course, None)
                    each.lifted, self._lifted_wall, self._seen = time.monotonic(), time.time(), {}
                continue
            self._look(each.name, each.lifted)
            waited = time.monotonic() - each.lifted
            if len(self._seen) == 3 or waited > GIVE_UP_SECONDS:
                parts = (self._seen.get(part) for part in ("api", "workers", "claimed"))
                self.recovered.append(Recovery(each.name, each.lifted - each.began, *parts))
                each.ready = time.monotonic()
                self._active.remove((each, course))
                self._next_at = each.ready + self._rng.uniform(0.5, 2)

    def _look(self, name: str, lifted_at: float) -> None:
        """Note what has come back since the fault was lifted."""
        stack, lifted = self._host_stack, self._lifted_wall
        cut = name.removeprefix("cut-")
        hosts = (cut,) if cut in WORKER_HOSTS else WORKER_HOSTS
        looks: dict[str, Callable[[], bool]] = {
            "api": lambda: stack.readiness.ready_since_probe_at > lifted_at,
            "workers": lambda: set(stack.workers_back(lifted)) == set(WORKER_HOSTS),
            "claimed": lambda: stack.has_claimed(hosts, lifted),
        }
        for part, look in looks.items():
            if part not in self._seen and look():
                self._seen[part] = time.time() - lifted

"""Memory limits: total memory, the share of a process, and which process the kernel ends first (OOM score)."""

import os
import resource
from contextlib import suppress
from pathlib import Path

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
KEPT_SHARE = 0.1  # of the machine, for everything that is no worker
WORKER_SCORE, API_SCORE = 600, 200  # of the kernel's list; a database has 0


def total_bytes(limits: tuple[Path, ...] = CGROUP_LIMITS) -> int:
    """Memory that this process can have: the machine's, or its container's where that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [physical]
    for path in limits:
        with suppress(OSError, ValueError):
            found.append(int(path.read_text()))  # `max`: no limit
    return min(found)


def for_workers() -> int:
    """Memory that all workers of this machine, or container, may have together."""
    return int(total_bytes() * (1 - KEPT_SHARE))


def limit(size: int) -> None:
    """Limit the data of this process: a larger allocation fails instead of the process being killed."""
    with suppress(ValueError, OSError):
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        size = size if most == resource.RLIM_INFINITY else min(size, most)
        resource.setrlimit(resource.RLIMIT_DATA, (size, most))


def go_before_others(score: int) -> None:
    """Have the kernel end this process before those with a lower score when memory runs out (Linux)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score))

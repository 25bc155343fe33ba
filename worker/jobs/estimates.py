"""Cost estimates of jobs when they are submitted: the engine's counts, scaled by what the workers took before."""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from udig_recon.core.acquisition import frames_of
from udig_recon.core.cost.estimate import PriorSize, Size, Task
from udig_recon.core.errors import TooCostly
from udig_recon.core.parameters import Parameters
from udig_recon.core.priors.card import Card
from udig_recon.core.slice_order import reference_slices
from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.database.tables import Job, Scan, Status, Worker
from udig_recon.worker.runtime.health import was_seen_recently

LOOKED_AT = 300  # jobs that ended last
LEAST_JOBS = 3  # of a method, to go by them
LEAST_SECONDS = 2.0  # of a job: shorter ones tell of their start alone
BOUNDS = (1 / 64, 8.0)  # of the factor: a GPU is faster, a busy machine slower
KEPT_SECONDS = 60.0


class Factors:
    """Ratio of the workers' time to the engine's estimate, for each method.

    The median over the last succeeded jobs of a method, read again every minute; for a method without any, over all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, float] = {}
        self._others, self._until = 1.0, 0.0

    def of(self, session: Session, method: str) -> float:
        """Factor of one method; 1 while too little is known."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._until = time.monotonic() + KEPT_SECONDS
                self._look(session)
            return self._found.get(method, self._others)

    def _look(self, session: Session) -> None:
        ratios: defaultdict[str, list[float]] = defaultdict(list)
        query = (
            select(Job.parameters["method"].as_string(), Job.seconds / Job.basis_seconds)
            .where(Job.status == Status.SUCCEEDED, Job.basis_seconds >= LEAST_SECONDS)
            .order_by(Job.id.desc())
            .limit(LOOKED_AT)
        )
        for method, ratio in session.execute(query):
            ratios[method].append(ratio)
        self._found = {method: _median(each) for method, each in ratios.items() if len(each) >= LEAST_JOBS}
        everything = [ratio for each in ratios.values() for ratio in each]
        self._others = _median(everything) if len(everything) >= LEAST_JOBS else 1.0


def _median(ratios: Sequence[float]) -> float:
    least, most = BOUNDS
    return min(max(statistics.median(ratios), least), most)


def task_of(
    scan: Scan,
    method: Parameters,
    slices: Sequence[int],
    *,
    seeds: int = 1,
    outputs: Sequence[str] = ("h5",),
    card: Card | None = None,
    factor: float = 1.0,
) -> Task:
    """The task to estimate for a job on a scan; `card` is the card of its prior."""
    return Task(
        method,
        Size.of(scan.header),
        slices=len(slices),
        followers=len(reference_slices(slices, method, frames_of(scan.header))),
        seeds=seeds,
        outputs=tuple(outputs),
        prior=PriorSize.of(card),
        factor=factor,
    )


def columns(task: Task, max_seconds: float | None = None) -> dict[str, Any]:
    """Columns of a job's row for its estimate, with the time limited to what the job may take."""
    estimate = task.estimate
    seconds = estimate.seconds if max_seconds is None else min(estimate.seconds, max_seconds)
    return {
        "estimated_seconds": seconds,
        "basis_seconds": estimate.seconds / task.factor,
        "memory_bytes": estimate.memory_bytes,
        "result_bytes": estimate.result_bytes,
    }


def check(task: Task, limits: TenantLimits, memory: int | None, *, confirmed: bool = False, where: str = "") -> None:
    """Raise TooCostly where one job takes more seconds or memory than it may. `memory` is that of the largest worker.

    `confirmed` means that the client set a time after which the job ends, finished or not. `where` is the prefix of the
    fields in the error.
    """
    estimate = task.estimate
    if (most := limits.max_job_seconds) is not None and estimate.seconds > most and not confirmed:
        _refuse_seconds(task, estimate.seconds, most, where)
    rooms = [
        (most, name)
        for most, name in (
            (limits.max_job_memory_bytes, "max_job_memory_bytes"),
            (memory, "the largest worker's memory"),
        )
        if most is not None
    ]
    for most, name in sorted(rooms):
        if estimate.memory_bytes > most:
            _refuse_memory(task, estimate.memory_bytes, most, name, where)


def _refuse_seconds(task: Task, seconds: float, most: int, where: str) -> None:
    fitting = []
    if task.seeds > 1 and (number := task.most_seeds(most)):
        fitting.append(f"{number} seed{'s' if number > 1 else ''}")
    if task.slices > 1 and (number := task.most_slices(most)):
        fitting.append(f"{number} slice{'s' if number > 1 else ''}")
    would = f"at most {' or '.join(fitting)} would fit" if fitting else "fewer iterations would fit"
    field = "seeds" if task.seeds > 1 and fitting else "slices" if fitting else "parameters"
    raise TooCostly(
        f"the job is estimated to take {seconds:.0f} s of one worker, and may take {most} s (max_job_seconds): "
        f"{would}; or set max_seconds, after which it ends with its checkpoint kept",
        field=f"{where}{field}",
        found=f"{seconds:.0f} s",
        expected=f"at most {most} s",
    )


def _refuse_memory(task: Task, needed: int, most: int, name: str, where: str) -> None:
    samples = task.most_samples(most)
    would = f": samples {samples} would fit" if samples else ""
    raise TooCostly(
        f"a slice is estimated to need {needed} bytes of memory, and may need {most} ({name}){would}",
        field=f"{where}parameters{'.samples' if samples else ''}",
        found=f"{needed} bytes",
        expected=f"at most {most} bytes",
    )


def largest_memory(session: Session, alive_seconds: float) -> int | None:
    """Memory of the largest live worker in bytes; None where none has reported it."""
    return session.scalar(select(func.max(Worker.memory_bytes)).where(was_seen_recently(alive_seconds)))

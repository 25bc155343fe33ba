"""Campaign: posts files in order by several clients, and checks the service's state between batches."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from tqdm import tqdm

from benchmarks.fuzz.drafts import FileMaker, Spoilt
from benchmarks.fuzz.mutators import MUTATORS, Traps
from benchmarks.fuzz.posting import ACCEPTED, REFUSED, Client, Outcome
from benchmarks.fuzz.target import MemoryWatch, Target

CLIENTS = 4
BATCH = 200
MOST_API_GROWTH_MIB = 64.0
MOST_CHILD_MIB = 3072.0  # what its limit leaves it: the global heap of an HDF5 file may say any size


@dataclass
class Row:
    """What became of one mutator's files."""

    files: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one file."""
        self.files += 1
        self.statuses[outcome.status] = self.statuses.get(outcome.status, 0) + 1
        self.slowest = max(self.slowest, outcome.seconds)
        if outcome.job is not None:
            self.jobs[outcome.job] = self.jobs.get(outcome.job, 0) + 1


@dataclass
class Report:
    """What became of all files, and what went wrong."""

    rows: dict[str, Row] = field(default_factory=lambda: {mutator.name: Row() for mutator in MUTATORS})
    total: Row = field(default_factory=Row)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Markdown, one row for each mutator."""
        titles = ["mutator", "files", "accepted", *map(str, REFUSED), "jobs done", "jobs refused", "slowest s"]
        lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
        for name, row in [*self.rows.items(), ("**all**", self.total)]:
            accepted = sum(row.statuses.get(status, 0) for status in ACCEPTED)
            refused = [row.statuses.get(status, 0) for status in REFUSED]
            cells = [name, row.files, accepted, *refused, row.jobs.get("succeeded", 0), row.jobs.get("failed", 0)]
            lines.append("| " + " | ".join(map(str, cells)) + f" | {row.slowest:.2f} |")
        return "\n".join(lines)


class Campaign:
    """Posts so many different files to the target."""

    def __init__(self, target: Target, folder: Path, traps: Traps, *, seed: int, files: int, jobs: int) -> None:
        self._target, self._traps = target, traps
        self._maker = FileMaker(folder, traps, seed)
        self._files, self._jobs_each = files, -(-jobs // len(MUTATORS))
        self._clients: SimpleQueue[Client] = SimpleQueue()
        self.report = Report()

    def run(self, failures: Path) -> Report:
        """Post them all; files that show something wrong are kept in the folder `failures`."""
        began = time.monotonic()
        before = self._target.files(), self._target.rows()
        clients = [Client(self._target) for _ in range(CLIENTS)]
        for client in clients:
            self._clients.put(client)
        with (
            MemoryWatch(self._target) as memory,
            ThreadPoolExecutor(CLIENTS + 1) as pool,
            tqdm(total=self._files, unit="file", disable=None) as bar,
        ):
            batches = self._batches()
            batch = next(batches, [])
            while batch:
                following = pool.submit(next, batches, [])
                for outcome in pool.map(self._judge, batch):
                    self._settle(outcome, failures)
                    bar.update()
                numbers = f"files {batch[0].number} to {batch[-1].number}"
                self.report.violations += [f"{numbers}: {wrong}" for wrong in self._changes(*before)]
                batch = following.result()
        for client in clients:
            client.close()
        self._conclude(memory, time.monotonic() - began)
        return self.report

    def _batches(self) -> Iterator[list[Spoilt]]:
        """Different files, in batches, until there are enough."""
        seen: set[int] = set()
        batch: list[Spoilt] = []
        for number in itertools.count():
            if len(seen) == self._files:
                break
            file = self._maker.make(number)
            if hash(file.content) not in seen:
                seen.add(hash(file.content))
                batch.append(file)
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _judge(self, file: Spoilt) -> Outcome:
        client = self._clients.get()
        try:
            done = sum(self.report.rows[file.mutator.name].jobs.values())
            return client.judge(file, with_job=done < self._jobs_each)
        finally:
            self._clients.put(client)

    def _settle(self, outcome: Outcome, failures: Path) -> None:
        file = outcome.file
        self.report.rows[file.mutator.name].add(outcome)
        self.report.total.add(outcome)
        if not outcome.violations:
            return
        failures.mkdir(exist_ok=True)
        path = failures / f"{file.number}-{file.mutator.name.replace(': ', '-').replace(' ', '-')}"
        path.write_bytes(file.content)
        self.report.violations += [f"file {file.number} ({file.mutator.name}): {wrong}" for wrong in outcome.violations]

    def _changes(self, files: set[Path], rows: int) -> list[str]:
        """What is not as it was before any file was posted."""
        found = [f"{path.name} was left behind" for path in sorted(self._target.files() - files)]
        if (now := self._target.rows()) != rows:
            found.append(f"{now - rows} rows were left behind")
        return found + self._traps.sprung() + self._target.dead()

    def _conclude(self, memory: MemoryWatch, seconds: float) -> None:
        report = self.report
        report.violations += [*self._target.leaks(), *self._target.tracebacks(), *self._target.dead()]
        before, most = memory.api_before_mib, memory.api_mib()
        if most - before > MOST_API_GROWTH_MIB:
            report.violations.append(f"the API grew by {most - before:.0f} MiB")
        if memory.children_mib > MOST_CHILD_MIB:
            report.violations.append(f"a process that looks into files grew to {memory.children_mib:.0f} MiB")
        report.notes += [
            f"{report.total.files} different files in {seconds:.0f} s, {CLIENTS} clients at once",
            f"memory MiB, at most: API {most:.0f} ({before:.0f} before), a process that looks into a file "
            f"{memory.children_mib:.0f}, worker {memory.workers_mib():.0f}",
        ]

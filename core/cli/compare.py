"""`udig compare`: compare methods on scans with references, with a progress bar and the remaining time."""

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from tqdm import tqdm

from udig_recon.core.cli.arguments import refuse
from udig_recon.core.comparison.figures import noise_sweep
from udig_recon.core.comparison.line_plots import require_matplotlib
from udig_recon.core.comparison.plan import Run, Setting, find_scans, plan_runs
from udig_recon.core.comparison.report import write_figures, write_tables
from udig_recon.core.comparison.running import Computer, FinishedRun
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.iterates import Iterate

REFRESH_SECONDS = 0.5
"""Time between updates of the progress bar."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig compare`; no slices: all of every scan."""

    folder: Path
    output: Path
    methods: Sequence[str]
    seeds: int
    slices: Sequence[int]
    figures: Sequence[str]
    noise_updates: int
    device: str
    threads: int
    priors: Path | None


def run(options: Options, arguments: Sequence[str]) -> int:
    """Compare; 0 when all is compared, 2 when the input cannot be used, 130 when it was interrupted.

    The report names the command by its `arguments` as they were typed.
    """
    try:
        _compare(options, shlex.join(["udig", "compare", *arguments]))
    except ReconstructionError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename or options.folder}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130
    return 0


def _compare(options: Options, command: str) -> None:
    if options.seeds < 1:
        raise ReconstructionError(f"--seeds {options.seeds}: expected 1 or more")
    settings = [Setting.parse(text) for text in options.methods]
    if {"iterations", "noise"} & set(options.figures):
        require_matplotlib()
    scans, skipped = find_scans(options.folder, options.slices)
    runs = plan_runs(settings, scans, options.seeds, options.priors)
    sweep: list[Run] = []
    if "noise" in options.figures:
        sweep = plan_runs(noise_sweep(options.noise_updates), scans, 1, options.priors)
    torch.set_num_threads(max(1, options.threads))
    computer = Computer(select_device(options.device), options.priors)
    one_run_of_each_kind = {_kind(run): run for run in runs}
    for run in one_run_of_each_kind.values():
        computer.prior_of(run)  # a prior that cannot be loaded is reported before anything is computed
    options.output.mkdir(parents=True, exist_ok=True)
    for line in skipped:
        sys.stderr.write(f"skipped: {line}\n")
    made_by = {"command": f"`{command}`", **_machine(computer.device), "torch": str(torch.__version__)}
    finished: list[FinishedRun] = []
    probes: list[FinishedRun] = []
    with _ProgressBar([*runs, *sweep]) as bar:
        try:
            for run in runs:
                finished.append(bar.finish(run, computer, options.output))
                write_tables(finished, made_by, options.output)
            for run in sweep:
                probes.append(bar.finish(run, computer, options.output))
        finally:
            write_figures(finished, probes, options.figures, options.output)
            write_tables(finished, made_by, options.output)
    sys.stderr.write(f"written to {options.output}\n")


def _machine(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    alone = device.type == "cpu" and threads == 1
    return {
        "machine": f"{platform.system()}, {name}, {os.cpu_count()} cores, {threads} threads",
        "time": "seconds of the processor" if alone else "seconds of the clock",
    }


class _ProgressBar:
    """Progress bar over runs; the remaining time is estimated from runs of the same method and modality."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._pending = [_kind(run) for run in runs]
        self._seconds: dict[tuple[str, str], list[float]] = {}
        form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        self._bar = tqdm(total=len(runs), unit="run", bar_format=form)
        self._shown_at = 0.0

    def __enter__(self) -> "_ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def finish(self, run: Run, computer: Computer, output: Path) -> FinishedRun:
        """Compute a run, or read its stored result, and show the progress."""
        began = time.monotonic()
        self._pending.remove(_kind(run))

        def report(iterate: Iterate) -> None:
            now = time.monotonic()
            if now > self._shown_at + REFRESH_SECONDS:
                share = iterate.step / max(1, iterate.steps)
                self._show(run, share, (now - began) / max(share, 0.01))
                self._shown_at = now

        finished = computer.finish(run, output, report)
        seconds = max(finished.result.fields["seconds"], time.monotonic() - began)
        self._seconds.setdefault(_kind(run), []).append(seconds)
        self._bar.update(1)
        return finished

    def _show(self, run: Run, share: float, seconds: float) -> None:
        """Show that a share of a run of this length is done; a + marks methods whose time is still unknown."""
        means = {kind: sum(times) / len(times) for kind, times in self._seconds.items()}
        means.setdefault(_kind(run), seconds)
        left = (1 - share) * seconds + sum(means.get(kind, 0.0) for kind in self._pending)
        more = "+" if any(kind not in means for kind in self._pending) else ""
        place = f"{run.label}, {run.scan.name} {run.slice}"
        self._bar.set_postfix_str(f"left {timedelta(seconds=round(left))}{more}, {place}: {share:.0%}")


def _kind(run: Run) -> tuple[str, str]:
    return run.label, run.scan.header.modality

"""`udig compare`: compare methods on scans, with a progress bar and the remaining time."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from udig_recon.core.batch.shards import Shard
from udig_recon.core.batch.volumes import check_labels
from udig_recon.core.cli.arguments import refuse
from udig_recon.core.cli.failures import describe_failure
from udig_recon.core.cli.progress import ProgressBar
from udig_recon.core.comparison.figures import noise_sweep
from udig_recon.core.comparison.line_plots import require_matplotlib
from udig_recon.core.comparison.plan import Run, Scan, find_scans, plan_runs, runs_of_shard
from udig_recon.core.comparison.report import write_figures, write_tables
from udig_recon.core.comparison.running import Computer, FinishedRun, read_finished
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.iterates import Iterate
from udig_recon.core.parameters.setting import parse_settings


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig compare`; no slices: all of every scan."""

    scans: Sequence[Path]
    output: Path
    methods: Sequence[str]
    seeds: int
    slices: Sequence[int]
    figures: Sequence[str]
    noise_updates: int
    shard: Shard
    report: bool
    device: str
    threads: int
    priors: Path | None


def run(options: Options, arguments: Sequence[str]) -> int:
    """Compare; 0 when all is compared, 2 when the input cannot be used, 130 when it was interrupted.

    The report names the command by its `arguments` as they were typed.
    """
    try:
        _compare(options, shlex.join(["udig", "compare", *arguments]))
    except (ReconstructionError, OSError) as error:
        return refuse(describe_failure(error, options.output))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130
    return 0


def _compare(options: Options, command: str) -> None:
    if options.seeds < 1:
        raise ReconstructionError(f"--seeds {options.seeds}: expected 1 or more")
    if options.report and options.shard.count > 1:
        raise ReconstructionError.at("--report", "--shard too", "one of them: a report is of all shards")
    settings = parse_settings(options.methods)
    check_labels(settings)
    if {"iterations", "noise"} & set(options.figures):
        require_matplotlib()
    scans, skipped = find_scans(options.scans, options.slices, options.output)
    runs = plan_runs(settings, scans, options.seeds, options.priors)
    sweep: list[Run] = []
    if "noise" in options.figures:
        sweep = _plan_sweep(scans, options)
    for line in skipped:
        sys.stderr.write(f"skipped: {line}\n")
    if options.report:
        _report(options, command, runs, sweep)
    else:
        _compute(options, command, runs, sweep)


def _plan_sweep(scans: Sequence[Scan], options: Options) -> list[Run]:
    known = [scan for scan in scans if scan.header.has_reference]
    if not known:
        raise ReconstructionError("--figures noise needs a scan with an array reference, found none")
    return plan_runs(noise_sweep(options.noise_updates), known, 1, options.priors)


def _report(options: Options, command: str, runs: Sequence[Run], sweep: Sequence[Run]) -> None:
    """Write tables and figures of what is there."""
    finished = [each for run in runs if (each := read_finished(run, options.output)) is not None]
    probes = [each for run in sweep if (each := read_finished(run, options.output)) is not None]
    if not finished:
        raise ReconstructionError(f"{options.output}: found no result of these methods and scans")
    made_by = {"command": f"`{command}`", "runs": f"{len(finished)} of {len(runs)} were there"}
    write_figures(finished, probes, options.figures, options.output)
    write_tables(finished, made_by, options.output)
    sys.stderr.write(f"{made_by['runs']}; written to {options.output}\n")


def _compute(options: Options, command: str, runs: Sequence[Run], sweep: Sequence[Run]) -> None:
    """Compute what is missing; tables and figures follow, unless the runs are those of one shard."""
    torch.set_num_threads(max(1, options.threads))
    computer = Computer(select_device(options.device), options.priors)
    one_run_of_each_kind = {_kind(run): run for run in runs}
    for run in one_run_of_each_kind.values():
        computer.prior_of(run)  # a prior that cannot be loaded is reported before anything is computed
    options.output.mkdir(parents=True, exist_ok=True)
    if options.shard.count > 1:
        wanted = runs_of_shard([*runs, *sweep], options.shard)
        with ProgressBar(map(_kind, wanted), unit="run") as bar:
            for run in wanted:
                _finish(run, computer, options.output, bar)
        sys.stderr.write(f"written to {options.output}; --report in place of --shard writes tables and figures\n")
        return
    made_by = {"command": f"`{command}`", **_machine(computer.device), "torch": str(torch.__version__)}
    finished: list[FinishedRun] = []
    probes: list[FinishedRun] = []
    with ProgressBar(map(_kind, [*runs, *sweep]), unit="run") as bar:
        try:
            for run in runs:
                finished.append(_finish(run, computer, options.output, bar))
                write_tables(finished, made_by, options.output)
            for run in sweep:
                probes.append(_finish(run, computer, options.output, bar))
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


def _finish(run: Run, computer: Computer, output: Path, bar: ProgressBar) -> FinishedRun:
    """Compute a run, or read its stored result, and show the progress."""
    bar.begin(_kind(run), f"{run.label}, {run.scan.name} {run.slice}")

    def report(iterate: Iterate) -> None:
        bar.report(iterate.step / max(1, iterate.steps))

    finished = computer.finish(run, output, report)
    bar.end(finished.result.fields["seconds"])
    return finished


def _kind(run: Run) -> tuple[str, str]:
    return run.label, run.scan.header.modality

"""Batch jobs of SLURM by its own commands `squeue` and `sbatch`: those of a name, and new ones."""

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from udig_recon.core.cli import UDIG

COMMAND_SECONDS = 30.0  # within which the controller must answer
FAILED = frozenset({"BOOT_FAIL", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"})
ENDED = FAILED | {"CANCELLED", "COMPLETED", "PREEMPTED", "REVOKED", "TIMEOUT"}
"""States of jobs that hold no place any more. A state that is not known counts as one that does."""
SCRIPT = """#!/bin/sh
#SBATCH --signal=B:TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
{idle}# The worker takes the place of this shell, and with it the signal that comes before the time limit.
exec {command}
"""


class SlurmError(Exception):
    """A command of SLURM failed or did not answer; the message says which and why."""


@dataclass(frozen=True)
class BatchJob:
    """A batch job: its number and state, as `squeue` spells them."""

    number: str
    state: str

    @property
    def holds_place(self) -> bool:
        """Whether it waits, runs or is about to end."""
        return self.state not in ENDED


@dataclass(frozen=True)
class BatchJobs:
    """The batch jobs of a user that bear a name."""

    name: str
    user: str
    options: Sequence[str] = ()  # of sbatch, after those of the script, over which they win
    processes: str = "1"  # worker processes of each job
    idle_seconds: float | None = None  # after which they end; None: what the environment says

    def listed(self) -> list[BatchJob]:
        """Those that SLURM knows, ended ones for some minutes too. Raises SlurmError."""
        which = ("--states=all", f"--name={self.name}", f"--user={self.user}")
        lines = _run(["squeue", "--noheader", "--format=%A %T", *which]).splitlines()
        return [BatchJob(*line.split(maxsplit=1)) for line in lines if line.strip()]

    def submit(self) -> str:
        """The number of a new job. Raises SlurmError, and then there may be one all the same."""
        command = ["sbatch", "--parsable", f"--job-name={self.name}", *self.options]
        return _run(command, self.script()).strip().partition(";")[0]

    def script(self) -> str:
        """The batch script."""
        idle = "" if self.idle_seconds is None else f"export IDLE_SECONDS={self.idle_seconds:g}\n"
        return SCRIPT.format(idle=idle, command=shlex.join([*UDIG, "worker", "--processes", self.processes]))


def _run(command: Sequence[str], given: str = "") -> str:
    """What a command prints. It runs in a session of its own: Ctrl-C must not stop it half-way. Raises SlurmError."""
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=COMMAND_SECONDS, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: no answer within {COMMAND_SECONDS:g} s") from None
    except OSError as error:
        raise SlurmError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise SlurmError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit status {done.returncode}'}")
    return done.stdout

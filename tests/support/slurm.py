"""SLURM on this machine alone: its authentication, its controller and one node with two processors."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=15
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def program(name: str) -> str | None:
    """Where a program of SLURM is: daemons are in folders that are on the PATH of root alone."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def is_installed() -> bool:
    """Whether all of SLURM is on this machine."""
    return all(program(name) for name in PROGRAMS)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A cluster of one node until the block ends; what the environment of SLURM's commands needs."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            port=_free_port(),
            node_port=_free_port(),
            user=getpass.getuser(),
            folder=folder,
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
    munge |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    commands = (
        ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in munge.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, *arguments in commands:
            with (folder / f"{name}.out").open("wb") as output:
                path = program(name)
                assert path is not None
                started.append(
                    subprocess.Popen([path, *arguments], env=environment, stdout=output, stderr=output, cwd=folder)
                )
        _until_idle(environment)
        yield {"SLURM_CONF": str(configuration)}
    finally:
        _end_jobs(environment)
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    while True:
        shown = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True, check=False
        )
        if shown.stdout.strip() == "idle":
            return
        assert time.monotonic() < deadline, f"the node does not come up: {shown.stdout} {shown.stderr}"
        time.sleep(0.1)


def _end_jobs(environment: dict[str, str]) -> None:
    """End every batch job, whose processes would outlive the daemons."""
    user = f"--user={getpass.getuser()}"
    deadline = time.monotonic() + 30
    subprocess.run(["scancel", user], env=environment, capture_output=True, check=False, timeout=30)
    while time.monotonic() < deadline:
        left = subprocess.run(
            ["squeue", "--noheader", user], env=environment, capture_output=True, text=True, check=False, timeout=30
        )
        if left.returncode or not left.stdout.strip():
            return
        time.sleep(0.2)

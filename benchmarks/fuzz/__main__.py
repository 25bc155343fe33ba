"""Fuzz campaign: `python -m benchmarks.fuzz --files 20000 --seed 1` prints a table; 1 for any wrong answer."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.fuzz.campaign import Campaign, Report
from benchmarks.fuzz.mutators import Traps
from benchmarks.fuzz.target import Target
from benchmarks.load.upload_memory import ROOT, api_process
from udig_recon.core.cli import UDIG

FAILURES = Path("campaign-failures")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="how many different files")
    parser.add_argument("--seed", type=int, default=1, help="same seed: same files")
    parser.add_argument(
        "--jobs", type=int, default=600, help="of the accepted files reconstruct about so many, at most"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="udig-campaign-") as name:
        report = fired_upon(Path(name), asked.files, asked.seed, asked.jobs)
    print(report.table(), *report.notes, *report.violations, sep="\n")
    return int(bool(report.violations))


def fired_upon(folder: Path, files: int, seed: int, jobs: int) -> Report:
    """The campaign against an API and a worker of its own."""
    data, logs = folder / "data", [folder / "api.log", folder / "worker.log"]
    traps = Traps(folder)
    with api_process(data, logs[0]) as api, logs[1].open("w") as sink:
        environment = {**api.environment, "OMP_NUM_THREADS": "1"}
        worker = subprocess.Popen([*UDIG, "worker"], cwd=ROOT, env=environment, stderr=sink)
        try:
            target = Target(api.port, api.pid, [worker.pid], data, api.environment["DATABASE_URL"], logs)
            return Campaign(target, folder, traps, seed=seed, files=files, jobs=jobs).run(FAILURES)
        finally:
            worker.terminate()
            worker.wait()


if __name__ == "__main__":
    sys.exit(main())

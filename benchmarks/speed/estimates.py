"""Estimated against measured cost of small runs: `python -m benchmarks.speed.estimates` prints a line for each method.

Seconds are of one core, without reading and set-up. Runs may stop early; estimates are of whole runs.
"""

import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.data.tiny_scans import ct, mri, write_hdf5
from udig_recon.core import formats
from udig_recon.core.cost.counter import CostCounter
from udig_recon.core.cost.estimate import Size, seconds_of
from udig_recon.core.cost.evaluations import of_run
from udig_recon.core.parameters import complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct

MATRIX = 64
METHODS = (
    {"method": "udig_dip", "outer_iterations": 20},
    {"method": "dps", "steps": 10, "patience": 1.0},
    {"method": "dds", "steps": 10, "patience": 1.0},
    {"method": "daps", "steps": 10, "patience": 1.0},
    {"method": "dip", "iterations": 40, "patience": 1.0},
    {"method": "tv"},
    {"method": "cg_sense"},
    {"method": "sirt", "patience": 1.0, "discrepancy": 0.0},
)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        for name, parts in (("mri", mri(slices=1, size=MATRIX)), ("ct", ct(slices=1, size=MATRIX))):
            path = write_hdf5(Path(folder) / name, **parts)
            size, problem = Size.of(asdict(formats.probe(path))), slice_problem(formats.read(path), 0, device)
            for parameters in METHODS:
                method = parse(parameters)
                if size.modality not in method.modalities:
                    continue
                method = complete(method, size.modality)
                counter = CostCounter(device)
                for _ in counter.measure_time(reconstruct(problem, method, seed=0)):
                    pass
                told = seconds_of(of_run(method, size.coils), size)
                sys.stdout.write(
                    f"{name:4}{method.method:12}estimated {told:8.2f} s, took {counter.seconds:8.2f} s, "
                    f"ratio {told / counter.seconds:5.2f}\n"
                )


if __name__ == "__main__":
    main()

"""What keeping a checkpoint costs, by method: `python -m benchmarks.speed.checkpoint_cost`. Prints a Markdown table.

The largest state of a short run of a 256 x 256 slice (8 coils, or 30 views) is kept as a worker keeps it. Making it
holds up the computation; a thread beside it hashes and writes. Together they take at most a hundredth of the time
between two checkpoints, which a worker makes longer than CHECKPOINT_SECONDS if need be.
"""

import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.speed.presets import ct_scan, mri_scan
from udig_recon.core.acquisition import Modality
from udig_recon.core.iterates import State
from udig_recon.core.parameters import complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.worker.runtime.checkpoints import Checkpoints
from udig_recon.worker.runtime.slice_run import pause_after
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

CPU = torch.device("cpu")
SIZE, COILS, VIEWS = 256, 8, 30
ROUNDS = 5
SHORT: list[tuple[dict[str, Any], Modality]] = [
    ({"method": "udig_dip", "outer_iterations": 4}, Modality.MRI),
    ({"method": "udig_dip", "outer_iterations": 4}, Modality.CT),
    ({"method": "udig_dip", "preset": "paper", "outer_iterations": 2, "prior_calls": 1}, Modality.MRI),
    ({"method": "dip", "iterations": 3}, Modality.MRI),
    ({"method": "tv", "iterations": 2, "weight": 0.01}, Modality.MRI),
    ({"method": "l1_wavelet", "iterations": 2, "weight": 0.01}, Modality.MRI),
    ({"method": "cg_sense", "iterations": 3}, Modality.MRI),
    ({"method": "sirt", "iterations": 3}, Modality.CT),
]


def largest_state(parameters: dict[str, Any], modality: Modality) -> State:
    """Of all points that the run could be resumed from, the one with the most tensors in it."""
    scan = mri_scan(SIZE, COILS) if modality is Modality.MRI else ct_scan(SIZE, VIEWS)
    method = complete(parse(parameters), modality)
    states = (it.state() for it in reconstruct(slice_problem(scan, 0, CPU), method, seed=0) if it.state is not None)
    return max(states, key=_numbers)


def _numbers(part: Any) -> int:
    if isinstance(part, torch.Tensor):
        return part.numel()
    parts = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
    return sum(map(_numbers, parts))


def row(parameters: dict[str, Any], modality: Modality) -> str:
    state, period = largest_state(parameters, modality), Settings.model_fields["checkpoint_seconds"].default
    making, cost, wall = [], [], []
    with tempfile.TemporaryDirectory(prefix="udig-checkpoint-") as folder:
        storage, job_id = LocalStorage(Path(folder)), uuid.UUID(int=0)
        storage.create_group(keys.job(job_id))
        kept = Checkpoints(storage, job_id, 0, "benchmark", lambda: True)
        for step in range(ROUNDS):
            began = time.perf_counter()
            kept.save(step, {"state": state, "step": step, "seconds": 0.0, "curves": {}})
            making.append(time.perf_counter() - began)
            kept.wait()
            wall.append(time.perf_counter() - began)
            cost.append(kept.seconds)
        size = max(path.stat().st_size for path in Path(folder).iterdir())
        kept.clear()
    share = median(cost) / pause_after(median(cost), period)
    name = " ".join(filter(None, (parameters["method"], parameters.get("preset"), modality.value.upper())))
    cells = (f"{size / (1 << 20):.1f}", f"{median(making):.3f}", f"{median(cost):.3f}", f"{median(wall):.3f}")
    return f"| {name} | {' | '.join(cells)} | {share:.2%} |"


def main() -> None:
    print("| method | MiB | held up s | processor s | on the disk after s | share of run time |")
    print("|---|---|---|---|---|---|")
    for parameters, modality in SHORT:
        print(row(parameters, modality), flush=True)


if __name__ == "__main__":
    main()

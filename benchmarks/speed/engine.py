"""CPU seconds of one thread by stage, of this tree and of an earlier commit: `python -m benchmarks.speed.engine`.

One brain slice (15 coils, 4x) and one abdomen (30 views) of `benchmarks.data.cases` by `standard` and `preview`, from
the acquisition to the rating, in turns of both trees. Needs the images, astra-toolbox, and git for the earlier commit.
Prints Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("coil maps", "joint maps", "norm of A", "total variation", "prior", "CG to the data", "OOD score", "rating")
INSIDE = "A^H A in all"
TIMED = {
    "coil maps": ("problem:estimate",),
    "joint maps": ("problem:with_joint_maps",),
    "norm of A": ("operators.mri:operator_norm", "operators.ct:operator_norm"),
    "total variation": (
        "algorithms.udig_dip_guarded:total_variation",
        "algorithms.tv:total_variation",
        "reconstruct:total_variation",
    ),
    "prior": ("priors.edm:EDMPrior.forward",),
    "CG to the data": ("algorithms.udig_dip:consistent",),
    "OOD score": ("priors.edm:EDMPrior.encoder_features",),
    "rating": ("reconstruct:assess",),
    INSIDE: ("operators.mri:MultiCoilMRI._normal", "operators.ct:XRayTransform._normal"),
}
"""What each stage's functions are called; one that a commit has not is left out."""
CASES = {"MRI": ("BRAIN", 80, "4x"), "CT": ("BODY", 10, "30 views")}


class Clock:
    """Processor seconds of functions and generators, and how often they were entered."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(TIMED, 0.0)
        self.calls = dict.fromkeys(TIMED, 0)

    def wrap(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self.calls[stage] += 1
            result = self.spend(stage, lambda: function(*arguments, **named))
            return self.steps(stage, result) if isinstance(result, Iterator) else result

        return timed

    def steps(self, stage: str, source: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while (value := self.spend(stage, lambda: next(source, end))) is not end:
            yield value

    def spend(self, stage: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        try:
            return work()
        finally:
            self.seconds[stage] += time.process_time() - began


def measure(folder: Path, modality: str, preset: str) -> dict[str, Any]:
    """Seconds by stage, calls and PSNR of one slice by the engine that is imported."""
    from benchmarks.data import cases
    from udig_recon.core import formats  # noqa: F401 -- what every command has imported
    from udig_recon.core.device import select_device
    from udig_recon.core.parameters import UDiGDIP, complete
    from udig_recon.core.problem import slice_problem
    from udig_recon.core.reconstruct import finish, reconstruct_slice

    device, clock = select_device("cpu"), Clock()
    for stage, names in TIMED.items():
        for name in names:
            with suppress(ImportError, AttributeError):
                module, _, path = name.partition(":")
                holder: Any = import_module(f"udig_recon.core.{module}")
                *outer, last = path.split(".")
                for each in outer:
                    holder = getattr(holder, each)
                setattr(holder, last, clock.wrap(stage, getattr(holder, last)))
    source, index, sampling = CASES[modality]
    found = cases.cases(folder, getattr(cases, source))
    (case,) = (each for each in found if (each.index, each.sampling) == (index, sampling))
    scan = case.scan
    method = complete(UDiGDIP(preset=preset), getattr(cases, source).modality)
    began = time.process_time()
    problem = slice_problem(scan, 0, device, fit_maps=method.fits_maps, preprocessing=method.preprocessing)
    finished = finish(reconstruct_slice(problem, method, seed=0))
    total = time.process_time() - began
    return {"total": total, "seconds": clock.seconds, "calls": clock.calls, "psnr": finished.metrics["psnr"]}


def run(tree: Path, folder: Path, modality: str, preset: str) -> dict[str, Any]:
    """`measure` in a process of its own, by the engine of a tree."""
    # The allocator as it is by default: what a tree does about it is part of the measurement.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "src")])}
    command = [sys.executable, "-P", __file__, "--images", str(folder), "--one", modality, preset]
    ended = subprocess.run(command, env=environment, cwd=tree, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--before", help="commit to compare with")
    parser.add_argument("--presets", nargs="+", default=["standard", "preview"])
    parser.add_argument("--modalities", nargs="+", default=list(CASES))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.images.resolve()
    if options.one:
        print(json.dumps(measure(folder, *options.one)))
        return
    with tempfile.TemporaryDirectory() as name:
        trees = {"now": ROOT}
        if options.before:
            packed = subprocess.run(["git", "archive", options.before], cwd=ROOT, stdout=subprocess.PIPE, check=True)
            with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
                archive.extractall(name, filter="data")
            trees = {options.before: Path(name), **trees}
        found = {
            (f"{modality} {preset}", tree): run(trees[tree], folder, modality, preset)
            for modality in options.modalities
            for preset in options.presets
            for tree in trees
        }
    print("| slice | tree | PSNR dB | CPU s | " + " | ".join(STAGES) + " | the rest |")
    print("|---" * (len(STAGES) + 5) + "|")
    for (which, tree), each in found.items():
        # Lanczos' A^H A is within the norm, an OOD score within the trial: no stage is within another.
        stages = [each["seconds"][stage] for stage in STAGES]
        cells = [f"{each['psnr']:.2f}", *(f"{value:.2f}" for value in [each["total"], *stages])]
        print("|", " | ".join([which, tree, *cells, f"{each['total'] - sum(stages):.2f}"]), "|")
    print("\n| slice | tree | A^H A | A^H A s | prior calls |\n|---|---|---|---|---|")
    for (which, tree), each in found.items():
        seconds, calls = each["seconds"], each["calls"]
        print(f"| {which} | {tree} | {calls[INSIDE]} | {seconds[INSIDE]:.2f} | {calls['prior']} |")


if __name__ == "__main__":
    main()

"""Time of A^H A of non-Cartesian MRI beside the Cartesian one's. Prints Markdown.

`python -m benchmarks.speed.noncartesian`: 256 x 256, 8 coils, 64 golden-angle spokes of 512 samples, one thread, best
and median of 25 in turns.
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from udig_recon.core.operators import LinearOperator, MultiCoilMRI, NonCartesianMRI
from udig_recon.core.simulation import birdcage_maps, radial_spokes

SIDE, COILS, SPOKES, TIMES = 256, 8, 64, 25


def main() -> None:
    torch.set_num_threads(1)
    maps = torch.from_numpy(birdcage_maps(COILS, (SIDE, SIDE)))
    mask = torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0)) > 0.5
    began = time.perf_counter()
    radial = NonCartesianMRI(maps, radial_spokes((SIDE, SIDE), SPOKES))
    built = time.perf_counter() - began
    operators: dict[str, LinearOperator] = {"Cartesian": MultiCoilMRI(maps, mask), "radial": radial}
    x = torch.randn(1, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    steps: dict[str, Callable[[], object]] = {
        **{f"{name}, A^H A": lambda A=operator: A.normal(x) for name, operator in operators.items()},
        "radial, A": lambda: radial.forward(x),
        "radial, kernel of a part": lambda: radial.restrict(radial.measured),
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(TIMES):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            spent[name].append(1e3 * (time.perf_counter() - started))
    print("| step | best ms | median ms | times Cartesian, best |\n|---|---|---|---|")
    least = min(spent["Cartesian, A^H A"])
    for name, values in spent.items():
        print(f"| {name} | {min(values):.1f} | {np.median(values):.1f} | {min(values) / least:.1f} |")
    print(f"| radial, built | {1e3 * built:.0f} | | |")


if __name__ == "__main__":
    main()

"""Non-Cartesian MRI against BART with the same objective and weight, on a phantom. Prints Markdown.

`python -m benchmarks.accuracy.noncartesian_same_weight`: 96 x 96, 6 coils with their maps, noise of 1.5 % of the
maximum; 32 golden-angle spokes, 6 spirals at twofold undersampling. BART gets our weights of samples (`pics -p`), the
weight of the regulariser in its unit (`pics -w 1`) and enough iterations for each to converge. Wavelets lie on one grid
(`pics -n`): at random places the two would average over different ones. For them the edge of the image does not count,
where BART's are not orthonormal.
"""

import os
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data.tiny_scans import phantom
from benchmarks.peers.bart import bart_along
from udig_recon.core import metrics
from udig_recon.core.acquisition import NonCartesianAcquisition
from udig_recon.core.inputs import Inputs
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.operators import NonCartesianMRI
from udig_recon.core.parameters import complete, parse
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.simulation import birdcage_maps, radial_spokes, simulate_non_cartesian, spiral_interleaves

SIDE = 96
EDGE = 16
WEIGHT = 3e-3
RIDGE = 1e-2
CASES = {
    "cg_sense": ({"iterations": 60, "ridge": RIDGE, "holdout_share": 0}, ("-l2", "-r{ridge}", "-i60")),
    "tv": ({"weight": WEIGHT, "iterations": 1000}, ("-R", "T:3:0:{weight}", "-u0.1", "-C30", "-i1000")),
    "l1_wavelet": (
        {"weight": WEIGHT, "iterations": 200, "vanishing_moments": 2},
        ("-e", "-n", "-R", "W:3:0:{weight}", "-i400"),
    ),
}


def scan_along(trajectory: NDArray[np.float32]) -> NonCartesianAcquisition:
    image = phantom(1, SIDE)[0].astype(np.complex64)
    maps = birdcage_maps(6, image.shape)
    return simulate_non_cartesian(image, maps, trajectory, np.random.default_rng(0), noise_level=0.015, with_maps=True)


def by_bart(scan: NonCartesianAcquisition, problem: SliceProblem, options: tuple[str, ...]) -> NDArray[np.float32]:
    """|x| of min |W^(1/2) (N S x - k)|^2 / 2 + weight R(x); ours has A = scale W^(1/2) N S."""
    A, y = problem.operator, problem.measurements
    assert isinstance(A, NonCartesianMRI)
    assert scan.sensitivity_maps is not None
    unit = intensity_scale(Inputs(y, A).cg_estimate())
    given = [option.format(weight=WEIGHT / A.scale**2, ridge=RIDGE / A.scale**2) for option in options]
    image, _ = bart_along(
        *("pics", "-S", "-d0", "-w1", "-t", "trajectory", "-p", "weights", *given),
        trajectory=A.trajectory,
        kspace=(scan.kspace[0] / unit).astype(np.complex64),
        maps=scan.sensitivity_maps[0],
        weights=A.weights.numpy(),
    )
    return np.asarray(np.abs(image[0]) * unit, np.float32)


def on_one_grid(extent: int, size: tuple[int, ...], **_: Any) -> torch.Tensor:
    """In place of `torch.randint`: wavelets lie where BART's do."""
    return torch.full(size, extent - 2, dtype=torch.int64)


def main() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    square = (SIDE, SIDE)
    trajectories = {"32 spokes": radial_spokes(square, 32), "6 spirals": spiral_interleaves(square, 6, 2.0)}
    print("| method | case | ours dB | BART dB | difference | ours against BART dB |\n|---|---|---|---|---|---|")
    for case, trajectory in trajectories.items():
        scan = scan_along(trajectory)
        assert scan.reference is not None
        problem = slice_problem(scan, 0, torch.device("cpu"))
        for method, (parameters, options) in CASES.items():
            asked = complete(parse({"method": method, **parameters}), problem.modality)
            with mock.patch.object(torch, "randint", on_one_grid):
                *_, last = reconstruct(problem, asked, seed=0)
            mine, peer = problem.magnitude(last.image), by_bart(scan, problem, options)
            counted = slice(EDGE, SIDE - EDGE) if method == "l1_wavelet" else slice(None)
            mine, peer, truth = (image[counted, counted] for image in (mine, peer, scan.reference[0]))
            levels = [metrics.psnr(image, truth) for image in (mine, peer)]
            cells = f"{levels[0]:.2f} | {levels[1]:.2f} | {levels[0] - levels[1]:+.2f} | {metrics.psnr(mine, peer):.1f}"
            print(f"| `{method}` | {case} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

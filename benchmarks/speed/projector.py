"""CT forward plus adjoint: the sparse strip pair against a rotation loop and, where it is installed, ASTRA.

`python -m benchmarks.speed.projector` prints Markdown rows; the least of several runs counts.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from udig_recon.core.operators import XRayTransform

SIZE, DETECTORS = 256, 363


def fastest(run: Callable[[], object], repetitions: int) -> float:
    """Milliseconds of the fastest of several runs, after one to warm up."""
    run()
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1e3 * min(seconds)


def rotation_loop(image: Tensor, angles: np.ndarray) -> Tensor:
    """Sinogram (B, 1, views, DETECTORS) as column sums of the image turned by bilinear interpolation, view by view."""
    margin = (DETECTORS - SIZE) // 2
    padded = F.pad(image, (margin, DETECTORS - SIZE - margin) * 2)
    views = []
    for theta in angles:
        turn = torch.tensor(
            [[np.cos(theta), np.sin(theta), 0], [-np.sin(theta), np.cos(theta), 0]], dtype=torch.float32
        )
        grid = F.affine_grid(turn.expand(len(image), 2, 3), list(padded.shape), align_corners=False)
        views.append(F.grid_sample(padded, grid, align_corners=False).sum(dim=2))
    return torch.stack(views, dim=2)


def forward_and_adjoint(forward: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """A^T A x by automatic differentiation, as a gradient step costs it."""
    x = image.clone().requires_grad_(True)
    sinogram = forward(x)
    (gradient,) = torch.autograd.grad(sinogram, x, sinogram.detach())
    return gradient


def by_astra(image: np.ndarray, angles: np.ndarray, kernel: str) -> Callable[[], object]:
    import astra

    geometry = astra.create_proj_geom("parallel", 1.0, DETECTORS, angles)
    projector = astra.create_projector(kernel, geometry, astra.create_vol_geom(SIZE, SIZE))
    operator = astra.OpTomo(projector)
    return lambda: operator.T @ (operator @ image.ravel())


def rows(views: int, repetitions: int) -> list[tuple[str, float]]:
    angles = np.arange(views) * np.pi / views
    image = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    operator = XRayTransform(angles, SIZE, DETECTORS, 1.0, 1.0)
    build = 1e3 * (time.perf_counter() - started)

    def loop(x: Tensor) -> Tensor:
        return rotation_loop(x, angles)

    measured = [
        ("ours: building, once per geometry, norm included", build),
        ("ours", fastest(lambda: forward_and_adjoint(operator.forward, image), repetitions)),
        ("rotation loop (grid_sample)", fastest(lambda: forward_and_adjoint(loop, image), max(3, repetitions // 5))),
    ]
    if find_spec("astra") is not None:
        measured += [
            (f"ASTRA, {kernel}", fastest(by_astra(image.numpy(), angles, kernel), max(3, repetitions // 5)))
            for kernel in ("line", "strip")
        ]
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=30)
    repetitions = parser.parse_args().repetitions
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(f"| forward + adjoint, {SIZE} x {SIZE}, {DETECTORS} detectors | views | ms | times ours |\n|---|---|---|---|")
    for views in (18, 30, 180):
        measured = rows(views, repetitions)
        ours = dict(measured)["ours"]
        for name, milliseconds in measured:
            print(f"| {name} | {views} | {milliseconds:.1f} | {milliseconds / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""Seconds per update and per slice of each preset: `python -m benchmarks.speed.presets`. Prints Markdown rows."""

import argparse
import time

import numpy as np
import torch
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from udig_recon.core.acquisition import CTAcquisition, MRIAcquisition
from udig_recon.core.parameters import UDiGDIP, complete
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, simulate_ct, simulate_mri

MEASURED_UPDATES = 4


def mri_scan(size: int, coils: int) -> MRIAcquisition:
    image = resize(shepp_logan_phantom(), (size, size)).astype(np.complex64)
    rng = np.random.default_rng(0)
    mask = cartesian_lines((size, size), 4, 0.08, rng)
    return simulate_mri(image, birdcage_maps(coils, (size, size)), mask, rng, noise_level=0.005)


def ct_scan(size: int, views: int) -> CTAcquisition:
    image = 0.03 * resize(shepp_logan_phantom(), (size, size)).astype(np.float32)
    return simulate_ct(image, views, 1e6, np.random.default_rng(0))


def measure(problem: SliceProblem, preset: str) -> tuple[float, float, bool]:
    """Seconds per outer iteration, seconds per slice, and whether the latter is extrapolated from a few iterations."""
    full = complete(UDiGDIP(preset=preset), problem.modality)
    extrapolated = preset == "paper"
    method = full.model_copy(update={"outer_iterations": MEASURED_UPDATES}) if extrapolated else full
    started = time.perf_counter()
    for _ in reconstruct(problem, method, seed=0):
        pass
    seconds = time.perf_counter() - started
    per_update = seconds / method.outer_iterations
    return per_update, per_update * full.outer_iterations, extrapolated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    scans: dict[str, MRIAcquisition | CTAcquisition] = {
        "MRI 256 x 256, 8 coils, 4x": mri_scan(256, 8),
        "MRI 320 x 320, 15 coils, 4x": mri_scan(320, 15),
        "CT 256 x 256, 30 views": ct_scan(256, 30),
        "CT 256 x 256, 180 views": ct_scan(256, 180),
    }
    print(f"device {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| scan | preset | problem s | s per outer iteration | s per slice |\n|---|---|---|---|---|")
    for name, scan in scans.items():
        started = time.perf_counter()
        problem = slice_problem(scan, 0, device)
        building = time.perf_counter() - started
        for preset in ("preview", "standard", "paper"):
            per_update, per_slice, extrapolated = measure(problem, preset)
            total = f"{per_slice:.0f}{' (extrapolated)' * extrapolated}"
            print(f"| {name} | {preset} | {building:.1f} | {per_update:.3f} | {total} |", flush=True)


if __name__ == "__main__":
    main()

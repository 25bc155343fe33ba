"""Coil compression: PSNR lost and time saved by the share of energy that compressed coils keep. Prints Markdown.

`python -m benchmarks.accuracy.coil_compression brain.nii.gz [--coils 8 15 32] [--method tv --weight 0.002]`: the middle
slice at 256 x 256 through loops on a ring, at four and eight times fewer lines, with noise of 0.5 % of the maximum that
neighbouring coils share by a third. Maps are estimated. One thread; seconds are of the preparation of the slice (coil
maps) and of the reconstruction.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.classical import SIZE, slice_of
from udig_recon.core import metrics
from udig_recon.core.acquisition import Modality, MRIAcquisition
from udig_recon.core.parameters import Parameters, complete, parse
from udig_recon.core.preprocessing.coils import compress_coils
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, simulate_mri

ENERGIES = (1.0, 0.9999, 0.999, 0.995, 0.98)
ACCELERATIONS = {4: 0.08, 8: 0.05}
NOISE, SHARED = 0.005, 1 / 3


def scan_of(path: Path, coils: int, acceleration: int) -> MRIAcquisition:
    image = slice_of(path, None)
    rng = np.random.default_rng(0)
    mask = cartesian_lines((SIZE, SIZE), acceleration, ACCELERATIONS[acceleration], rng)
    scan = simulate_mri(image.astype(np.complex64), birdcage_maps(coils, (SIZE, SIZE)), mask, rng)
    noise = rng.standard_normal((2, coils, SIZE, SIZE))
    noise = (noise[0] + 1j * noise[1]) * NOISE * np.abs(image).max() / np.sqrt(2)
    distance = np.abs(np.subtract.outer(np.arange(coils), np.arange(coils)))
    correlation = np.where(np.minimum(distance, coils - distance) == 1, SHARED, np.eye(coils))
    kspace = scan.kspace + np.einsum("cd,dyx->cyx", np.linalg.cholesky(correlation), noise) * mask
    return MRIAcquisition(
        kspace=kspace.astype(np.complex64), mask=mask, reference=scan.reference, recon_size=scan.recon_size
    )


def row(scan: MRIAcquisition, acceleration: int, method: Parameters) -> tuple[list[str], float, float]:
    assert scan.reference is not None
    coils = scan.kspace.shape[1]
    kept = compress_coils(scan, 0, method.preprocessing).kspace.shape[1]
    started = time.perf_counter()
    problem = slice_problem(scan, 0, torch.device("cpu"), fit_maps=method.fits_maps, preprocessing=method.preprocessing)
    prepared = time.perf_counter() - started
    *_, last = reconstruct(problem, method, seed=0)
    seconds = time.perf_counter() - started
    quality = metrics.psnr(problem.magnitude(last.image), scan.reference[0])
    cells = [f"{coils}", f"{acceleration}x", f"{method.coil_energy:g}", f"{kept}", f"{prepared:.1f}"]
    return cells, seconds, quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mri", type=Path, help="volume (.nii.gz)")
    parser.add_argument("--coils", type=int, nargs="+", default=[8, 15, 32])
    parser.add_argument("--method", default="tv")
    parser.add_argument("--weight", type=float, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {"method": options.method} | ({} if options.weight is None else {"weight": options.weight})
    print("| coils | lines | energy | kept | s, maps | s | dB | dB lost | times faster |\n" + "|---" * 9 + "|")
    for coils in options.coils:
        for acceleration in ACCELERATIONS:
            scan = scan_of(options.mri, coils, acceleration)
            whole: tuple[float, float] | None = None
            for energy in ENERGIES:
                method = complete(parse({**given, "coil_energy": energy}), Modality.MRI)
                cells, seconds, quality = row(scan, acceleration, method)
                whole = whole or (seconds, quality)
                cells += [f"{seconds:.1f}", f"{quality:.2f}", f"{whole[1] - quality:.2f}", f"{whole[0] / seconds:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

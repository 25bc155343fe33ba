"""Total variation and wavelets on real images: best weight by the truth, weight found, and BART. Prints Markdown.

`python -m benchmarks.accuracy.classical [--mri brain.nii.gz [--slices N ...]] [--ct body.nii.gz]`: MRI through 15 coils
at four times fewer lines with noise of 0.5 % of the maximum, CT (Hounsfield units, 512 pixels) in 18 and 30 views of
10^6 photons at half as many pixels. One thread. dB is PSNR.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.bart import bart
from udig_recon.core import metrics
from udig_recon.core.acquisition import Acquisition, Modality, MRIAcquisition
from udig_recon.core.parameters import complete, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.simulation import WATER_1_PER_MM, birdcage_maps, cartesian_lines, simulate_ct, simulate_mri

SIZE = 256
COILS = 15
PHOTONS = 1e6
WEIGHTS = [float(weight) for weight in np.geomspace(1e-4, 1e-2, 9)]
BART_WEIGHTS = [float(weight) for weight in np.geomspace(5e-4, 5e-2, 9)]
"""Of its own scale of the image."""
PEERS = {"tv": "T:3:0", "l1_wavelet": "W:3:0"}

Run = Callable[[float | None], tuple[NDArray[np.float32], float]]


def slice_of(path: Path, index: int | None) -> NDArray[np.float32]:
    """A slice of a volume, the middle one by default, cropped or padded to SIZE x SIZE."""
    volume = nibabel.load(path)
    index = volume.shape[2] // 2 if index is None else index
    image = np.asarray(volume.dataobj[:, :, index], np.float32)
    image = image[tuple(slice(max(size - SIZE, 0) // 2, max(size - SIZE, 0) // 2 + SIZE) for size in image.shape)]
    missing = [SIZE - size for size in image.shape]
    padded: NDArray[np.float32] = np.pad(image, [(gap // 2, gap - gap // 2) for gap in missing])
    return padded


def mri_scan(path: Path, index: int | None) -> MRIAcquisition:
    image = slice_of(path, index)
    rng = np.random.default_rng(0)
    mask = cartesian_lines(image.shape, 4, 0.08, rng)
    maps = birdcage_maps(COILS, image.shape)
    return simulate_mri(image.astype(np.complex64), maps, mask, rng, noise_level=0.005, with_maps=True)


def ct_scan(path: Path, views: int, **fan: Any) -> Acquisition:
    volume = nibabel.load(path)
    hounsfield = np.asarray(volume.dataobj[:, :, volume.shape[2] // 2], np.float32)
    image = np.clip(WATER_1_PER_MM * (1 + hounsfield / 1000), 0, None)
    offset = np.arange(len(image)) - (len(image) - 1) / 2
    image[np.hypot(offset[:, None], offset) > len(image) / 2 - 2] = 0
    pixel = 2 * float(volume.header.get_zooms()[0])
    return simulate_ct(image, views, PHOTONS, np.random.default_rng(0), pixel_size_mm=pixel, supersampling=2, **fan)


def ours(scan: Acquisition, method: str, parameters: dict[str, Any], weight: float | None) -> tuple[Any, float]:
    problem = slice_problem(scan, 0, torch.device("cpu"))
    given = {"method": method, **parameters, **({} if weight is None else {"weight": weight})}
    parameters = complete(parse(given), problem.modality)
    started = time.perf_counter()
    *_, last = reconstruct(problem, parameters, seed=0)
    return problem.magnitude(last.image), time.perf_counter() - started


def by_bart(scan: MRIAcquisition, method: str, weight: float | None) -> tuple[Any, float]:
    assert scan.sensitivity_maps is not None
    command = ("pics", "-S", "-d0", "-i150", "-R", f"{PEERS[method]}:{weight:g}")
    image, seconds = bart(*command, kspace=scan.kspace[0], maps=scan.sensitivity_maps[0])
    return np.abs(image[0]), seconds


def best(run: Run, weights: list[float], reference: NDArray[np.float32]) -> str:
    found = [
        (metrics.psnr(image, reference), seconds, weight) for weight in weights for image, seconds in [run(weight)]
    ]
    quality, seconds, weight = max(found)
    return f"{quality:.2f} at {weight:.2g} | {seconds:.1f}"


def row(case: str, scan: Acquisition, method: str, parameters: dict[str, Any]) -> str:
    assert scan.reference is not None
    run = partial(ours, scan, method, parameters)
    image, seconds = run(None)
    cells = [f"{best(run, WEIGHTS, scan.reference[0])} | {metrics.psnr(image, scan.reference[0]):.2f} | {seconds:.1f}"]
    if isinstance(scan, MRIAcquisition) and shutil.which("bart"):
        cells.append(best(partial(by_bart, scan, method), BART_WEIGHTS, scan.reference[0]))
    else:
        cells.append("| ")
    name = ", ".join([f"`{method}`", *(f"{name} {value}" for name, value in parameters.items())])
    return f"| {name} | {case} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mri", type=Path, help="volume (.nii.gz)")
    parser.add_argument("--slices", type=int, nargs="+", help="of the MRI volume; the middle one if not given")
    parser.add_argument("--ct", type=Path, help="CT in Hounsfield units (.nii.gz)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    print(
        "| method | case | dB, best weight | s | dB, weight found | s | dB, BART's best weight | s |\n|---|"
        + "---|" * 7
    )
    for index in (options.slices or [None]) if options.mri else []:
        scan = mri_scan(options.mri, index)
        for method, parameters in (("tv", {}), ("l1_wavelet", {}), ("l1_wavelet", {"vanishing_moments": 2})):
            print(row(f"{Modality.MRI.upper()}, slice {index}", scan, method, parameters), flush=True)
    for views in (18, 30) if options.ct else ():
        print(row(f"CT, {views} views", ct_scan(options.ct, views), "tv", {}), flush=True)


if __name__ == "__main__":
    main()

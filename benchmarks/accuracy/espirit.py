"""ESPIRiT maps against BART's `ecalib`: seconds, and likeness inside the object. Prints Markdown rows.

`python -m benchmarks.accuracy.espirit [kspace.npy ...]`: k-space (coils, ky, kx) with the origin in its centre;
without files a simulated 15-coil scan of 320 x 320. Needs `bart` on the PATH for the comparison.
"""

import argparse
import os
import platform
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from benchmarks.peers.bart import bart
from udig_recon.core.coils.espirit import calibration_size, espirit
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, simulate_mri

REPETITIONS = 5


def simulated() -> NDArray[np.complex64]:
    shape, rng = (320, 320), np.random.default_rng(0)
    image = resize(shepp_logan_phantom(), shape).astype(np.complex64)
    mask = cartesian_lines(shape, 4, 0.08, rng)
    return simulate_mri(image, birdcage_maps(15, shape), mask, rng, noise_level=0.005).kspace[0]


def by_bart(kspace: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], float]:
    """Maps (coils, y, x) and the seconds of the fastest run."""
    runs = [bart("ecalib", "-m1", kspace=kspace) for _ in range(REPETITIONS)]
    return runs[-1][0], min(seconds for _, seconds in runs)


def by_us(kspace: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], float]:
    seconds = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        maps = espirit(torch.from_numpy(kspace), calibration_size(np.abs(kspace).sum(axis=0) > 0))
        seconds.append(time.perf_counter() - started)
    return maps.numpy(), min(seconds)


def likeness(a: NDArray[np.complex64], b: NDArray[np.complex64], kspace: NDArray[np.complex64]) -> float:
    """Mean |<a, b>| over the pixels whose zero-filled root-sum-of-squares is above a tenth of the largest."""
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, (1, 2))), (1, 2))
    bright = np.linalg.norm(images, axis=0)
    both = (bright > 0.1 * bright.max()) & (np.linalg.norm(a, axis=0) > 0.5) & (np.linalg.norm(b, axis=0) > 0.5)
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return float((np.abs(np.sum(a.conj() * b, axis=0))[both] / lengths[both]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kspace", type=Path, nargs="*")
    scans = {path.name: np.load(path) for path in parser.parse_args().kspace} or {"simulated": simulated()}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| scan | coils, ky, kx | ours s | bart s | ours / bart | likeness |\n|---|---|---|---|---|---|")
    for name, kspace in scans.items():
        ours, seconds = by_us(kspace)
        row = f"| {name} | {kspace.shape} | {seconds:.2f} |"
        if shutil.which("bart") is None:
            print(f"{row} bart is not installed | | |")
            continue
        theirs, peer = by_bart(kspace)
        print(f"{row} {peer:.2f} | {seconds / peer:.2f} | {likeness(ours, theirs, kspace):.5f} |")


if __name__ == "__main__":
    main()

"""Project a real CT slice by ASTRA on a fine grid, reconstruct it by our FBP at half as many pixels, and compare.

`python -m benchmarks.accuracy.astra_slice ct.nii.gz [--slice N]` prints Markdown rows: shift, rotation, magnification
and brightness of the reconstruction against the slice. The volume is in Hounsfield units. Needs astra-toolbox.
"""

import argparse
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.astra_reference import project
from udig_recon.core.operators import XRayTransform
from udig_recon.core.simulation import WATER_1_PER_MM

VIEWS = 720


def attenuation(path: Path, index: int | None) -> tuple[NDArray[np.float32], float]:
    """One slice (y, x) in 1/mm, zero outside the inscribed circle, and its pixel size in mm."""
    volume = nibabel.load(path)
    index = volume.shape[2] // 2 if index is None else index
    hounsfield = np.asarray(volume.dataobj[:, :, index], np.float32)
    size = min(hounsfield.shape) // 2 * 2
    image = np.clip(WATER_1_PER_MM * (1 + hounsfield[:size, :size] / 1000), 0, None)
    offset = np.arange(size) - (size - 1) / 2
    image[np.hypot(offset[:, None], offset) > size / 2 - 2] = 0
    return np.ascontiguousarray(image), float(volume.header.get_zooms()[0])


def halved(image: NDArray[np.float32]) -> NDArray[np.float32]:
    size = len(image) // 2
    return image.reshape(size, 2, size, 2).mean(axis=(1, 3))


def misalignment(found: NDArray[np.float64], wanted: NDArray[np.float64]) -> dict[str, float]:
    """Shift (pixels), rotation (degrees), magnification and gain, by least squares on the wanted image's gradient."""
    down, right = np.gradient(wanted)
    offset = np.arange(len(wanted)) - (len(wanted) - 1) / 2
    y, x = offset[:, None], offset
    basis = (-down, -right, -(y * down + x * right), -(y * right - x * down), wanted)
    (dy, dx, growth, turn, gain), *_ = np.linalg.lstsq(
        np.stack([column.ravel() for column in basis], axis=1), found.ravel(), rcond=None
    )
    return {
        "shift y, pixels": dy / gain,
        "shift x, pixels": dx / gain,
        "magnification": 1 + growth / gain,
        "rotation, degrees": np.degrees(turn / gain),
        "gain": gain,
    }


def report(path: Path, index: int | None) -> dict[str, float]:
    fine, pixel = attenuation(path, index)
    wanted = halved(fine)
    detectors = int(np.ceil(np.sqrt(2) * len(wanted))) | 1
    angles = np.arange(VIEWS) * np.pi / VIEWS
    sinogram = project(fine, angles, detectors, pixel, 2 * pixel)
    operator = XRayTransform(angles, len(wanted), detectors, 2 * pixel, 2 * pixel)
    y = torch.from_numpy(sinogram.astype(np.float32))[None, None] * operator.scale
    found = operator.direct(y)[0, 0].numpy()
    body = wanted > 0.5 * WATER_1_PER_MM
    likeness = {
        f"{turns * 90} degrees{', flipped' if flip else ''}": np.corrcoef(
            np.rot90(found[:, ::-1] if flip else found, turns).ravel(), wanted.ravel()
        )[0, 1]
        for turns in range(4)
        for flip in (False, True)
    }
    return {
        **misalignment(found.astype(np.float64), wanted.astype(np.float64)),
        "mean attenuation in the body, ratio": float(found[body].mean() / wanted[body].mean()),
        "correlation as it is": likeness.pop("0 degrees"),
        "correlation turned or flipped, at most": max(likeness.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path, nargs="+", help="CT in Hounsfield units (.nii.gz)")
    parser.add_argument("--slice", type=int, help="index along the last axis; the middle one if not given")
    options = parser.parse_args()
    reports = {path.name: report(path, options.slice) for path in options.volume}
    print(f"| 512 to 256 pixels, {VIEWS} views | {' | '.join(reports)} |\n|---|{'---|' * len(reports)}")
    for name in next(iter(reports.values())):
        print(f"| {name} | {' | '.join(f'{values[name]:.4f}' for values in reports.values())} |")


if __name__ == "__main__":
    main()

"""Classical methods against a peer with the same objective and weight, on real slices. Prints Markdown.

`python -m benchmarks.accuracy.same_weight --mri brain.nii.gz --ct body.nii.gz`: scans as in
`benchmarks.accuracy.classical`, one thread. BART's weights are ours in its unit (`pics -w 1`). Iterations are equal
except for total variation: by its default penalty BART's image is 1.5 dB from its own limit after 200. ASTRA runs on
the CPU (astra-toolbox).
"""

import argparse
import os
from pathlib import Path
from typing import Any

import astra
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.classical import ct_scan, mri_scan, ours
from benchmarks.peers.bart import bart
from udig_recon.core import metrics
from udig_recon.core.acquisition import CTAcquisition, MRIAcquisition
from udig_recon.core.inputs import Inputs
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.problem import slice_problem

CPU = torch.device("cpu")
WEIGHT = 3e-3
ITERATIONS = 200
CG_ITERATIONS = 12
SIRT_ITERATIONS = 200
FAN: dict[str, Any] = {"geometry": "fan_flat", "source_origin_mm": 570.0, "source_detector_mm": 1040.0}
CASES: dict[str, tuple[dict[str, float], tuple[str, ...]]] = {
    "cg_sense": ({"iterations": CG_ITERATIONS, "holdout_share": 0}, ("-l2", "-r0", f"-i{CG_ITERATIONS}")),
    "tv": ({"weight": WEIGHT, "iterations": ITERATIONS}, ("-R", "T:3:0:{weight}", "-u0.01", "-C10", "-i300")),
    "l1_wavelet": (
        {"weight": WEIGHT, "iterations": ITERATIONS, "vanishing_moments": 2},
        ("-R", "W:3:0:{weight}", f"-i{ITERATIONS}"),
    ),
}


def by_bart(scan: MRIAcquisition, options: tuple[str, ...]) -> NDArray[np.float32]:
    """|x| of min |A x - y|^2 / 2 + weight R(x), the physical A; ours is scale A, and y is divided by the unit."""
    problem = slice_problem(scan, 0, CPU)
    A, y = problem.operator, problem.measurements
    scale = intensity_scale(Inputs(y, A).cg_estimate())
    given = [option.format(weight=WEIGHT / A.scale**2) for option in options]
    assert scan.sensitivity_maps is not None
    kspace = (scan.kspace[0] / scale).astype(np.complex64)
    image, _ = bart("pics", "-S", "-d0", "-w1", *given, kspace=kspace, maps=scan.sensitivity_maps[0])
    return np.abs(image[0]) * np.float32(scale)


def by_astra(scan: CTAcquisition) -> NDArray[np.float32]:
    """Non-negative SIRT of slice 0 by ASTRA's strip kernel, of parallel beams or of flat fans."""
    half = scan.image_size * scan.pixel_size_mm / 2
    volume = astra.create_vol_geom(scan.image_size, scan.image_size, -half, half, -half, half)
    beams = ("parallel", scan.detector_spacing_mm, scan.sinogram.shape[-1], scan.angles)
    kernel = "strip"
    if scan.source_origin_mm is not None and scan.source_detector_mm is not None:
        beyond = scan.source_detector_mm - scan.source_origin_mm
        beams, kernel = ("fanflat", *beams[1:], scan.source_origin_mm, beyond), "strip_fanflat"
    rays = astra.create_proj_geom(*beams)
    settings = astra.astra_dict("SIRT")
    settings["ProjectorId"] = astra.create_projector(kernel, rays, volume)
    settings["ProjectionDataId"] = astra.data2d.create("-sino", rays, scan.sinogram[0])
    settings["ReconstructionDataId"] = astra.data2d.create("-vol", volume)
    settings["option"] = {"MinConstraint": 0.0}
    astra.algorithm.run(astra.algorithm.create(settings), SIRT_ITERATIONS)
    image: NDArray[np.float32] = astra.data2d.get(settings["ReconstructionDataId"])
    return image


def row(name: str, case: str, mine: NDArray[np.float32], peer: NDArray[np.float32], truth: NDArray[np.float32]) -> str:
    levels = [metrics.psnr(image, truth) for image in (mine, peer)]
    cells = f"{levels[0]:.2f} | {levels[1]:.2f} | {levels[0] - levels[1]:+.2f} | {metrics.psnr(mine, peer):.1f}"
    return f"| `{name}` | {case} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mri", type=Path, required=True, help="volume (.nii.gz)")
    parser.add_argument("--slice", type=int, default=80, help="of the MRI volume")
    parser.add_argument("--ct", type=Path, required=True, help="CT in Hounsfield units (.nii.gz)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    print("| method | case | ours dB | peer dB | difference | ours against peer dB |\n|---|---|---|---|---|---|")
    scan = mri_scan(options.mri, options.slice)
    assert scan.reference is not None
    for method, (parameters, given) in CASES.items():
        mine, _ = ours(scan, method, parameters, None)
        print(
            row(method, f"4x, slice {options.slice}, BART", mine, by_bart(scan, given), scan.reference[0]), flush=True
        )
    for name, case, fan in (("sirt", "30 views", {}), ("sirt, fan", "30 views, flat fan", FAN)):
        body = ct_scan(options.ct, 30, **fan)
        assert isinstance(body, CTAcquisition)
        assert body.reference is not None
        mine, _ = ours(body, "sirt", {"iterations": SIRT_ITERATIONS, "holdout_share": 0}, None)
        print(row(name, f"CT, {case}, ASTRA", mine, by_astra(body), body.reference[0]), flush=True)


if __name__ == "__main__":
    main()

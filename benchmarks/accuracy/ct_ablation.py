"""Ablation of uDiG-DIP in CT, each part on and off, on people kept out of training. Prints Markdown.

`python -m benchmarks.accuracy.ct_ablation --images FOLDER`. The run on all data alone, from total variation of weight
`TV_WEIGHT`: `standard` but for its trial and prior check. ASTRA projects 512 pixels, 256 are reconstructed, so no row
is flattered by a projector that made the data too.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.data.cases import BODY, Case, Source, ct_cases
from udig_recon.core import metrics
from udig_recon.core.acquisition import CTAcquisition, Modality
from udig_recon.core.algorithms.tv import total_variation
from udig_recon.core.algorithms.udig_dip import udig_dip
from udig_recon.core.inputs import Inputs
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.operators import XRayTransform
from udig_recon.core.parameters import UDiGDIP
from udig_recon.core.priors.load import load_prior
from udig_recon.core.problem import SliceProblem, slice_problem

CPU = torch.device("cpu")
VIEWS = (30, 18)
TV_WEIGHT, TV_ITERATIONS = 1e-3, 80
PEOPLE = (
    BODY._replace(slices=(10,)),
    Source("ct/nysbu_A002304_a_hu.nii.gz", 2, (0,), Modality.CT),
)
"""No bundled prior has seen them."""


class Variant(NamedTuple):
    """A change against the preset."""

    label: str
    change: Mapping[str, Any] = {}
    pixel_response: bool = True
    weighted: bool = False  # rays by their counts


VARIANTS = (
    Variant("`standard`"),
    Variant("projector without pixel response", pixel_response=False),
    Variant("no dual variable", {"dual_step": 0.0}),
    Variant("homogenised noise", {"noise": "homogenised"}),
    Variant("no noise", {"noise_scale": 0.0}),
    Variant("a fifth of the weight", {"consistency_weight": 0.1}),
    Variant("no antithetic pairs", {"antithetic": False}),
    Variant("four samples", {"samples": 4}),
    Variant("last noise level 0.01", {"final_noise_level": 0.01}),
    Variant("rays weighted by counts", weighted=True),
)


def problem_of(scan: CTAcquisition, variant: Variant) -> SliceProblem:
    """The problem of a scan's only slice under a variant's forward model."""
    if variant.weighted:
        counts = np.exp(-scan.sinogram.astype(np.float64))
        scan = dataclasses.replace(scan, weights=(counts / counts.mean()).astype(np.float32))
    problem = slice_problem(scan, 0, CPU)
    if variant.pixel_response:
        return problem
    operator = XRayTransform(
        scan.angles,
        scan.image_size,
        scan.sinogram.shape[-1],
        scan.pixel_size_mm,
        scan.detector_spacing_mm,
        pixel_response=False,
    )
    y = operator.measurements_of(torch.from_numpy(scan.sinogram[0])[None, None])
    return dataclasses.replace(problem, operator=operator, measurements=y)


def reconstructed(problem: SliceProblem, p: UDiGDIP, starts: dict[float, Tensor]) -> tuple[float, float]:
    """PSNR (dB) of a run from total variation, and its seconds of one core; `starts` keeps total variation's image."""
    A, y = problem.operator, problem.measurements
    scale = intensity_scale(Inputs(y, A).cg_estimate())
    y = y / scale
    if A.scale not in starts:
        states = total_variation(y, A, TV_WEIGHT, torch.Generator(), None)
        *_, state = islice(states, TV_ITERATIONS)
        starts[A.scale] = state["image"]
    prior = load_prior(None, Modality.CT, None, CPU)
    began = time.process_time()
    *_, last = udig_dip(y, A, starts[A.scale], torch.nn.Linear(1, 1), prior, p, torch.Generator().manual_seed(0))
    seconds = time.process_time() - began
    assert problem.reference is not None
    return metrics.psnr(problem.magnitude(last.image * scale), problem.reference), seconds


def rows(cases: Sequence[Case]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield f"| dB (s) | {' | '.join(case.name for case in cases)} | mean |"
    yield "|---" * (len(cases) + 2) + "|"
    starts: list[dict[float, Tensor]] = [{} for _ in cases]
    base: list[float] = []
    for variant in VARIANTS:
        p = UDiGDIP(preset="standard", **variant.change).complete(Modality.CT)
        found = []
        for case, known in zip(cases, starts, strict=True):
            assert isinstance(case.scan, CTAcquisition)
            found.append(reconstructed(problem_of(case.scan, variant), p, known))
        base = base or [value for value, _ in found]
        gains = [value - at for (value, _), at in zip(found, base, strict=True)]
        shown = [
            f"{value:.2f} ({seconds:.1f})" if variant is VARIANTS[0] else f"{gain:+.2f} ({seconds:.1f})"
            for (value, seconds), gain in zip(found, gains, strict=True)
        ]
        mean = np.mean(base) if variant is VARIANTS[0] else np.mean(gains)
        yield f"| {variant.label} | {' | '.join(shown)} | {mean:{'.2f' if variant is VARIANTS[0] else '+.2f'}} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with ct/")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for line in rows([case for source in PEOPLE for case in ct_cases(options.images, source, VIEWS)]):
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""Ratings of intact and corrupted scans, and whether the hallucination map is high where the errors are.

`python -m benchmarks.accuracy.ratings --images FOLDER --output OUT`. Prints Markdown.

A slice of each person held out of training, 6 coils. Corruptions: noise four and ten times as strong, half of the lines
or views moved, spikes in single points or detectors. The area under the curve is that of the map for the tenth of the
object's pixels with the largest errors, both smoothed alike; r is the correlation of the two. Every result is stored
under `--output` and computed once.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks.data.cases import NOISE, PHOTONS, Case, Source, ct_cases, mri_images, mri_scan
from udig_recon.core.acquisition import Acquisition, CTAcquisition, Modality, MRIAcquisition
from udig_recon.core.comparison.stored import Made, Measurement, Result, measure_once
from udig_recon.core.parameters import Parameters, complete, parse
from udig_recon.core.priors.card import card_of
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.quality.hallucination import WIDTH
from udig_recon.core.reconstruct import ensemble

CPU = torch.device("cpu")
COILS = 6
BRAIN = Source("mri/brain_gd_t1.nii.gz", 2, (80,), Modality.MRI)
BODY = Source("ct/upper_abdomen_hu.nii.gz", 2, (10,), Modality.CT)
METHODS: Mapping[str, Mapping[str, Any]] = {
    "standard": {"method": "udig_dip"},
    "preview": {"method": "udig_dip", "preset": "preview"},
    "dds": {"method": "dds"},
    "tv": {"method": "tv"},
    "cg_sense": {"method": "cg_sense"},
    "zero_filled": {"method": "zero_filled"},
    "sirt": {"method": "sirt"},
    "fbp": {"method": "fbp"},
}
WORST = 0.1
"""Share of the object's pixels whose errors are to be found."""

Image = NDArray[Any]
Spoiling = Callable[[Acquisition, np.random.Generator], Acquisition]


def noisier(factor: float, scan: Acquisition, rng: np.random.Generator) -> Acquisition:
    """With so much stronger noise."""
    if isinstance(scan, CTAcquisition):
        photons = PHOTONS / factor**2
        counts = rng.poisson(photons * np.exp(-np.maximum(scan.sinogram, 0).astype(np.float64)))
        return replace(scan, sinogram=-np.log(np.maximum(counts, 0.5) / photons).astype(np.float32))
    assert scan.reference is not None
    level = NOISE * np.sqrt(factor**2 - 1) * float(np.abs(scan.reference).max())
    noise = rng.standard_normal((2, *scan.kspace.shape)) / np.sqrt(2)
    return replace(scan, kspace=(scan.kspace + level * scan.mask * (noise[0] + 1j * noise[1])).astype(np.complex64))


def moved(scan: Acquisition, _: np.random.Generator) -> Acquisition:
    """The later half of the lines or views is of an object that has moved by a few pixels."""
    if isinstance(scan, CTAcquisition):
        sinogram = scan.sinogram.copy()
        late = np.s_[:, sinogram.shape[1] // 2 :]
        sinogram[late] = np.roll(sinogram[late], 4, -1)
        return replace(scan, sinogram=sinogram)
    height, width = scan.mask.shape
    rows, columns = np.arange(height)[:, None] - height // 2, np.arange(width) - width // 2
    turn = np.exp(2j * np.pi * (6 * rows / height + 3 * columns / width))
    turn[:, : width // 2] = 1
    return replace(scan, kspace=(scan.kspace * turn).astype(np.complex64))


def spiked(scan: Acquisition, rng: np.random.Generator) -> Acquisition:
    """Twenty points far too bright, or one detector in 37 by a third."""
    if isinstance(scan, CTAcquisition):
        sinogram = scan.sinogram.copy()
        sinogram[..., ::37] *= 1.3
        return replace(scan, sinogram=sinogram)
    kspace = scan.kspace.copy()
    places = rng.choice(np.argwhere(scan.mask), 20, replace=False)
    kspace[..., places[:, 0], places[:, 1]] += 0.3 * np.abs(kspace).max()
    return replace(scan, kspace=kspace)


SPOILT: Mapping[str, Spoiling] = {
    "noise x 4": partial(noisier, 4),
    "noise x 10": partial(noisier, 10),
    "motion": moved,
    "spikes": spiked,
}


def cases(images: Path) -> list[Case]:
    """The whole scans."""
    brains = [
        Case("brain", sampling, n, partial(mri_scan, image, sampling, n, coils=COILS))
        for n, image in mri_images(images, BRAIN)
        for sampling in ("4x", "8x")
    ]
    return [*brains, *ct_cases(images, BODY)]


def runs(case: Case, modality: Modality) -> Iterator[tuple[str, str, Parameters, Acquisition]]:
    """Name of the scan and of the method, the method, and the scan: whole with all methods, spoilt with `standard`."""
    for label, parameters in METHODS.items():
        method = parse(dict(parameters))
        if modality in method.modalities:
            yield "whole", label, complete(method, modality), case.scan
    if case.sampling in ("4x", "18 views"):
        for name, spoil in SPOILT.items():
            scan = spoil(case.scan, np.random.default_rng(1))
            yield name, "standard", complete(parse(dict(METHODS["standard"])), modality), scan


def made(scan: Acquisition, method: Parameters, path: Path) -> Made:
    problem = slice_problem(scan, 0, CPU, fit_maps=method.fits_maps, preprocessing=method.preprocessing)
    *_, last = ensemble(problem, method, seed=0)
    found = assess(problem, method, last)
    if found.hallucination is not None:
        np.save(path, found.hallucination)
    flagged = last.prior_check is not None and last.prior_check.out_of_distribution
    return problem.magnitude(last.image), {**found.metrics, "flagged": flagged, "quality": found.rating.as_json()}


def agreement(heat: Image, image: Image, truth: Image) -> tuple[float, float]:
    """Area under the curve and correlation of a map (y, x) with the errors of an image, over the object."""
    error = np.sqrt(gaussian_filter((image - truth) ** 2, WIDTH))
    inside = truth > 0.1 * np.percentile(truth, 99)
    heat, error = heat[inside], error[inside]
    large = error > np.quantile(error, 1 - WORST)
    ranks = heat.argsort().argsort()[large]
    area = (ranks.sum() - len(ranks) * (len(ranks) - 1) / 2) / (len(ranks) * (len(heat) - len(ranks)))
    return float(area), float(np.corrcoef(heat, error)[0, 1])


def row(case: Case, scan: str, label: str, result: Result, heat: Path) -> str:
    """One line of the table."""
    fields = result.fields
    share = "" if fields["hallucination_share"] is None else f"{fields['hallucination_share']:.3f}"
    agrees = " | "
    reference = case.scan.reference
    if heat.is_file() and (shown := np.load(heat)).any() and reference is not None:
        area, correlation = agreement(shown, result.image, reference[0])
        agrees = f"{area:.2f} | {correlation:.2f}"
    quality = fields["quality"]
    reasons = "" if quality["rating"] == "good" else "; ".join(quality["reasons"])
    return (
        f"| {case.person} {case.sampling} | {scan} | {label} | {result.psnr:.1f} | {quality['rating']} | "
        f"{share} | {agrees} | {reasons} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| scan | as it is | method | PSNR dB | quality | hallucination share | map's area | r | reasons |")
    print("|---" * 9 + "|")
    for case in cases(options.images):
        modality = _modality(case)
        for name, label, method, scan in runs(case, modality):
            card = card_of(method, modality)
            key = {"scan": name, "parameters": method.model_dump(mode="json"), "prior": card.sha256 if card else None}
            folder, run = options.output / case.name, Measurement(label, key)
            folder.mkdir(parents=True, exist_ok=True)
            heat = folder / f"{run.name}.map.npy"
            reference = None if case.scan.reference is None else case.scan.reference[0]
            result = measure_once(folder, run, partial(made, scan, method, heat), reference)
            print(row(case, name, label, result, heat), flush=True)


def _modality(case: Case) -> Modality:
    return Modality.MRI if isinstance(case.scan, MRIAcquisition) else Modality.CT


if __name__ == "__main__":
    main()

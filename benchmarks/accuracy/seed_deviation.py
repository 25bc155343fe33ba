"""Standard deviation between seeds against the true error: the share of pixels within k deviations.

`python -m benchmarks.accuracy.seed_deviation --images FOLDER --output OUT`. Prints Markdown; the plot is
`calibration.png`.

Two slices of a person held out of training for each modality, at half the matrix (128 pixels): 6 coils at 4x, 24 views.
Each method runs with eight seeds; over the object's pixels the share with |error| <= k sd is counted. A factor on sd is
fitted to 95 % within 2 sd on one slice and tested on the other, both ways. Every result is stored under `--output` and
computed once.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data.cases import PHOTONS, Case, Source, ct_images, mri_images, mri_scan
from udig_recon.core.acquisition import Acquisition, Modality
from udig_recon.core.comparison.line_plots import line_plot
from udig_recon.core.comparison.stored import Made, Measurement, Result, measure_once
from udig_recon.core.parameters import Parameters, complete, parse
from udig_recon.core.priors.card import card_of
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.reconstruct import ensemble
from udig_recon.core.simulation import simulate_ct

CPU = torch.device("cpu")
SEEDS = 8
SLICES = {
    Modality.MRI: Source("mri/brain_gd_t1.nii.gz", 2, (60, 90), Modality.MRI),
    Modality.CT: Source("ct/upper_abdomen_hu.nii.gz", 2, (6, 14), Modality.CT),
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "dds": {"method": "dds"},
    "daps": {"method": "daps"},
    "udig_dip, preview": {"method": "udig_dip", "preset": "preview"},
    "udig_dip, preview, one sample": {"method": "udig_dip", "preset": "preview", "samples": 1},
}
FACTORS = tuple(np.arange(0.5, 3.01, 0.5))
NORMAL = (0.383, 0.683, 0.866, 0.954, 0.988, 0.997)
"""Shares within these factors of a normal distribution."""
COILS = 6
VIEWS = 24
OBJECT = 0.1

Image = NDArray[Any]


def cases(images: Path, modality: Modality) -> list[Case]:
    """The scans, at half the matrix of those that quality is measured on."""
    source = SLICES[modality]
    if modality is Modality.MRI:
        found = mri_images(images, source)
        return [Case("brain", "4x", n, partial(mri_scan, halved(image), "4x", n, coils=COILS)) for n, image in found]
    bodies, pixel_mm = ct_images(images, source)
    return [
        Case("body", f"{VIEWS} views", n, partial(_ct, halved(body), 4 * pixel_mm, n)) for n, body in bodies.items()
    ]


def halved(image: Image) -> Image:
    """Means of 2 x 2 pixels."""
    height, width = (size // 2 for size in image.shape)
    return image.reshape(height, 2, width, 2).mean((1, 3)).astype(image.dtype)


def _ct(image: Image, pixel_mm: float, index: int) -> Acquisition:
    rng = np.random.default_rng(index)
    return simulate_ct(image, VIEWS, PHOTONS, rng, pixel_size_mm=pixel_mm, supersampling=2)


class Errors(NamedTuple):
    """Of the object's pixels: |error| of the mean, and deviation between seeds."""

    error: Image
    deviation: Image

    def within(self, factor: float) -> float:
        """Share of the pixels whose error is at most so many deviations."""
        return float((self.error <= factor * self.deviation).mean())

    def factor(self) -> float:
        """What deviations are to be multiplied by for 95 % to lie within two."""
        return float(np.quantile(self.error / np.maximum(2 * self.deviation, 1e-12), 0.954))


def errors(case: Case, result: Result) -> Errors:
    """Of a stored result: its image, and its deviation beside it."""
    truth = case.scan.reference
    assert truth is not None
    deviation = np.load(result.path.with_suffix(".sd.npy"))
    inside = truth[0] > OBJECT * truth[0].max()
    return Errors(np.abs(result.image - truth[0])[inside], deviation[inside])


def made(case: Case, method: Parameters, path: Path) -> Made:
    problem = slice_problem(case.scan, 0, CPU, fit_maps=False)
    *_, last = ensemble(problem, method, seed=0, seeds=SEEDS)
    assert last.deviation is not None
    np.save(path, problem.crop(last.deviation))
    found = assess(problem, method, last)
    return problem.magnitude(last.image), {**found.metrics, "quality": found.rating.as_json()}


def row(label: str, modality: Modality, pair: list[Errors]) -> tuple[str, list[float]]:
    """One line of the table, and the shares it holds."""
    shares = [float(np.mean([each.within(factor) for each in pair])) for factor in FACTORS]
    fitted = [one.factor() for one in pair]
    crossed = [other.within(2 * factor) for factor, other in zip(fitted, reversed(pair), strict=True)]
    size = np.sqrt(np.mean([(each.error**2).mean() for each in pair]))
    spread = np.sqrt(np.mean([(each.deviation**2).mean() for each in pair]))
    cells = " | ".join(f"{share:.1%}" for share in shares)
    by_factor = f"{fitted[0]:.2f}, {fitted[1]:.2f} | {crossed[0]:.1%}, {crossed[1]:.1%}"
    return f"| {label} | {modality} | {cells} | {spread / size:.2f} | {by_factor} |", shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = " | ".join(f"{factor:g} sd" for factor in FACTORS)
    print(f"| method | for | {heads} | sd / error | factor by each slice | within 2 sd with the other's |")
    print("|---" * (len(FACTORS) + 5) + "|")
    curves = {"normal distribution": (FACTORS, NORMAL)}
    seen: list[tuple[Modality, Parameters]] = []
    for label, parameters in METHODS.items():
        for modality in Modality:
            method = complete(parse(dict(parameters)), modality)
            if (modality, method) in seen:  # in MRI, `preview` takes one sample anyway
                continue
            seen.append((modality, method))
            card = card_of(method, modality)
            key = {"parameters": method.model_dump(mode="json"), "seeds": SEEDS, "prior": card.sha256 if card else None}
            pair = []
            for case in cases(options.images, modality):
                folder, run = options.output / case.name, Measurement(label, key)
                folder.mkdir(parents=True, exist_ok=True)
                make = partial(made, case, method, folder / f"{run.name}.sd.npy")
                pair.append(errors(case, measure_once(folder, run, make, case.scan.reference[0])))
            line, shares = row(label, modality, pair)
            print(line, flush=True)
            curves[f"{label} ({modality})"] = (FACTORS, shares)
    axes = ("k", "share of the object's pixels with |error| <= k sd")
    (options.output / "calibration.png").write_bytes(line_plot(f"Errors and the spread of {SEEDS} seeds", axes, curves))


if __name__ == "__main__":
    main()

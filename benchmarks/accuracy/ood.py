"""Out-of-distribution flag: share of known and of foreign scans that the bundled priors flag.

`python -m benchmarks.accuracy.ood --images FOLDER --output OUT`. Prints Markdown.

Known: slices of the people held out of training. Foreign: limbs for the MRI prior, which is of heads, metal phantoms
and bodies with metal for the CT prior. `standard` with fewer coils, for foreign scans with fewer outer iterations too
(`--iterations`; 0: all), which changes their OOD score little. Every result is stored under `--output` and computed
once.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.data import phantoms
from benchmarks.data.cases import Case, Source, ct_images, ct_scan, mri_images, mri_scan
from udig_recon.core.acquisition import Acquisition, Modality
from udig_recon.core.comparison.stored import Made, Measurement, Result, measure_once
from udig_recon.core.parameters import Parameters, UDiGDIP, complete
from udig_recon.core.priors.card import card_of
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.quality.rating import LEVELS
from udig_recon.core.reconstruct import ensemble

CPU = torch.device("cpu")
BRAIN = Source("mri/brain_gd_t1.nii.gz", 2, range(38, 108, 7), Modality.MRI)
BODY = Source("ct/upper_abdomen_hu.nii.gz", 2, range(0, 20, 2), Modality.CT)
SPACING_MM = 0.8
VIEWS = 30
COILS = 6
COUNT = 10
FRESH = 100
"""First seed of what is drawn: seeds below it chose the features."""


class Group(NamedTuple):
    """Scans that are all known to their prior, or all foreign."""

    name: str
    modality: Modality
    foreign: bool
    cases: Sequence[Case]


def groups(images: Path) -> Iterator[Group]:
    """Twenty known and thirty foreign scans."""
    brains = [
        Case("brain", "4x", n, partial(mri_scan, image, "4x", n, coils=COILS)) for n, image in mri_images(images, BRAIN)
    ]
    yield Group("brain, person kept out", Modality.MRI, False, brains)
    limbs = [phantoms.limb(np.random.default_rng(FRESH + n)) for n in range(COUNT)]
    scans = [Case("limb", "4x", n, partial(mri_scan, image, "4x", n, coils=COILS)) for n, image in enumerate(limbs)]
    yield Group("limb by formula", Modality.MRI, True, scans)
    bodies, spacing = ct_images(images, BODY)
    yield Group("upper abdomen, person kept out", Modality.CT, False, _ct("body", bodies, spacing))
    metal = {n: phantoms.metal_phantom(np.random.default_rng(FRESH + n)) for n in range(COUNT)}
    yield Group("metal phantom", Modality.CT, True, _ct("metal", metal, SPACING_MM))
    implants = {n: phantoms.with_metal(image, np.random.default_rng(FRESH + n)) for n, image in bodies.items()}
    yield Group("upper abdomen with metal", Modality.CT, True, _ct("implant", implants, spacing))


def _ct(name: str, images: dict[int, phantoms.Image], spacing_mm: float) -> list[Case]:
    return [
        Case(name, f"{VIEWS} views", n, partial(ct_scan, image, spacing_mm / 2, VIEWS, n))
        for n, image in images.items()
    ]


def rate_scan(scan: Acquisition, method: Parameters) -> Made:
    problem = slice_problem(scan, 0, CPU, fit_maps=method.fits_maps, preprocessing=method.preprocessing)
    *_, last = ensemble(problem, method, seed=0)
    found = assess(problem, method, last)
    assert last.prior_check is not None
    told: dict[str, Any] = {
        "prior_check": last.prior_check.as_json(),
        "excess": last.prior_check.excess,
        **found.metrics,
    }
    return problem.magnitude(last.image), {**told, "quality": found.rating.as_json()}


def rows(group: Group, found: Sequence[Result]) -> Iterator[str]:
    """One line of the table."""
    checks = [result.fields["prior_check"] for result in found]
    scores = [check["ood_score"] for check in checks]
    by_score = sum(value > 1 for value in scores)
    flagged = sum(check["out_of_distribution"] for check in checks)
    marks = [result.fields["quality"]["rating"] for result in found]
    ratings = ", ".join(f"{marks.count(mark)} {mark}" for mark in LEVELS if mark in marks)
    psnr = np.mean([result.psnr for result in found])
    yield (
        f"| {group.name} | {group.modality} | {'foreign' if group.foreign else 'known'} | {min(scores):.2f} to "
        f"{max(scores):.2f} | {by_score} of {len(found)} | {flagged} of {len(found)} | {ratings} | {psnr:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=10, help="outer iterations on foreign scans")
    parser.add_argument("--most", type=int, default=COUNT, help="cases of each group")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| scans | prior | to it | OOD score | flagged by it | flagged in all | quality | PSNR dB |")
    print("|---|---|---|---|---|---|---|---|")
    for group in groups(options.images):
        fewer = {"outer_iterations": options.iterations} if group.foreign and options.iterations else {}
        method = complete(UDiGDIP.model_validate(fewer), group.modality)
        card = card_of(method, group.modality)
        key = {"parameters": method.model_dump(mode="json"), "prior": card.sha256 if card else None}
        found = []
        for case in group.cases[: options.most]:
            make = partial(_made, case, method)
            found.append(measure_once(options.output / case.name, Measurement("flags", key), make, _reference(case)))
        print(*rows(group, found), sep="\n", flush=True)


def _made(case: Case, method: Parameters) -> Made:
    return rate_scan(case.scan, method)


def _reference(case: Case) -> Any:
    reference = case.scan.reference
    return None if reference is None else reference[0]


if __name__ == "__main__":
    main()

"""Image quality on people held out of all training, against BART, SIRT and total variation. Prints Markdown.

`python -m benchmarks.accuracy.quality --images FOLDER --output FOLDER`. Every result is stored under the output by case
and computed once: interrupt it, or give it peers and methods in separate calls. A result depends on the method's
parameters and the prior's weights; use another output folder after a change of the engine (the report says when its
results come from several states of the engine). Pictures and `quality.md` are written there too.

Peers have the best of their weights by the truth; our methods never see it. Scans bring no coil maps: ESPIRiT makes
them, BART's for BART and ours for ours.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.quality_report import Row, report
from benchmarks.data.cases import BODY, BRAIN, Case, Source, cases
from benchmarks.peers.bart import bart
from udig_recon.core.acquisition import Acquisition, CTAcquisition, Modality, MRIAcquisition
from udig_recon.core.comparison.stored import Image, Made, Measurement, Result, cpu_seconds, measure_once, read_result
from udig_recon.core.errors import MissingPrior, UnsupportedScan
from udig_recon.core.parameters import Parameters, complete, parse
from udig_recon.core.priors.card import card_of
from udig_recon.core.priors.load import load_prior
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.results.png import add_inset, busiest_corner, comparison_png, display_window

CPU = torch.device("cpu")
BART_ITERATIONS = 150
BART_WEIGHTS = {"wavelet": ("W:3:0", (0.0005, 0.001, 0.002, 0.004)), "TV": ("T:3:0", (0.004, 0.008, 0.016, 0.032))}
"""Of its own scale of the image."""
SIRT_ITERATIONS = (50, 100, 200, 400)
TV_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3)
TV_ITERATIONS = 300
OWN = ("standard", "preview", "tv", "l1_wavelet")


class Group(NamedTuple):
    """Slices of people, and the prior that they are reconstructed with."""

    sources: Sequence[Source]
    prior: str | None  # None: the bundled one
    foreign: bool = False  # unlike what that prior was trained on

    @property
    def modality(self) -> Modality:
        return self.sources[0].modality


def groups(foreign_mri: str, foreign_ct: str) -> dict[str, Group]:
    """All groups; the priors named were trained without the anatomy of the foreign groups, on brains and on heads."""
    mri, ct = Modality.MRI, Modality.CT
    second = (Source("mri/uih_t1.nii.gz", 0, (115,), mri), Source("mri/uih_t1.nii.gz", 2, (90,), mri))
    return {
        "brain": Group((BRAIN,), None),
        "second-brain": Group(second, foreign_mri),
        "abdomen": Group((Source("mri/abdomen.nii.gz", 2, (14, 22), mri),), foreign_mri, foreign=True),
        "ct": Group((BODY,), None),
        "ct-foreign": Group((Source("ct/lidc0314_chest_hu.nii.gz", 2, (40, 90), ct),), foreign_ct, foreign=True),
    }


class Bart:
    """BART on one scan after another; the coil maps of a scan are made once."""

    def __init__(self) -> None:
        self._scan: MRIAcquisition | None = None

    def _of(self, scan: MRIAcquisition) -> tuple[NDArray[np.complex64], float]:
        if self._scan is not scan:
            self._maps, self._seconds = bart("ecalib", "-m1", kspace=scan.kspace[0])
            self._scan = scan
        return self._maps, self._seconds

    def run(self, scan: MRIAcquisition, regulariser: str) -> Made:
        maps, maps_seconds = self._of(scan)
        began = cpu_seconds()
        command = ("pics", "-S", "-d0", f"-i{BART_ITERATIONS}", "-R", regulariser)
        image, seconds = bart(*command, kspace=scan.kspace[0], maps=maps)
        spent = {"seconds": seconds, "cpu_seconds": cpu_seconds() - began, "maps_seconds": maps_seconds}
        return np.abs(image[0]), {**spent, "threads": int(os.environ["OMP_NUM_THREADS"])}


Make = Callable[[Acquisition], Made]


def peers(modality: Modality) -> Iterator[tuple[Measurement, Make]]:
    """What our methods are held against."""
    if modality is Modality.CT:
        for iterations in SIRT_ITERATIONS:
            yield of_engine(
                f"SIRT {iterations}", {"method": "sirt", "iterations": iterations, "holdout_share": 0}, modality
            )
        for weight in TV_WEIGHTS:
            parameters = {"method": "tv", "weight": weight, "iterations": TV_ITERATIONS}
            yield of_engine(f"TV {weight:g}", parameters, modality)
        return
    program = Bart()
    for name, (form, weights) in BART_WEIGHTS.items():
        for weight in weights:
            regulariser = f"{form}:{weight:g}"
            key = {"bart": regulariser, "iterations": BART_ITERATIONS, "maps": "ecalib -m1"}

            def make(scan: Acquisition, regulariser: str = regulariser) -> Made:
                assert isinstance(scan, MRIAcquisition)
                return program.run(scan, regulariser)

            yield Measurement(f"BART {name} {weight:g}", key), make


def own(method: str, group: Group, priors: Path | None) -> tuple[Measurement, Make]:
    """A preset of `udig_dip`, or another method whose weight is found without the truth. Raises MissingPrior."""
    if method in ("tv", "l1_wavelet"):
        return of_engine(method, {"method": method}, group.modality)
    parameters = {"method": "udig_dip", "preset": method, "prior": group.prior}
    return of_engine(method, parameters, group.modality, priors)


def of_engine(
    label: str, parameters: dict[str, Any], modality: Modality, priors: Path | None = None, seed: int = 0
) -> tuple[Measurement, Make]:
    """A method of ours as the service runs it. Raises MissingPrior."""
    method = complete(parse(parameters), modality)
    card = card_of(method, modality, priors)
    key = {"parameters": method.model_dump(mode="json"), "seed": seed, "prior": card.sha256 if card else None}
    return Measurement(label, key), lambda scan: run_engine(scan, method, priors, seed)


def run_engine(scan: Acquisition, method: Parameters, priors: Path | None, seed: int) -> Made:
    """Magnitude and what there is to tell; the prior is read before the time counts, as a worker keeps it."""
    modality = Modality.CT if isinstance(scan, CTAcquisition) else Modality.MRI
    if method.needs_prior:
        load_prior(getattr(method, "prior", None), modality, priors, CPU)
    wall, cpu = time.perf_counter(), cpu_seconds()
    problem = slice_problem(scan, 0, CPU, fit_maps=method.fits_maps, preprocessing=method.preprocessing)
    problem_seconds = time.perf_counter() - wall
    *_, last = reconstruct(problem, method, seed=seed, priors=priors)
    told: dict[str, Any] = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": cpu_seconds() - cpu,
        "problem_seconds": problem_seconds,
        "threads": torch.get_num_threads(),
    }
    if (verdict := last.prior_check) is not None:
        told["prior_check"] = {**verdict.as_json(), "best_at": verdict.best_at}
    return problem.magnitude(last.image), told


def runs_of(group: Group, methods: Sequence[str], priors: Path | None) -> list[tuple[Measurement, Make]]:
    """Our methods on a group, without those whose prior is not there or that are for the other modality."""
    usable = []
    for method in methods:
        try:
            usable.append(own(method, group, priors))
        except (MissingPrior, UnsupportedScan) as error:
            print(f"left out: {method}: {error}", flush=True)
    return usable


def compute(case: Case, runs: Sequence[tuple[Measurement, Make]], output: Path) -> list[Result]:
    """The results of all runs on a case; each new one is told as it comes."""
    folder, results = output / case.name, []
    for run, make in runs:
        result = read_result(folder, run)
        if result is None:
            reference = reference_of(case, folder)
            result = measure_once(folder, run, lambda make=make: make(case.scan), reference)
            print(f"{case.name}: {run.label}: {result.psnr:.2f} dB, {result.fields['seconds']:.1f} s", flush=True)
        results.append(result)
    return results


def reference_of(case: Case, folder: Path) -> Image:
    """The truth (y, x), kept on disk so that a report needs no simulation."""
    path = folder / "reference.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    assert case.scan.reference is not None
    folder.mkdir(parents=True, exist_ok=True)
    np.save(path, case.scan.reference[0].astype(np.float32))
    return np.asarray(case.scan.reference[0], np.float32)


def panel(case: Case, against: Sequence[Result], ours: Sequence[Result], output: Path) -> None:
    """Reference, best peer and `standard` with the errors of both, times 5, and their busiest part enlarged."""
    standard = next((result for result in ours if result.label == "standard"), None)
    if standard is None or not against:
        return
    peer = max(against, key=lambda result: result.psnr)
    reference = reference_of(case, output / case.name)
    corner, white = busiest_corner(reference), display_window(reference)[1]
    shown = [("reference", reference), *((titled(result), result.image) for result in (peer, standard))]
    insets = [(title, add_inset(image, corner, white)) for title, image in shown]
    (output / f"{case.name}.png").write_bytes(comparison_png(insets, insets[0][1]))


def titled(result: Result) -> str:
    return f"{result.label}\nPSNR {result.psnr:.2f} dB, SSIM {result.fields['ssim']:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    known = groups(options.foreign_mri, options.foreign_ct)
    rows = []
    for name in options.groups:
        group = known[name]
        ours = runs_of(group, options.methods, options.priors)
        against = list(peers(group.modality))
        for case in (case for source in group.sources for case in cases(options.images, source)):
            if options.samplings and case.sampling not in options.samplings:
                continue
            folder = options.output / case.name
            if not options.report_only:
                compute(case, against, options.output)
                compute(case, [] if options.peers_only else ours, options.output)
            stored = [
                [result for run, _ in runs if (result := read_result(folder, run)) is not None]
                for runs in (against, ours)
            ]
            fields = [{result.label: result.fields for result in results} for results in stored]
            missing = len(against) - len(stored[0])
            rows.append(Row(name, group.foreign, group.modality, case.name, case.sampling, *fields, missing))
            panel(case, *stored, options.output)
    text = report([row for row in rows if row.peers or row.ours])
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "quality.md").write_text(text)
    print(text)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = list(groups("", ""))
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--groups", nargs="+", choices=known, default=known, help="all by default")
    parser.add_argument("--samplings", nargs="+", help="as 4x or '18 views'; all by default")
    parser.add_argument("--methods", nargs="+", choices=OWN, default=OWN, help="all by default")
    parser.add_argument("--priors", type=Path, help="folder of priors beside the bundled ones")
    parser.add_argument("--foreign-mri", default="brain", help="name of a prior of brains alone")
    parser.add_argument("--foreign-ct", default="head", help="name of a prior of heads alone")
    parser.add_argument("--threads", type=int, default=1, help="of our methods and of BART alike")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--peers-only", action="store_true", help="compute none of our methods")
    only.add_argument("--report-only", action="store_true", help="compute nothing")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

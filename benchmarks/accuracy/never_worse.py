"""Whether `standard` is ever worse than methods without a prior, on 47 scans that no limit was set on. Prints Markdown.

`python -m benchmarks.accuracy.never_worse --images FOLDER --output FOLDER`. People held out of all training: knees, a
hip, a pelvis, a neck, a brain, an abdomen, a chest; lines at 4x, 8x and 12x, Poisson-disc points, spokes; 12 to 60
views; three noise levels; 1 to 32 coils; another plane and another contrast. Own methods never see the truth. Peers
have the best of their weights by it: each climbs a ladder of weights until both neighbours are worse.

It exits with 1 where a bound is missed: 0.1 dB below the best of the service's own `tv` and `l1_wavelet` in any case,
0.2 dB below the best peer in more than one of 40, a rating `good` below 28 dB, or more than one in 20 of the images
above 33 dB that are not `good`. Results are stored under the output and computed once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom

from benchmarks.accuracy.noncartesian import FORMS, climb
from benchmarks.accuracy.noncartesian import Bart as NonCartesianBart
from benchmarks.accuracy.quality import Bart, Make
from benchmarks.data.cases import SIZE, Case, Source, crop_or_pad, ct_images, ct_scan
from udig_recon.core.acquisition import Acquisition, Modality, MRIAcquisition, NonCartesianAcquisition
from udig_recon.core.comparison.stored import Made, Measurement, Result, cpu_seconds, measure_once, read_result
from udig_recon.core.parameters import Parameters, complete, parse
from udig_recon.core.priors.card import card_of
from udig_recon.core.problem import slice_problem
from udig_recon.core.quality.assess import assess
from udig_recon.core.reconstruct import ensemble
from udig_recon.core.results.png import comparison_png
from udig_recon.core.simulation import (
    birdcage_maps,
    cartesian_lines,
    poisson_disc,
    radial_spokes,
    simulate_mri,
    simulate_non_cartesian,
)
from udig_recon.core.training.augmentation import with_phase
from udig_recon.core.training.dataset import normalise

CPU = torch.device("cpu")
FILL = 0.9
"""Share of the field of view that the longer side of an MRI slice fills."""
CENTRE = {4: 0.08, 8: 0.04, 12: 0.03}
"""Fully sampled share of the lines in the centre, by acceleration."""


class MRICase(NamedTuple):
    """A simulated MRI scan."""

    person: str
    axis: int
    index: int
    sampling: str  # "lines 4", "poisson 8", "spokes 64"
    noise: float = 0.004  # of the maximum
    coils: int = 15

    @property
    def name(self) -> str:
        return f"{self.person}-{self.axis}-{self.index}-{self.sampling}-{self.noise:g}-{self.coils}".replace(" ", "_")


class CTCase(NamedTuple):
    """A simulated CT scan."""

    person: str
    index: int
    views: int
    photons: float = 1e6  # a ray

    @property
    def name(self) -> str:
        return f"{self.person}-{self.index}-{self.views}_views-{self.photons:g}"


KNEE, KNEE_2, HIP = ("limb_sts042_t1", 2, 15), ("limb_sts010_t1", 2, 15), ("limb_sts040_t1", 2, 12)
PELVIS, PELVIS_SAGITTAL = ("prostatex0000_t2_tra", 2, 9), ("prostatex0000_t2_sag", 0, 9)
NECK, BRAIN, BRAIN_2 = ("neck_gm10062_t2s", 2, 8), ("brain_gd_t1", 2, 60), ("brain_gd_t1", 2, 85)
MRI_CASES = (
    *(MRICase(*where, "lines 4") for where in (KNEE, KNEE_2, HIP, PELVIS, NECK, BRAIN, PELVIS_SAGITTAL)),
    *(MRICase(*where, "lines 8") for where in (KNEE, KNEE_2, HIP, PELVIS, NECK, BRAIN, BRAIN_2)),
    *(MRICase(*where, "lines 12") for where in (KNEE, HIP, NECK, BRAIN)),
    *(MRICase(*where, "poisson 8") for where in (KNEE_2, HIP, PELVIS, BRAIN)),
    *(MRICase(*where, "spokes 64") for where in (KNEE, BRAIN)),
    MRICase(*HIP, "spokes 24"),
    *(MRICase(*where, "lines 4", noise=0.02) for where in (KNEE, BRAIN)),
    MRICase(*KNEE_2, "lines 8", noise=0.02),
    MRICase(*PELVIS, "lines 4", noise=0.001),
    *(MRICase(*where, "lines 4", coils=1) for where in (HIP, BRAIN)),
    MRICase(*NECK, "lines 4", coils=4),
    MRICase(*KNEE, "lines 8", coils=32),
)
ABDOMEN, CHEST = "upper_abdomen_hu", ("nysbu_A002304_a_hu", "nysbu_A002304_b_hu")
CT_CASES = (
    *(CTCase(ABDOMEN, 10, views) for views in (12, 18, 30, 60)),
    *(CTCase(ABDOMEN, 4, views) for views in (18, 30)),
    *(CTCase(CHEST[0], 0, views) for views in (12, 30, 60)),
    *(CTCase(CHEST[1], 0, views) for views in (18, 30)),
    CTCase(ABDOMEN, 16, 30, photons=1e4),
    CTCase(CHEST[0], 0, 30, photons=1e4),
    CTCase(CHEST[1], 0, 60, photons=1e5),
)


def mri_image(images: Path, case: MRICase) -> NDArray[np.complex64]:
    """A slice (y, x) enlarged to `FILL` of the field of view, of smooth phase."""
    volume = normalise(np.asarray(nibabel.load(images / f"mri/{case.person}.nii.gz").dataobj, np.float32), Modality.MRI)
    image = np.rot90(np.take(volume, case.index, case.axis))
    enlarged = np.clip(zoom(image, FILL * SIZE / max(image.shape), order=3), 0, None).astype(np.float32)
    rng = torch.Generator().manual_seed(case.index)
    channels = with_phase(torch.from_numpy(crop_or_pad(enlarged, SIZE).copy())[None, None], rng)[0].numpy()
    return np.asarray(channels[0] + 1j * channels[1], np.complex64)


def simulate(images: Path, case: MRICase | CTCase) -> Acquisition:
    """The scan of a case; its slice number seeds mask, noise and phase."""
    if isinstance(case, CTCase):
        fine, pixel_mm = ct_images(images, Source(f"ct/{case.person}.nii.gz", 2, (case.index,), Modality.CT))
        return ct_scan(fine[case.index], pixel_mm, case.views, case.index, case.photons)
    image, rng = mri_image(images, case), np.random.default_rng((case.index, 0))
    maps = birdcage_maps(case.coils, image.shape)
    kind, number = case.sampling.split()
    if kind == "spokes":
        trajectory = radial_spokes((SIZE, SIZE), int(number))
        return simulate_non_cartesian(image, maps, trajectory, rng, noise_level=case.noise)
    mask = (
        poisson_disc(image.shape, int(number), 24, rng)
        if kind == "poisson"
        else cartesian_lines(image.shape, int(number), CENTRE[int(number)], rng)
    )
    return simulate_mri(image, maps, mask, rng, noise_level=case.noise)


class Ladder(NamedTuple):
    """A peer with a ladder of weights."""

    label: str
    weights: Sequence[float]
    start: int
    make: Callable[[float], tuple[Measurement, Make]]

    def climb(self, result_of: Callable[[Measurement, Make], Result | None]) -> Result | None:
        """The result of the weight whose neighbours are both worse; None where one is missing."""
        return climb(len(self.weights), self.start, lambda rung: result_of(*self.make(self.weights[rung])))


VIRTUAL_COILS = 8
"""BART compresses its coils to so many, where there are more: the same image in half the time."""


def compressed(scan: MRIAcquisition) -> MRIAcquisition:
    """The scan with its coils compressed to `VIRTUAL_COILS` by BART's measure, the singular vectors of the samples."""
    kspace = scan.kspace[0]
    if len(kspace) <= VIRTUAL_COILS:
        return scan
    samples = kspace[:, scan.mask]
    vectors = np.linalg.eigh(samples @ samples.conj().T)[1][:, -VIRTUAL_COILS:].conj().T
    return replace(scan, kspace=np.einsum("nc,chw->nhw", vectors, kspace)[None].astype(np.complex64))


def peers(case: MRICase | CTCase, scan: Callable[[], Acquisition]) -> Iterator[Ladder]:
    """What our methods are held against."""
    if isinstance(case, CTCase):
        sirt = {"method": "sirt", "holdout_share": 0}
        yield Ladder(
            "SIRT",
            (12, 25, 50, 100, 200, 400),
            3,
            lambda count: engine("SIRT", case, {**sirt, "iterations": int(count)}),
        )
        tv = {"method": "tv", "iterations": 300}
        weights = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
        yield Ladder("TV", weights, 3, lambda weight: engine("TV", case, {**tv, "weight": weight}))
        return
    if case.sampling.startswith("spokes"):

        @cache
        def along() -> NonCartesianBart:
            whole = scan()
            assert isinstance(whole, NonCartesianAcquisition)
            return NonCartesianBart(whole)

        for label, (form, extra, weights, start) in FORMS.items():

            def spokes(weight: float, form: str = form, extra: Any = extra, label: str = label) -> Any:
                options = (*extra, "-R", form.format(weight))
                return Measurement(f"{label} {weight:g}", {"bart": options}), lambda _: along().run(options)

            yield Ladder(label, weights, start, spokes)
        return
    program = Bart()

    @cache
    def few_coils() -> MRIAcquisition:
        whole = scan()
        assert isinstance(whole, MRIAcquisition)
        return compressed(whole)

    for label, form, weights in (
        ("BART wavelet", "W:3:0:{:g}", (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)),
        ("BART TV", "T:3:0:{:g}", (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)),
    ):

        def cartesian(weight: float, form: str = form, label: str = label) -> Any:
            regulariser = form.format(weight)
            key = {"bart": regulariser, "iterations": 150, "maps": "ecalib -m1", "coils": VIRTUAL_COILS}
            return Measurement(f"{label} {weight:g}", key), lambda _: program.run(few_coils(), regulariser)

        yield Ladder(label, weights, 3, cartesian)


OWN: dict[str, dict[str, Any]] = {
    "standard": {"method": "udig_dip"},
    "preview": {"method": "udig_dip", "preset": "preview"},
    "tv": {"method": "tv"},
    "l1_wavelet": {"method": "l1_wavelet"},
}


def modality_of(case: MRICase | CTCase) -> Modality:
    return Modality.CT if isinstance(case, CTCase) else Modality.MRI


def engine(label: str, case: MRICase | CTCase, parameters: dict[str, Any]) -> tuple[Measurement, Make]:
    """One of the engine's methods as the service runs it, with its rating."""
    method = complete(parse(parameters), modality_of(case))
    card = card_of(method, modality_of(case))
    key = {"parameters": method.model_dump(mode="json"), "seed": 0, "prior": card.sha256 if card else None}
    return Measurement(label, key), lambda scan: run_engine(scan, method)


def run_engine(scan: Acquisition, method: Parameters) -> Made:
    """Magnitude, times, prior check and rating."""
    began = cpu_seconds()
    problem = slice_problem(scan, 0, CPU, fit_maps=method.fits_maps, preprocessing=method.preprocessing)
    *_, last = ensemble(problem, method, seed=0)
    told: dict[str, Any] = {"threads": torch.get_num_threads()}
    assessment = assess(problem, method, last)
    told["cpu_seconds"] = cpu_seconds() - began
    told["rating"] = assessment.rating.as_json()
    if last.prior_check is not None:
        told["prior_check"] = last.prior_check.as_json()
    return problem.magnitude(last.image), told


class Row(NamedTuple):
    """Results of one case by method, and the best peer's."""

    case: MRICase | CTCase
    own: dict[str, Result]
    peer: Result | None

    @property
    def plain(self) -> float:
        """PSNR of the best of the service's methods without a prior, in dB."""
        return max(self.own[name].psnr for name in ("tv", "l1_wavelet") if name in self.own)

    @property
    def is_whole(self) -> bool:
        """Whether the bounds can be checked."""
        return "standard" in self.own and "tv" in self.own


def report(rows: Sequence[Row]) -> tuple[str, bool]:
    """The table with the bounds, and whether all of them hold."""
    lines = [
        "| scan | best peer dB | tv | l1_wavelet | preview | standard | over own best | over peer | rating | CPU s |",
        "|---" * 10 + "|",
    ]
    over_own, over_peer, wrong_good, wrong_other, above = [], [], [], [], 0
    for row in rows:
        cells = [f"{row.own[name].psnr:.2f}" if name in row.own else "" for name in ("tv", "l1_wavelet", "preview")]
        standard = row.own.get("standard")
        if standard is None or not row.is_whole:
            continue
        gain = standard.psnr - row.plain
        over_own.append((gain, row.case.name))
        peer = "" if row.peer is None else f"{row.peer.psnr:.2f} ({row.peer.label})"
        if row.peer is not None:
            over_peer.append((standard.psnr - row.peer.psnr, row.case.name))
        rating = standard.fields["rating"]["rating"]
        above += standard.psnr > 33
        wrong_good += [row.case.name] * (rating == "good" and standard.psnr < 28)
        wrong_other += [row.case.name] * (rating != "good" and standard.psnr > 33)
        against = "" if row.peer is None else f"{standard.psnr - row.peer.psnr:+.2f}"
        lines.append(
            f"| {row.case.name} | {peer} | {' | '.join(cells)} | {standard.psnr:.2f} | {gain:+.2f} | {against} | "
            f"{rating} | {standard.fields['cpu_seconds']:.0f} |"
        )
    below_own = [name for gain, name in over_own if gain < -0.1]
    below_peer = [name for gain, name in over_peer if gain < -0.2]
    allowed = len(over_peer) // 40
    lines += [
        "",
        f"- {len(over_own)} scans; below the service's own best by more than 0.1 dB: {len(below_own)} {below_own}",
        f"- below the best peer by more than 0.2 dB: {len(below_peer)} of {len(over_peer)} {below_peer}",
        f"- rated good below 28 dB: {len(wrong_good)} {wrong_good}",
        f"- not rated good above 33 dB: {len(wrong_other)} of {above} {wrong_other}",
    ]
    holds = not below_own and len(below_peer) <= allowed and not wrong_good and 20 * len(wrong_other) <= above
    return "\n".join(lines), holds


def stored(folder: Path, case: Case, run: Measurement, make: Make, *, compute: bool) -> Result | None:
    """The result of a run on a case, made now if it may be and is not there."""
    known = read_result(folder, run)
    if known is None and compute:
        assert case.scan.reference is not None
        known = measure_once(folder, run, lambda: make(case.scan), case.scan.reference[0])
        spent = known.fields["cpu_seconds"]
        print(f"{folder.name}: {run.label}: {known.psnr:.2f} dB, {spent:.1f} s", file=sys.stderr, flush=True)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument(
        "--methods", nargs="*", choices=OWN, default=list(OWN), help="of ours to compute; all by default"
    )
    parser.add_argument("--no-peers", action="store_true", help="compute no peer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for each in (*MRI_CASES, *CT_CASES):
        if options.only not in each.name:
            continue
        folder = options.output / each.name
        case = Case(each.person, "", each.index, partial(simulate, options.images, each))
        own = {}
        for name, parameters in OWN.items():
            if modality_of(each) not in parse(parameters).modalities:
                continue
            result = stored(folder, case, *engine(name, each, parameters), compute=name in options.methods)
            if result is not None:
                own[name] = result
        climbed = [
            ladder.climb(partial(stored, folder, case, compute=not options.no_peers))
            for ladder in peers(each, lambda case=case: case.scan)
        ]
        found = [result for result in climbed if result is not None]
        best = max(found, key=lambda result: result.psnr) if len(found) == len(climbed) else None
        row = Row(each, own, best)
        rows.append(row)
        if "standard" in own and best is not None:
            picture(options.output / f"{each.name}.png", case, row, best)
    text, holds = report(rows)
    print(text)
    sys.exit(0 if holds else 1)


def picture(path: Path, case: Case, row: Row, best: Result) -> None:
    """Reference, best peer, total variation and `standard` with their errors."""
    if path.is_file() or "tv" not in row.own:
        return
    assert case.scan.reference is not None
    reference = case.scan.reference[0]
    results = [best, row.own["tv"], row.own["standard"]]
    shown = [(f"{result.label}\n{result.psnr:.2f} dB", result.image) for result in results]
    path.write_bytes(comparison_png([("reference", reference), *shown], reference))


if __name__ == "__main__":
    main()

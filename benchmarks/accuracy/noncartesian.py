"""Non-Cartesian MRI of people held out of all training, against BART's best of several weights. Prints Markdown.

`python -m benchmarks.accuracy.noncartesian --images FOLDER --output FOLDER`: middle slices in 256 x 256 pixels, smooth
phase, 15 coils, complex noise of 0.4 % of the maximum, 64 golden-angle spokes of 512 samples. Scans bring no coil maps:
BART grids by `nufft -i` and takes `ecalib`, ours takes its own. BART has the best of its weights by the truth: of a
ladder of weights, climbed from one that is good on average until both neighbours are worse. Ours never sees the truth.
One thread. Results are stored under the output and computed once.
"""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.quality import of_engine
from benchmarks.data.cases import COILS, Source, mri_images, person
from benchmarks.peers.bart import bart, bart_along
from udig_recon.core.acquisition import Acquisition, Modality, NonCartesianAcquisition
from udig_recon.core.comparison.stored import Made, Measurement, Result, cpu_seconds, measure_once, read_result
from udig_recon.core.results.png import comparison_png
from udig_recon.core.simulation import birdcage_maps, radial_spokes, simulate_non_cartesian

PEOPLE = (
    "limb_sts010_t1",
    "limb_sts042_t1",
    "limb_sts040_t1",
    "prostatex0000_t2_tra",
    "neck_gm10062_t2s",
    "brain_gd_t1",
)
"""None of them is in a bundled prior's training."""
SPOKES = 64
NOISE = 0.004
ITERATIONS = 100
FORMS = {
    "BART wavelet": ("W:3:0:{:g}", ("-e",), (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 8e-4, 1.2e-3, 2e-3, 4e-3), 3),
    "BART TV": ("T:3:0:{:g}", (), (7.5e-5, 1.5e-4, 3e-4, 6e-4, 1.2e-3, 2.5e-3, 4e-3), 2),
}
"""Regulariser, the options with which BART does best, the ladder of weights, and where the climb begins.

FISTA diverges for wavelets without its step scaled; ADMM does better by its own penalty (no -u, no -C).
"""
OWN = {"cg_sense": {"method": "cg_sense"}, "standard": {"method": "udig_dip"}}

Make = Callable[[Acquisition], Made]


class Bart:
    """BART on one scan; its coil maps are made once."""

    def __init__(self, scan: NonCartesianAcquisition) -> None:
        self._scan = scan

    @cached_property
    def maps(self) -> NDArray[np.complex64]:
        """Of the gridded k-space, by ESPIRiT."""
        side = self._scan.matrix[0]
        images, _ = bart_along(
            *("nufft", "-i", "-l0.01", f"-d{side}:{side}:1"),
            trajectory=self._scan.trajectory[0],
            kspace=self._scan.kspace[0],
        )
        gridded, _ = bart("fft", "-u", "7", images=images)
        return bart("ecalib", "-m1", kspace=gridded)[0]

    def run(self, options: Sequence[str]) -> Made:
        """|x| of `pics`."""
        maps, began = self.maps, cpu_seconds()
        image, seconds = bart_along(
            *("pics", "-S", "-d0", f"-i{ITERATIONS}", "-t", "trajectory", *options),
            trajectory=self._scan.trajectory[0],
            kspace=self._scan.kspace[0],
            maps=maps,
        )
        spent = {"seconds": seconds, "cpu_seconds": cpu_seconds() - began, "threads": 1}
        return np.abs(image[0]), spent


def peer(program: Bart, kind: str, rung: int) -> tuple[Measurement, Make]:
    """BART with one weight of a ladder."""
    form, extra, weights, _ = FORMS[kind]
    options = (*extra, "-R", form.format(weights[rung]))
    key = {"bart": " ".join(options), "iterations": ITERATIONS, "maps": "nufft -i, ecalib -m1"}
    return Measurement(f"{kind} {weights[rung]:g}", key), lambda _: program.run(options)


def climb(rungs: int, start: int, result_of: Callable[[int], Result | None]) -> Result | None:
    """The result of the rung whose neighbours are both worse, from `start` on; None: one of the three is missing."""
    rung = start
    while True:
        found: dict[int, Result] = {}
        # The rung itself is first, so that of equals it is taken and the climb ends.
        for place in (rung, rung - 1, rung + 1):
            if 0 <= place < rungs:
                result = result_of(place)
                if result is None:
                    return None
                found[place] = result
        # A run that diverged holds NaN.
        best = max(found, key=lambda place: -math.inf if math.isnan(found[place].psnr) else found[place].psnr)
        if best == rung:
            return found[best]
        rung = best


def best_of(kind: str, result_of: Callable[[int], Result | None]) -> Result | None:
    """BART's best result along the ladder of weights of a regulariser; None: one is missing."""
    _, _, weights, start = FORMS[kind]
    return climb(len(weights), start, result_of)


def stored(
    name: str, folder: Path, scan: NonCartesianAcquisition, run: Measurement, make: Make, *, compute: bool
) -> Result | None:
    """The result of a run on a person's scan, made now if it may be and is not there."""
    known = read_result(folder, run)
    if known is None and compute:
        assert scan.reference is not None
        known = measure_once(folder, run, lambda: make(scan), scan.reference[0])
        print(f"{name}: {run.label}: {known.psnr:.2f} dB, {known.fields['seconds']:.1f} s", flush=True)
    return known


def tried(result_of: Callable[..., Result | None], program: Bart, kind: str, compute: bool, rung: int) -> Result | None:
    """BART's result with one weight."""
    return result_of(*peer(program, kind, rung), compute=compute)


def scan_of(images: Path, name: str) -> NonCartesianAcquisition:
    """The middle slice of a person's volume."""
    file = f"mri/{name}.nii.gz"
    index = nibabel.load(images / file).shape[2] // 2
    ((_, image),) = mri_images(images, Source(file, 2, (index,), Modality.MRI))
    trajectory = radial_spokes((image.shape[0], image.shape[1]), SPOKES)
    maps, numbers = birdcage_maps(COILS, image.shape), np.random.default_rng((index, SPOKES))
    return simulate_non_cartesian(image, maps, trajectory, numbers, noise_level=NOISE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--people", nargs="+", choices=PEOPLE, default=PEOPLE)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--peers-only", action="store_true", help="compute none of our methods")
    only.add_argument("--own-only", action="store_true", help="compute none of BART")
    only.add_argument("--report-only", action="store_true", help="compute nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    by_bart = not (options.report_only or options.own_only)
    by_us = not (options.report_only or options.peers_only)
    rows = []
    for name in options.people:
        scan, folder = scan_of(options.images, name), options.output / name
        assert scan.reference is not None
        reference = scan.reference[0]
        result_of = partial(stored, name, folder, scan)
        program = Bart(scan)
        best = {kind: best_of(kind, partial(tried, result_of, program, kind, by_bart)) for kind in FORMS}
        for label, parameters in OWN.items():
            best[label] = result_of(*of_engine(label, parameters, Modality.MRI), compute=by_us)
        if any(result is None for result in best.values()):
            continue
        whole = {kind: result for kind, result in best.items() if result is not None}
        gain = whole["standard"].psnr - max(whole[kind].psnr for kind in FORMS)
        rows.append((name, *(result.psnr for result in whole.values()), gain))
        shown = [("reference", reference), *((f"{kind}\n{r.psnr:.2f} dB", r.image) for kind, r in whole.items())]
        (options.output / f"{name}.png").write_bytes(comparison_png(shown, reference))
    print("| person | BART wavelet dB | BART TV dB | cg_sense dB | standard dB | over BART dB |")
    print("|---|---|---|---|---|---|")
    for name, *levels, gain in rows:
        print(
            f"| {person(Source(name, 2, (), Modality.MRI))} | {' | '.join(f'{x:.2f}' for x in levels)} | {gain:+.2f} |"
        )


if __name__ == "__main__":
    main()

"""Non-Cartesian MRI of people held out of all training, against BART's best of several weights. Prints Markdown.

`python -m benchmarks.accuracy.noncartesian --images FOLDER --output FOLDER`: middle slices in 256 x 256 pixels, smooth
phase, 15 coils, complex noise of 0.4 % of the maximum, 64 golden-angle spokes of 512 samples. Scans bring no coil maps:
BART grids by `nufft -i` and takes `ecalib`, ours takes its own. BART has the best of its weights by the truth, ours
never sees it. One thread. Results are stored under the output and computed once.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.accuracy.quality import of_engine
from benchmarks.data.cases import COILS, Source, mri_images, person
from benchmarks.peers.bart import bart, bart_along
from udig_recon.core.acquisition import Acquisition, Modality, NonCartesianAcquisition
from udig_recon.core.comparison.stored import Made, Measurement, cpu_seconds, measure_once, read_result
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
WAVELET_WEIGHTS = (0.0003, 0.0005)
TV_WEIGHTS = (0.0002, 0.0006)
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


def peers(scan: NonCartesianAcquisition) -> Iterator[tuple[Measurement, Make]]:
    """BART's weights: FISTA needs its step scaled, ADMM a penalty of its own to converge."""
    program = Bart(scan)
    forms = [(f"wavelet {weight:g}", ("-e", "-R", f"W:3:0:{weight:g}")) for weight in WAVELET_WEIGHTS]
    forms += [(f"TV {weight:g}", ("-u0.01", "-C10", "-R", f"T:3:0:{weight:g}")) for weight in TV_WEIGHTS]
    for name, options in forms:
        key = {"bart": " ".join(options), "iterations": ITERATIONS, "maps": "nufft -i, ecalib -m1"}
        yield Measurement(f"BART {name}", key), lambda _, options=options: program.run(options)


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
    rows = []
    for name in options.people:
        scan, folder = scan_of(options.images, name), options.output / name
        assert scan.reference is not None
        reference = scan.reference[0]
        against = list(peers(scan))
        ours = [of_engine(label, parameters, Modality.MRI) for label, parameters in OWN.items()]
        wanted = [] if options.report_only else against if options.peers_only else ours
        wanted = [*against, *ours] if not (options.report_only or options.peers_only or options.own_only) else wanted
        for run, make in wanted:
            if read_result(folder, run) is None:
                result = measure_once(folder, run, lambda make=make, scan=scan: make(scan), reference)
                print(f"{name}: {run.label}: {result.psnr:.2f} dB, {result.fields['seconds']:.1f} s", flush=True)
        found = {run.label: read_result(folder, run) for run, _ in (*against, *ours)}
        best = {
            kind: max(
                (r for label, r in found.items() if r and label.startswith(kind)), key=lambda r: r.psnr, default=None
            )
            for kind in ("BART wavelet", "BART TV", *OWN)
        }
        if any(result is None for result in best.values()):
            continue
        whole = {kind: result for kind, result in best.items() if result is not None}
        peer = max(whole["BART wavelet"].psnr, whole["BART TV"].psnr)
        rows.append((name, *(result.psnr for result in whole.values()), whole["standard"].psnr - peer))
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

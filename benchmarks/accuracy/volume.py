"""Cost and accuracy of neighbouring slices that share a reference slice, against slices reconstructed alone.

`python -m benchmarks.accuracy.volume --images FOLDER --output FOLDER`. Prints Markdown. One block of slices of a person
held out of training, with `standard`: 256 x 256, 15 coils of one mask (MRI), or views projected by ASTRA (CT). CPU
seconds of one thread. The cost of 16 slices is that of two blocks: two reference slices and fourteen dependent ones of
the mean cost of those measured. A reference slice is computed once; it is the same alone and in its block. Results are
stored as in `benchmarks.accuracy.quality`.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.data.cases import COILS, NOISE, SAMPLINGS, Source, ct_cases, mask, mri_images
from udig_recon.core.acquisition import Acquisition, CTAcquisition, Modality
from udig_recon.core.comparison.stored import Made, Measurement, Result, measure_once
from udig_recon.core.parameters import Parameters, complete, parse
from udig_recon.core.priors.load import load_prior
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.core.simulation import birdcage_maps, simulate_mri
from udig_recon.core.slice_order import BLOCK, WarmStart, processing_order, reference_slices

CPU = torch.device("cpu")
VOLUME = 16
SOURCES = {
    Modality.MRI: Source("mri/brain_gd_t1.nii.gz", 2, range(47, 47 + BLOCK), Modality.MRI),
    Modality.CT: Source("ct/upper_abdomen_hu.nii.gz", 2, range(6, 6 + BLOCK), Modality.CT),
}


class Volume(NamedTuple):
    """Scan of a few neighbouring slices."""

    name: str
    scan: Acquisition

    @property
    def modality(self) -> Modality:
        return Modality.CT if isinstance(self.scan, CTAcquisition) else Modality.MRI


def volume(images: Path, sampling: str, count: int) -> Volume:
    """The first `count` slices of the block, at a sampling of MRI or as many views of CT as it says."""
    modality = Modality.MRI if sampling in SAMPLINGS else Modality.CT
    source = SOURCES[modality]
    chosen = source._replace(slices=source.slices[:count])
    if modality is Modality.CT:
        scans = [case.scan for case in ct_cases(images, chosen, [int(sampling.split()[0])])]
        sinograms, references = ([getattr(scan, name) for scan in scans] for name in ("sinogram", "reference"))
        scan = replace(scans[0], sinogram=np.concatenate(sinograms), reference=np.concatenate(references))
        return Volume(sampling, scan)
    stack = np.stack([image for _, image in mri_images(images, chosen)])
    rng = np.random.default_rng((source.slices[0], SAMPLINGS.index(sampling)))
    maps = birdcage_maps(COILS, stack.shape[1:])
    return Volume(sampling, simulate_mri(stack, maps, mask(sampling, stack.shape[1:], rng), rng, noise_level=NOISE))


def made(scan: Acquisition, index: int, method: Parameters, warm_start: WarmStart | None) -> Made:
    """A slice, its prior check and the seconds of this thread's processor."""
    began = time.process_time()
    problem = slice_problem(scan, index, CPU, fit_maps=method.fits_maps, preprocessing=method.preprocessing)
    problem_seconds = time.process_time() - began
    *_, last = reconstruct(problem, method, seed=0, warm_start=warm_start)
    spent = {"cpu_seconds": time.process_time() - began, "problem_seconds": problem_seconds}
    assert last.prior_check is not None
    return problem.magnitude(last.image), {
        **spent,
        "prior_check": last.prior_check.as_json(),
        "best_at": last.prior_check.best_at,
    }


class Pair(NamedTuple):
    """A slice by itself and in its block."""

    alone: Result
    dependent: Result


def pairs(taken: Volume, dependents: int, output: Path) -> list[Pair]:
    """Of the reference slice, which is its own pair, and so many of its dependents."""
    method = complete(parse({"method": "udig_dip"}), taken.modality)
    load_prior(None, taken.modality, None, CPU)
    numbers = range(taken.scan.slices)
    references, found = reference_slices(numbers, method), dict[int, Result]()
    assert taken.scan.reference is not None
    pairs = []
    for number in processing_order(numbers, references)[: 1 + dependents]:
        folder, reference = output / f"{taken.name.replace(' ', '_')}-{number}", taken.scan.reference[number]
        key = {"parameters": method.model_dump(mode="json")}
        alone = measure_once(
            folder, Measurement("alone", key), partial(made, taken.scan, number, method, None), reference
        )
        found[number] = in_block = alone
        if number in references:
            warm_start = WarmStart.from_check(references[number], found[references[number]].fields["prior_check"])
            make = partial(made, taken.scan, number, method, warm_start)
            in_block = measure_once(folder, Measurement("led", {**key, "warm_start": str(warm_start)}), make, reference)
        pairs.append(Pair(alone, in_block))
        print(f"{folder.name}: {told(alone)}; {told(in_block)}", flush=True)
    return pairs


def told(result: Result) -> str:
    check = result.fields["prior_check"]
    return f"{result.label} {result.psnr:.2f} dB, {result.fields['cpu_seconds']:.1f} s, {check['prior_weight']:.2f}"


def row(name: str, pairs: Sequence[Pair]) -> str:
    """One line of the table."""
    dependents = pairs[1:]
    alone = mean(pair.alone.fields["cpu_seconds"] for pair in pairs)
    dependent = mean(pair.dependent.fields["cpu_seconds"] for pair in dependents)
    blocks = VOLUME // BLOCK
    whole = blocks * alone + (VOLUME - blocks) * dependent
    lost = [pair.dependent.psnr - pair.alone.psnr for pair in dependents]
    cells = (
        name,
        str(len(pairs)),
        f"{alone:.1f}",
        f"{dependent:.1f}",
        f"{VOLUME * alone:.0f}",
        f"{whole:.0f}",
        f"**{whole / (VOLUME * alone):.2f}**",
        f"{mean(pair.alone.psnr for pair in pairs):.2f}",
        f"{mean(pair.dependent.psnr for pair in pairs):.2f}",
        f"{min(lost):+.2f} to {max(lost):+.2f}",
    )
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "sampling",
    "slices",
    "alone s",
    "dependent s",
    "16 alone s",
    "volume of 16 s",
    "ratio",
    "alone dB",
    "in the block dB",
    "dependents' change dB",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--samplings", nargs="+", default=["4x", "8x", "18 views"], help="or 'poisson 8x', '30 views'")
    parser.add_argument("--slices", type=int, default=BLOCK, choices=range(2, BLOCK + 1), help="of the block")
    parser.add_argument("--dependents", type=int, default=BLOCK - 1, help="that are measured at most; all by default")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for name in options.samplings:
        taken = volume(options.images, name, options.slices)
        rows.append(row(name, pairs(taken, options.dependents, options.output)))
    print(f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", *rows, sep="\n")


if __name__ == "__main__":
    main()

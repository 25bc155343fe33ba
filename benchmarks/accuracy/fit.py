"""Whether a prior that is adapted to a volume's own undersampled slices makes better images. Prints Markdown.

`python -m benchmarks.accuracy.fit --images FOLDER [--cases NAME ...]`. Of each volume, whose person and mostly whose
anatomy no bundled prior has seen, every second slice is tuned on (`udig adapt-prior`), and all are reconstructed with
and without. No reference is used but for PSNR. MRI: 192 x 192, the body enlarged to 90 % of it, smooth phase, 8 coils
with known maps, 4x lines with 8 % centre, noise of 0.4 %. CT: 30 views as in `benchmarks.data.cases`.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom

from benchmarks.data.cases import Source, crop_or_pad, ct_images, ct_scan
from udig_recon.core.acquisition import Acquisition, Modality
from udig_recon.core.metrics import psnr
from udig_recon.core.priors.architectures import EDMNetwork
from udig_recon.core.priors.card import find_card
from udig_recon.core.priors.edm import load_edm
from udig_recon.core.priors.load import load_card
from udig_recon.core.problem import slice_problem
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, simulate_mri
from udig_recon.core.training.adaptation import TrainingSlice, Tuning, adapt_prior
from udig_recon.core.training.augmentation import with_phase
from udig_recon.core.training.dataset import normalise

SIZE, FILLED, COILS, NOISE = 192, 0.9, 8, 0.004
VIEWS = 30
SLICES = 8
CPU = torch.device("cpu")
COLUMNS = (
    "volume",
    "slices tuned on / of",
    "without",
    "with",
    "gain",
    "least of a slice",
    "residual left out",
    "tuned",
    "taken",
    "s to adapt",
    "s of the 25 steps, all slices",
)

Scans = Callable[[Path], list[Acquisition]]


def mri(file: str, first: int, folder: Path) -> list[Acquisition]:
    """Scans of eight neighbouring axial slices of a volume."""
    volume = normalise(np.asarray(nibabel.load(folder / "mri" / file).dataobj, np.float32), Modality.MRI)
    scans: list[Acquisition] = []
    for index in range(first, first + SLICES):
        image = _enlarged(np.rot90(volume[:, :, index]))
        channels = with_phase(torch.from_numpy(image)[None, None], torch.Generator().manual_seed(index))[0].numpy()
        rng = np.random.default_rng((index, 0))
        mask = cartesian_lines(image.shape, 4, 0.08, rng)
        maps = birdcage_maps(COILS, image.shape)
        plane = (channels[0] + 1j * channels[1]).astype(np.complex64)
        scans.append(simulate_mri(plane, maps, mask, rng, noise_level=NOISE, with_maps=True))
    return scans


def _enlarged(image: NDArray[np.float32]) -> NDArray[np.float32]:
    larger = zoom(image, FILLED * SIZE / max(image.shape), order=3).clip(0).astype(np.float32)
    return crop_or_pad(larger, SIZE)


def ct(slices: Sequence[tuple[str, int]], folder: Path) -> list[Acquisition]:
    """Scans of slices of one person in 30 views."""
    scans: list[Acquisition] = []
    for file, index in slices:
        images, pixel_mm = ct_images(folder, Source(f"ct/{file}", 2, (index,), Modality.CT))
        scans.append(ct_scan(images[index], pixel_mm, VIEWS, index))
    return scans


CASES: Mapping[str, Scans] = {
    "limb 042 (knee)": partial(mri, "limb_sts042_t1.nii.gz", 6),
    "limb 040 (hip)": partial(mri, "limb_sts040_t1.nii.gz", 8),
    "pelvis": partial(mri, "prostatex0000_t2_tra.nii.gz", 4),
    "neck": partial(mri, "neck_gm10062_t2s.nii.gz", 4),
    "abdomen, 30 views": partial(ct, [("upper_abdomen_hu.nii.gz", index) for index in range(2, 14, 2)]),
    "chest, 30 views": partial(ct, [(f"nysbu_A002304_{scan}_hu.nii.gz", 0) for scan in "ab"]),
}


def row(name: str, folder: Path) -> list[str]:
    """The row of a volume."""
    problems = [slice_problem(scan, 0, CPU) for scan in CASES[name](folder)]
    modality = problems[0].modality
    card = find_card(None, modality)
    if not isinstance(card.network, EDMNetwork):
        raise TypeError(card.network.architecture)
    prior = load_card(card, CPU)
    rng = torch.Generator().manual_seed(0)
    slices = [each for problem in problems if (each := TrainingSlice.split(problem, rng)) is not None]
    began = time.process_time()
    before = _scores(slices, prior)
    middle = time.process_time()
    used = slices[:: 1 if len(slices) < 4 else 2]
    found = adapt_prior(prior, card.network, used, modality, Tuning())
    ended = time.process_time()
    tuned = load_edm(card.network, {key: value.float() for key, value in found.weights.items()})
    tuned = tuned.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = _scores(slices, tuned)
    gains = [b - a for a, b in zip(before, after, strict=True)]
    return [
        name,
        f"{len(used)} / {len(slices)}",
        f"{fmean(before):.2f}",
        f"{fmean(after):.2f}",
        f"{fmean(gains):+.2f}",
        f"{min(gains):+.2f}",
        f"{found.before:.4f}",
        f"{found.after:.4f}",
        "yes" if found.is_better else "no",
        f"{ended - middle:.0f}",
        f"{middle - began:.0f}",
    ]


def _scores(slices: Sequence[TrainingSlice], prior: torch.nn.Module) -> list[float]:
    """PSNR of each slice in dB."""
    scores = []
    for each in slices:
        reference = each.problem.reference
        if reference is None:
            raise ValueError("the scan has no reference")
        image = each.problem.magnitude(each.reconstruct(prior, 0) * each.scale)
        scores.append(psnr(image, reference))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    for name in options.cases:
        print("| " + " | ".join(row(name, options.images)) + " |", flush=True)


if __name__ == "__main__":
    main()

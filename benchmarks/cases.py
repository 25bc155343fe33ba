"""The scans that quality is measured on: slices of people kept out of training, undersampled by known means.

MRI: 256 x 256, 15 coils, smooth phase, complex noise of 0.5 % of the maximum; lines at 4x (8 % centre) and 8x (4 %),
Poisson-disc at 8x. CT: 512-pixel originals projected by ASTRA's strip kernel with 1e6 photons a ray onto 30 or 18 views,
to be reconstructed at 256 pixels. Needs the images (see `Source`) and, for CT, astra-toolbox.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.astra_reference import project
from core.acquisition import Acquisition, CTAcquisition
from core.augmentation import with_phase
from core.sampling import birdcage_maps, cartesian_lines, poisson_disc, simulate_mri
from core.training_images import normalised
from core.acquisition import Modality

SIZE = 256
COILS = 15
NOISE = 0.005
PHOTONS = 1e6
WATER_1_PER_MM = 0.0193


class Source(NamedTuple):
    """Slices of one person's volume."""

    file: str  # under the folder of images
    axis: int
    slices: Sequence[int]
    modality: Modality


class Case(NamedTuple):
    """One scan with its truth."""

    person: str
    sampling: str  # "4x", "8x", "poisson 8x", "30 views", "18 views"
    index: int
    scan: Acquisition

    @property
    def name(self) -> str:
        return f"{self.person}-{self.index}-{self.sampling}".replace(" ", "_")


def mri_cases(folder: Path, source: Source, samplings: Sequence[str] = ("4x", "8x", "poisson 8x")) -> list[Case]:
    """Scans of each slice of a source at each sampling."""
    volume = normalised(np.asarray(nibabel.load(folder / source.file).dataobj, np.float32), Modality.MRI)
    person = Path(source.file).name.split(".")[0]
    cases = []
    for index in source.slices:
        image = fitted(np.rot90(np.take(volume, index, source.axis)), SIZE)
        rng = torch.Generator().manual_seed(index)
        channels = with_phase(torch.from_numpy(image.copy())[None, None], rng)[0].numpy()
        for sampling in samplings:
            numbers = np.random.default_rng((index, samplings.index(sampling)))
            scan = simulate_mri(
                (channels[0] + 1j * channels[1]).astype(np.complex64),
                birdcage_maps(COILS, (SIZE, SIZE)),
                mask(sampling, numbers),
                numbers,
                noise_level=NOISE,
            )
            cases.append(Case(person, sampling, index, scan))
    return cases


def mask(sampling: str, rng: np.random.Generator) -> NDArray[np.bool_]:
    match sampling:
        case "4x":
            return cartesian_lines((SIZE, SIZE), 4, 0.08, rng)
        case "8x":
            return cartesian_lines((SIZE, SIZE), 8, 0.04, rng)
        case _:
            return poisson_disc((SIZE, SIZE), 8, 24, rng)


def fitted(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The image centred in a square of `size` pixels, cropped or padded with zeros."""
    for axis in (0, 1):
        surplus = image.shape[axis] - size
        if surplus > 0:
            image = np.take(image, range(surplus // 2, surplus // 2 + size), axis)
        elif surplus < 0:
            before = -surplus // 2
            widths = [(0, 0), (0, 0)]
            widths[axis] = (before, -surplus - before)
            image = np.pad(image, widths)
    return np.ascontiguousarray(image, np.float32)


def ct_cases(folder: Path, source: Source, views: Sequence[int] = (30, 18)) -> list[Case]:
    """Scans of each slice of a source in each number of views, parallel beam."""
    image = nibabel.load(folder / source.file)
    person = Path(source.file).name.split(".")[0]
    pixel_mm = float(image.header.get_zooms()[0])
    cases = []
    for index in source.slices:
        hounsfield = np.rot90(np.asarray(image.dataobj[:, :, index], np.float32))
        fine = fitted(np.clip(WATER_1_PER_MM * (1 + hounsfield / 1000), 0, None).astype(np.float32), 2 * SIZE)
        offset = np.arange(2 * SIZE) - SIZE + 0.5
        fine[np.hypot(offset[:, None], offset) > SIZE - 2] = 0
        for count in views:
            rng = np.random.default_rng((index, count))
            angles = np.arange(count) * np.pi / count
            detectors = int(np.ceil(np.sqrt(2) * SIZE)) | 1
            exact = project(fine, angles, detectors, pixel_mm, 2 * pixel_mm)
            counts = rng.poisson(PHOTONS * np.exp(-exact.astype(np.float64)))
            scan = CTAcquisition(
                sinogram=-np.log(np.maximum(counts, 0.5) / PHOTONS).astype(np.float32)[None],
                angles=angles,
                image_size=SIZE,
                pixel_size_mm=2 * pixel_mm,
                detector_spacing_mm=2 * pixel_mm,
                reference=fine.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))[None],
            )
            cases.append(Case(person, f"{count} views", index, scan))
    return cases

"""The scans that quality is measured on: slices of people kept out of training, undersampled by known means.

MRI: 256 x 256, 15 coils, smooth phase, complex noise of 0.5 % of the maximum; lines at 4x (8 % centre) and 8x (4 %),
Poisson-disc at 8x. CT: 512-pixel originals projected by ASTRA's strip kernel with 1e6 photons a ray onto 30 or 18
views, to be reconstructed at 256 pixels. Needs the images (see `Source`) and, for CT, astra-toolbox.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from udig_recon.core.acquisition import Acquisition, CTAcquisition, Modality, MRIAcquisition
from udig_recon.core.simulation import WATER_1_PER_MM, birdcage_maps, cartesian_lines, poisson_disc, simulate_mri
from udig_recon.core.training.augmentation import with_phase
from udig_recon.core.training.dataset import normalise

SAMPLINGS = ("4x", "8x", "poisson 8x")
VIEWS = (30, 18)
SIZE = 256
COILS = 15
NOISE = 0.005
PHOTONS = 1e6


class Source(NamedTuple):
    """Slices of one person's volume."""

    file: str  # under the folder of images
    axis: int
    slices: Sequence[int]
    modality: Modality


BRAIN = Source("mri/brain_gd_t1.nii.gz", 2, (50, 80), Modality.MRI)
BODY = Source("ct/upper_abdomen_hu.nii.gz", 2, (4, 10, 16), Modality.CT)
"""People that no bundled prior has seen."""


@dataclass(frozen=True)
class Case:
    """One scan with its truth, simulated when it is first asked for."""

    person: str
    sampling: str  # of SAMPLINGS, or "30 views", "18 views"
    index: int
    simulate: Callable[[], Acquisition]

    @property
    def name(self) -> str:
        return f"{self.person}-{self.index}-{self.sampling}".replace(" ", "_")

    @cached_property
    def scan(self) -> Acquisition:
        return self.simulate()


def cases(folder: Path, source: Source) -> list[Case]:
    """Scans of each slice of a source at each sampling of its modality."""
    return (mri_cases if source.modality is Modality.MRI else ct_cases)(folder, source)


def mri_cases(folder: Path, source: Source, samplings: Sequence[str] = SAMPLINGS, size: int = SIZE) -> list[Case]:
    """Scans of each slice of a source at each sampling."""
    return [
        Case(person(source), sampling, index, partial(mri_scan, image, sampling, index))
        for index, image in mri_images(folder, source, size)
        for sampling in samplings
    ]


def mri_images(folder: Path, source: Source, size: int = SIZE) -> Iterator[tuple[int, NDArray[np.complex64]]]:
    """Number of each slice of a source and its image (y, x), of smooth phase."""
    volume = normalise(np.asarray(nibabel.load(folder / source.file).dataobj, np.float32), Modality.MRI)
    for index in source.slices:
        image = crop_or_pad(np.rot90(np.take(volume, index, source.axis)), size)
        rng = torch.Generator().manual_seed(index)
        channels = with_phase(torch.from_numpy(image.copy())[None, None], rng)[0].numpy()
        yield index, (channels[0] + 1j * channels[1]).astype(np.complex64)


def mri_scan(
    image: NDArray[np.complex64], sampling: str, index: int, with_maps: bool = False, coils: int = COILS
) -> MRIAcquisition:
    """Scan of an image (y, x); the slice's number seeds mask and noise."""
    numbers = np.random.default_rng((index, SAMPLINGS.index(sampling)))
    return simulate_mri(
        image,
        birdcage_maps(coils, image.shape),
        mask(sampling, image.shape, numbers),
        numbers,
        noise_level=NOISE,
        with_maps=with_maps,
    )


def person(source: Source) -> str:
    return Path(source.file).name.split(".")[0]


def mask(sampling: str, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    match sampling:
        case "4x":
            return cartesian_lines(shape, 4, 0.08, rng)
        case "8x":
            return cartesian_lines(shape, 8, 0.04, rng)
        case _:
            return poisson_disc(shape, 8, 24, rng)


def crop_or_pad(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
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


def ct_cases(folder: Path, source: Source, views: Sequence[int] = VIEWS) -> list[Case]:
    """Scans of each slice of a source in each number of views, parallel beam."""
    images, pixel_mm = ct_images(folder, source)
    return [
        Case(person(source), f"{count} views", index, partial(ct_scan, fine, pixel_mm, count, index))
        for index, fine in images.items()
        for count in views
    ]


def ct_images(folder: Path, source: Source) -> tuple[dict[int, NDArray[np.float32]], float]:
    """Image (y, x) of each slice of a source in 1/mm, twice as fine as to be reconstructed; and its pixel in mm."""
    volume = nibabel.load(folder / source.file)
    offset = np.arange(2 * SIZE) - SIZE + 0.5
    outside = np.hypot(offset[:, None], offset) > SIZE - 2
    images = {}
    for index in source.slices:
        hounsfield = np.rot90(np.asarray(volume.dataobj[:, :, index], np.float32))
        images[index] = crop_or_pad(
            np.clip(WATER_1_PER_MM * (1 + hounsfield / 1000), 0, None).astype(np.float32), 2 * SIZE
        )
        images[index][outside] = 0
    return images, float(volume.header.get_zooms()[0])


def ct_scan(
    fine: NDArray[np.float32], pixel_mm: float, views: int, index: int, photons: float = PHOTONS
) -> CTAcquisition:
    """Scan of an image (y, x) in 1/mm with pixels half as large as those to reconstruct; its number seeds the noise."""
    from benchmarks.peers.astra_reference import project

    rng = np.random.default_rng((index, views))
    angles = np.arange(views) * np.pi / views
    detectors = int(np.ceil(np.sqrt(2) * SIZE)) | 1
    exact = project(fine, angles, detectors, pixel_mm, 2 * pixel_mm)
    counts = rng.poisson(photons * np.exp(-exact.astype(np.float64)))
    return CTAcquisition(
        sinogram=-np.log(np.maximum(counts, 0.5) / photons).astype(np.float32)[None],
        angles=angles,
        image_size=SIZE,
        pixel_size_mm=2 * pixel_mm,
        detector_spacing_mm=2 * pixel_mm,
        reference=fine.reshape(SIZE, 2, SIZE, 2).mean(axis=(1, 3))[None],
    )

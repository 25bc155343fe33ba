"""Validation of a prior under training on people held out: denoising, and reconstruction of simulated scans."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from udig_recon.core.acquisition import Acquisition, Modality
from udig_recon.core.metrics import psnr
from udig_recon.core.normalisation import WATER
from udig_recon.core.operators import as_complex
from udig_recon.core.parameters import SIRT, CGSense, Parameters, UDiGDIP, complete
from udig_recon.core.priors.card import Folders
from udig_recon.core.priors.purify import Denoiser
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import finish, reconstruct_slice
from udig_recon.core.results.png import rows_png
from udig_recon.core.simulation import WATER_1_PER_MM, birdcage_maps, cartesian_lines, simulate_ct, simulate_mri
from udig_recon.core.training.augmentation import with_phase
from udig_recon.core.training.dataset import TrainingImage

SCORED_SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
SHOWN_SIGMAS = (0.05, 0.2, 0.5)
DENOISED_SLICES = 8
LARGEST_SIDE = 272
"""Slices are binned by a whole number until they are no larger, in pixels a side with their margin, to be scanned."""
COILS, ACCELERATION, CENTER_FRACTION, NOISE_LEVEL = 8, 4, 0.08, 0.005
VIEWS, PHOTONS = 30, 1e6

Image = NDArray[np.float32]


class Validation:
    """Slices of people held out, simulated scans of some of them, and their reconstruction by a classical method.

    MRI: 8 coils with known maps, 4x lines with a full centre of 8 %, noise of 0.5 % of the maximum, beside `cg_sense`.
    CT: 30 views of 1e6 photons a ray, pixels of 1 mm, beside `sirt`.
    """

    def __init__(
        self,
        images: Sequence[TrainingImage],
        modality: Modality,
        device: torch.device,
        *,
        reconstructed_slices: int = 3,
    ) -> None:
        self.modality = modality
        self.device = device
        self.denoised = images[:: max(1, len(images) // DENOISED_SLICES)]
        # The middle slice of each of as many equal parts: the first slices of a volume show little.
        count = min(reconstructed_slices, len(images))
        middles = [images[(2 * part + 1) * len(images) // (2 * count)] for part in range(count)]
        self.scanned = [_fit_size(image.pixels, modality) for image in middles]
        scans = [_simulate(slice_, modality) for slice_ in self.scanned]
        self.truths = [truth for truth, _ in scans]
        self.problems = [slice_problem(scan, 0, device) for _, scan in scans]
        classical = CGSense() if modality is Modality.MRI else SIRT()
        self.start_name = classical.method
        self.starts = [_reconstruct(problem, classical) for problem in self.problems]

    def evaluate(self, prior: nn.Module, name: str, folder: Path) -> tuple[dict[str, float], bytes]:
        """Scores in dB and a picture (PNG) of a prior, which is also stored by its name in a folder."""
        scores, images = self.reconstruction(name, folder)
        return self.denoising(prior) | scores, self.picture(prior, images)

    def denoising(self, prior: Denoiser) -> dict[str, float]:
        """PSNR in dB of denoised whole slices, by noise level."""
        rng = torch.Generator().manual_seed(0)
        scores = {}
        for sigma in SCORED_SIGMAS:
            total = sum(self._denoised_psnr(prior, image.pixels, sigma, rng) for image in self.denoised)
            scores[f"psnr_at_{sigma}"] = round(total / len(self.denoised), 2)
        return scores

    def reconstruction(self, name: str, folder: Path) -> tuple[dict[str, float], list[Image]]:
        """Mean PSNR in dB of uDiG-DIP, preset `preview`, with a prior of a folder, and of the classical method.

        Returns the reconstructed magnitudes (y, x) too.
        """
        method = complete(UDiGDIP(prior=name, preset="preview"), self.modality)
        images = [_reconstruct(problem, method, folder) for problem in self.problems]
        return {"reconstruction_psnr": self._psnr(images), "start_psnr": self._psnr(self.starts)}, images

    def picture(self, prior: Denoiser, images: Sequence[Image]) -> bytes:
        """PNG of the middle scanned slice: at three noise levels noisy, denoised and the error, then reconstructed."""
        rng = torch.Generator().manual_seed(0)
        middle = len(images) // 2
        rows = []
        for sigma in SHOWN_SIGMAS:
            clean, noisy, denoised = self._denoise(prior, self.scanned[middle][None], sigma, rng)
            rows.append([("held out", clean), (f"noise {sigma:g}", noisy), _panel("denoised", denoised, clean)])
        truth = self.truths[middle]
        start = _panel(self.start_name, self.starts[middle], truth)
        return rows_png([*rows, [("reference", truth), start, _panel("reconstruction", images[middle], truth)]])

    def _psnr(self, images: Sequence[Image]) -> float:
        scores = [psnr(image, truth) for image, truth in zip(images, self.truths, strict=True)]
        return round(sum(scores) / len(scores), 2)

    def _denoised_psnr(self, prior: Denoiser, pixels: Tensor, sigma: float, rng: torch.Generator) -> float:
        magnitude, _, denoised = self._denoise(prior, pixels[None].float(), sigma, rng)
        return psnr(denoised, magnitude)

    def _denoise(
        self, prior: Denoiser, magnitude: Tensor, sigma: float, rng: torch.Generator
    ) -> tuple[Image, Image, Image]:
        """Magnitudes (y, x) of a slice (1, 1, H, W), of the slice with noise, and of the denoised slice."""
        clean = with_phase(magnitude, rng) if self.modality is Modality.MRI else magnitude
        noisy = clean + sigma * torch.randn(clean.shape, generator=rng)
        with torch.no_grad():
            denoised = prior(noisy.to(self.device), sigma).cpu()
        return magnitude[0, 0].numpy(), self._magnitude(noisy), self._magnitude(denoised)

    def _magnitude(self, image: Tensor) -> Image:
        plane = image.norm(dim=1)[0] if self.modality is Modality.MRI else image[0, 0]
        magnitude: Image = plane.numpy()
        return magnitude


def _fit_size(pixels: Tensor, modality: Modality) -> Tensor:
    """A slice (1, H, W) as it is scanned: binned where it is large, padded to a square for CT."""
    image = F.avg_pool2d(pixels.float(), math.ceil(max(pixels.shape) / LARGEST_SIDE))
    if modality is Modality.MRI:
        return image
    _, height, width = image.shape
    rows, columns = max(height, width) - height, max(height, width) - width
    return F.pad(image, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


def _simulate(image: Tensor, modality: Modality) -> tuple[Image, Acquisition]:
    """The truth (y, x) and the simulated scan of a slice (1, H, W)."""
    rng = np.random.default_rng(0)
    if modality is Modality.CT:
        attenuation = image[0].numpy() * np.float32(WATER_1_PER_MM / WATER)
        return attenuation, simulate_ct(attenuation, VIEWS, PHOTONS, rng)
    plane = as_complex(with_phase(image[None], torch.Generator().manual_seed(0)))[0].numpy()
    mask = cartesian_lines(plane.shape, ACCELERATION, CENTER_FRACTION, rng)
    maps = birdcage_maps(COILS, plane.shape)
    return np.abs(plane), simulate_mri(plane, maps, mask, rng, noise_level=NOISE_LEVEL, with_maps=True)


def _reconstruct(problem: SliceProblem, method: Parameters, priors: Folders = None) -> Image:
    """Magnitude (y, x) of the reconstruction with seed 0."""
    return finish(reconstruct_slice(problem, method, seed=0, priors=priors, rated=False)).result.image


def _panel(name: str, image: Image, truth: Image) -> tuple[str, Image]:
    return f"{name}\nPSNR {psnr(image, truth):.2f} dB", image

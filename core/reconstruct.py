"""The front door: one slice of a scan in, a stream of iterates in the scan's units out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core import algorithms, metrics
from udig_recon.core.acquisition import Acquisition, CTAcquisition, Modality, MRIAcquisition
from udig_recon.core.coils.espirit import calibration_size, espirit
from udig_recon.core.coils.joint_maps import with_joint_maps
from udig_recon.core.coils.prewhitening import brightness, whitened, whitening
from udig_recon.core.iterates import Iterate, Iterates, State
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.operators import LinearOperator, MultiCoilMRI, ParallelBeamCT, as_channels, as_complex
from udig_recon.core.parameters import Parameters
from udig_recon.core.priors.card import Folders
from udig_recon.core.selection.output_variance import with_variance
from udig_recon.core.slice_order import WarmStart

OTHER_UNIT = 1.7
"""How much larger or smaller than the image a reference is that must be in another unit."""


@dataclass(frozen=True)
class Quality:
    """How good an image (y, x) is: its misfit always, the others where a reference is known."""

    data_residual: float  # |A x - y| / |y|
    noise_discrepancy: float | None = None  # |A x - y| over that of the noise alone; None where no noise is found
    psnr: float | None = None  # dB, range is the reference's maximum
    ssim: float | None = None
    nmse: float | None = None


@dataclass(frozen=True, eq=False)
class SliceProblem:
    """y = A x for one slice.

    Images are (1, C, H, W) in the scan's units; the measurements y are `operator.scale` times what was measured.
    """

    operator: LinearOperator
    measurements: Tensor
    recon_size: tuple[int, int]
    reference: NDArray[np.float32] | None  # (y, x)
    guide: NDArray[np.float32] | None = None  # (y, x), a structural image in any unit

    @cached_property
    def rescaled(self) -> bool:
        """Whether the reference is in another unit than the image, by far, so that figures need one to be scaled."""
        if self.reference is None:
            return False
        ours, theirs = self._norm(), float(np.linalg.norm(self.reference.astype(np.float64)))
        return min(ours, theirs) > 0 and not 1 / OTHER_UNIT <= theirs / ours <= OTHER_UNIT

    def _norm(self) -> float:
        """About that of the image: of CT the filtered back-projection's, of MRI by Parseval's theorem."""
        if not isinstance(self.operator, MultiCoilMRI):
            return float(self.plain().norm())
        seen = torch.linalg.vector_norm(self.operator.maps, dim=0)
        return float(self.measurements.norm()) / self.operator.scale / float(seen[self.operator.support > 0].median())

    @cached_property
    def noise_norm(self) -> float:
        """|A x - y| of a perfect image."""
        return self.operator.noise_norm(self.measurements)

    @property
    def modality(self) -> Modality:
        """MRI images are complex, CT images are not."""
        return self.operator.modality

    def plain(self) -> Tensor:
        """What needs no iteration: A^H y for MRI, filtered back-projection for CT."""
        if isinstance(self.operator, ParallelBeamCT):
            return self.operator.fbp(self.measurements)
        return self.operator.adjoint(self.measurements)

    def magnitude(self, image: Tensor) -> NDArray[np.float32]:
        """Magnitude (MRI) or attenuation (CT), (y, x), cropped to the reconstruction's size."""
        return self.shown(self.brightness(image))

    def brightness(self, image: Tensor) -> Tensor:
        """Magnitude (MRI) or attenuation (CT) of images (B, C, H, W) on the operator's grid, (B, 1, H, W)."""
        return image.norm(dim=1, keepdim=True) if self.modality is Modality.MRI else image

    def shown(self, plane: Tensor) -> NDArray[np.float32]:
        """A plane (1, 1, H, W) of the operator's grid, (y, x), cropped to the reconstruction's size."""
        return _cropped(plane[0, 0], self.recon_size).cpu().numpy().astype(np.float32)

    def complex_image(self, image: Tensor) -> NDArray[np.complex64] | None:
        """Complex image (y, x) of an MRI slice; None for CT."""
        if self.modality is Modality.CT:
            return None
        return _cropped(as_complex(image)[0], self.recon_size).cpu().numpy().astype(np.complex64)

    def images(self, rough: Tensor, scale: float) -> dict[str, Tensor]:
        """What the scan holds beside its measurements, as `algorithms.run` takes it; `rough` lends MRI its phase."""
        held = {}
        if self.reference is not None:
            held["reference"] = self._placed(self.reference) / scale
            if self.modality is Modality.MRI:
                held["reference"] = as_channels(as_complex(rough).sgn() * held["reference"][:, 0])
        if self.guide is not None:
            guide = self._placed(self.guide)
            held["guide"] = guide / guide.max().clamp(min=torch.finfo(torch.float32).tiny)
        return held

    def _placed(self, image: NDArray[np.float32]) -> Tensor:
        """An image (y, x) of the reconstruction's size on the operator's grid, (1, 1, H, W)."""
        placed = torch.zeros(1, 1, *self.operator.image_shape[1:], device=self.measurements.device)
        _cropped(placed[0, 0], self.recon_size).copy_(torch.from_numpy(np.ascontiguousarray(image)))
        return placed

    def quality(self, image: Tensor) -> Quality:
        """Misfit of an image and, where the scan has a reference, PSNR, SSIM and NMSE.

        Those are of `reference_for` it.
        """
        with torch.no_grad():
            misfit = float((self.operator.forward(image) - self.measurements).norm())
        residual = misfit / max(float(self.measurements.norm()), torch.finfo(torch.float32).tiny)
        discrepancy = misfit / self.noise_norm if self.noise_norm > 0 else None
        reference = self.reference_for(image)
        if reference is None:
            return Quality(residual, discrepancy)
        shown = self.magnitude(image)
        return Quality(
            residual,
            discrepancy,
            psnr=metrics.psnr(shown, reference),
            ssim=metrics.ssim(shown, reference),
            nmse=metrics.nmse(shown, reference),
        )

    def reference_for(self, image: Tensor) -> NDArray[np.float32] | None:
        """The reference (y, x) to hold an image against: where it is in another unit, in that of the image.

        With the factor that makes the image, times it, come nearest to the reference.
        """
        if self.reference is None or not self.rescaled:
            return self.reference
        shown = self.magnitude(image).astype(np.float64)
        energy, shared = float(np.square(shown).sum()), float((shown * self.reference).sum())
        return np.asarray(self.reference * (energy / shared), np.float32) if shared > 0 else self.reference


def slice_problem(
    acquisition: Acquisition, index: int, device: torch.device, *, fit_maps: bool = False
) -> SliceProblem:
    """The last of `slice_problems`: the one to solve."""
    *_, last = slice_problems(acquisition, index, device, fit_maps=fit_maps)
    return last


def slice_problems(
    acquisition: Acquisition, index: int, device: torch.device, *, fit_maps: bool = False
) -> Iterator[SliceProblem]:
    """Slice number `index` of an acquisition on a device; coil maps by ESPIRiT where the scan brings none.

    With `fit_maps` the coil maps are fitted together with the image where that is found to help: the problem with each
    round's maps follows, and the last one is to be solved.

    Raises UnsupportedScan when maps are needed and the calibration region is too small for them.
    """
    match acquisition:
        case MRIAcquisition():
            problem, operator = _mri_problem(acquisition, index, device)
            yield problem
            y = problem.measurements
            if fit_maps and operator.coils > 1 and not is_empty(y):
                rng = torch.Generator(device).manual_seed(0)
                y = y / intensity_scale(algorithms.start(y, operator, "cg_sense", rng))
                for fitted in with_joint_maps(operator, y, rng):
                    yield replace(problem, operator=fitted)
        case CTAcquisition():
            yield _ct_problem(acquisition, index, device)


def _mri_problem(scan: MRIAcquisition, index: int, device: torch.device) -> tuple[SliceProblem, MultiCoilMRI]:
    kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index])).to(device)
    measured = scan.mask_of(index)
    mask = torch.from_numpy(np.ascontiguousarray(measured)).to(device)
    matrix = None if len(kspace) == 1 or is_empty(kspace) else whitening(kspace, scan.noise_covariance)
    before = kspace
    kspace = kspace if matrix is None else whitened(matrix, kspace)
    if scan.sensitivity_maps is not None:
        maps = torch.from_numpy(np.ascontiguousarray(scan.sensitivity_maps[index])).to(device)
        maps = maps if matrix is None else whitened(matrix, maps)
    elif len(kspace) == 1 or is_empty(kspace):
        maps = torch.ones_like(kspace)
    else:
        calibration = calibration_size(measured)
        maps = espirit(kspace, calibration)
        maps = maps if matrix is None else maps / brightness(before, matrix, calibration)
    operator = MultiCoilMRI(maps, mask)
    y = operator.scale * kspace[None] * mask
    problem = SliceProblem(operator, y, scan.recon_size, _one(scan.reference, index), _one(scan.guide, index))
    return problem, operator


def _ct_problem(scan: CTAcquisition, index: int, device: torch.device) -> SliceProblem:
    sinogram = torch.from_numpy(np.ascontiguousarray(scan.sinogram[index], np.float32)).to(device)
    operator = ParallelBeamCT(
        scan.angles,
        scan.image_size,
        scan.sinogram.shape[-1],
        scan.pixel_size_mm,
        scan.detector_spacing_mm,
        device,
        rotation_center=scan.rotation_center,
        measured=scan.measured,
    )
    y = operator.scale * sinogram[None, None] * operator.measured
    size = (scan.image_size, scan.image_size)
    return SliceProblem(operator, y, size, _one(scan.reference, index), _one(scan.guide, index))


def _one(images: NDArray[np.float32] | None, index: int) -> NDArray[np.float32] | None:
    return None if images is None else images[index]


def reconstruct(
    problem: SliceProblem,
    method: Parameters,
    *,
    seed: int,
    priors: Folders = None,
    state: State | None = None,
    warm_start: WarmStart | None = None,
) -> Iterates:
    """Iterates of `method`, complete for the problem's modality; the last one is the reconstruction.

    The same problem, method, seed, device and warm_start give the same bits; `state` of an iterate goes on right after
    it. `priors` are folders of priors beside the bundled ones, `warm_start` results of the reference slice. A slice
    without any signal is an empty image.
    """
    A, y = problem.operator, problem.measurements
    if is_empty(y):
        nothing = torch.zeros(1, *A.image_shape, device=y.device)
        yield Iterate(1, 1, nothing, torch.zeros(()), data_only=nothing)
        return
    rng = torch.Generator(y.device).manual_seed(seed)
    rough = algorithms.start(y, A, "cg_sense", rng)
    scale = intensity_scale(rough)
    iterates = algorithms.run(y / scale, A, method, rng, priors, state, problem.images(rough, scale), warm_start)
    for iterate in with_variance(iterates, state):
        yield iterate._replace(
            image=iterate.image * scale,
            # A run that is over cannot go on.
            state=iterate.state if iterate.step < iterate.steps else None,
            data_only=None if iterate.data_only is None else iterate.data_only * scale,
        )


def is_empty(y: Tensor) -> bool:
    """Whether there is no signal in measurements, or none whose square is more than nothing."""
    return float(y.norm()) == 0


def _cropped(image: Tensor, size: tuple[int, int]) -> Tensor:
    # As fastMRI crops its references, and as udig_recon.core.formats crops those that are larger.
    top, left = ((have - want) // 2 for have, want in zip(image.shape, size, strict=True))
    return image[top : top + size[0], left : left + size[1]]

"""Inverse problem of one slice, y = A x, made of an acquisition by the forward model that is registered for its type.

A new forward model is a line in `BUILT_IN`; another distribution adds one by an entry point in the group
`udig_recon.operators` that names a `ForwardModel`. The operator itself answers what differs between forward models: its
direct inverse, which measurements can be held out, its noise, and how its images are shown
(`udig_recon.core.operators.LinearOperator`). An input format that yields an acquisition of a new type brings a reader
for it (`udig_recon.core.formats.input_format.Contents.reader`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core import metrics
from udig_recon.core.acquisition import Acquisition, CTAcquisition, Modality, MRIAcquisition, NonCartesianAcquisition
from udig_recon.core.coils.estimate import estimate, estimate_along
from udig_recon.core.coils.joint_maps import with_joint_maps
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.extensions import load_extensions
from udig_recon.core.inputs import Inputs
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.operators import (
    LinearOperator,
    MultiCoilMRI,
    NonCartesianMRI,
    XRayTransform,
    as_channels,
    as_complex,
)
from udig_recon.core.operators.radon import is_too_large
from udig_recon.core.operators.truncated import NOTHING_ADDED, Added, continue_truncated
from udig_recon.core.preprocessing.coils import compress_coils
from udig_recon.core.preprocessing.options import Preprocessing
from udig_recon.core.preprocessing.sinograms import geometry_of, preprocess_sinogram

UNPROCESSED = Preprocessing()
"""Measurements as the scan holds them."""

OTHER_UNIT = 1.7
"""A reference whose norm is larger or smaller than the image's by this factor must be in another unit."""


@dataclass(frozen=True)
class ImageMetrics:
    """Metrics of an image: its misfit with the measurements and, with a reference, PSNR, SSIM and NMSE."""

    data_residual: float  # |A x - y| / |y|
    noise_discrepancy: float | None = None  # |A x - y| over that of the noise alone; None where no noise is found
    psnr: float | None = None  # dB, range is the reference's maximum
    ssim: float | None = None
    nmse: float | None = None


@dataclass(frozen=True, eq=False)
class SliceProblem:
    """Inverse problem y = A x of one slice.

    Images are (1, C, H, W) in the scan's units; the measurements y are `operator.scale` times what was measured.
    """

    operator: LinearOperator
    measurements: Tensor
    recon_size: tuple[int, int]
    reference: NDArray[np.float32] | None  # (y, x)
    guide: NDArray[np.float32] | None = None  # (y, x), a structural image in any unit

    def with_operator(self, operator: LinearOperator | None) -> Self:
        """The same problem with another model of its measurements; None: this one."""
        return self if operator is None else replace(self, operator=operator)

    @cached_property
    def is_reference_rescaled(self) -> bool:
        """Whether the reference is clearly in another unit than the image, so that it must be scaled for metrics."""
        if self.reference is None:
            return False
        ours = self.operator.image_norm(self.measurements)
        theirs = float(np.linalg.norm(self.reference.astype(np.float64)))
        return min(ours, theirs) > 0 and not 1 / OTHER_UNIT <= theirs / ours <= OTHER_UNIT

    @cached_property
    def unweighted(self) -> Self:
        """The same problem without weights of measurements, by which images are judged, not made."""
        operator, y = self.operator.unweighted(self.measurements)
        return self if operator is self.operator else replace(self, operator=operator, measurements=y)

    @cached_property
    def noise_norm(self) -> float:
        """|A x - y| of a perfect image."""
        return self.operator.noise_norm(self.measurements)

    @property
    def modality(self) -> Modality:
        """Modality of the scan."""
        return self.operator.modality

    def direct(self) -> Tensor:
        """Direct (non-iterative) reconstruction, (1, C, H, W): zero-filled in MRI, filtered back-projection in CT."""
        return self.operator.direct(self.measurements)

    @cached_property
    def direct_image(self) -> NDArray[np.float32]:
        """Magnitude of the direct reconstruction, (y, x)."""
        return self.magnitude(self.direct())

    def magnitude(self, image: Tensor) -> NDArray[np.float32]:
        """Magnitude (MRI) or attenuation (CT) of an image, (y, x), cropped to the reconstruction's size."""
        return self.crop(self.operator.magnitude(image))

    def crop(self, plane: Tensor) -> NDArray[np.float32]:
        """A plane (1, 1, H, W) of the operator's grid as an array (y, x) of the reconstruction's size."""
        return _crop(plane[0, 0], self.recon_size).cpu().numpy().astype(np.float32)

    def complex_image(self, image: Tensor) -> NDArray[np.complex64] | None:
        """Complex image (y, x), cropped; None where images are not complex."""
        if not self.operator.complex_images:
            return None
        return _crop(as_complex(image)[0], self.recon_size).cpu().numpy().astype(np.complex64)

    def side_images(self, initial: Tensor, scale: float) -> dict[str, Tensor]:
        """Images that the scan holds beside its measurements, for `algorithms.run`: `reference` and `guide`.

        The reference is divided by `scale`; complex images take their phase from the initial estimate.
        """
        images = {}
        if self.reference is not None:
            reference = self._on_grid(self.reference) / scale
            if self.operator.complex_images:
                reference = as_channels(as_complex(initial).sgn() * reference[:, 0])
            images["reference"] = reference
        if self.guide is not None:
            guide = self._on_grid(self.guide)
            images["guide"] = guide / guide.max().clamp(min=torch.finfo(torch.float32).tiny)
        return images

    def _on_grid(self, image: NDArray[np.float32]) -> Tensor:
        """An image (y, x) of the reconstruction's size on the operator's grid, (1, 1, H, W)."""
        grid = torch.zeros(1, 1, *self.operator.image_shape[1:], device=self.measurements.device)
        _crop(grid[0, 0], self.recon_size).copy_(torch.from_numpy(np.ascontiguousarray(image)))
        return grid

    def image_metrics(self, image: Tensor) -> ImageMetrics:
        """Misfit of an image and, where the scan has a reference, PSNR, SSIM and NMSE against `reference_for` it."""
        plain = self.unweighted
        with torch.no_grad():
            misfit = float((plain.operator.forward(image) - plain.measurements).norm())
        residual = misfit / max(float(plain.measurements.norm()), torch.finfo(torch.float32).tiny)
        discrepancy = misfit / plain.noise_norm if plain.noise_norm > 0 else None
        reference = self.reference_for(image)
        if reference is None:
            return ImageMetrics(residual, discrepancy)
        magnitude = self.magnitude(image)
        return ImageMetrics(
            residual,
            discrepancy,
            psnr=metrics.psnr(magnitude, reference),
            ssim=metrics.ssim(magnitude, reference),
            nmse=metrics.nmse(magnitude, reference),
        )

    def reference_for(self, image: Tensor) -> NDArray[np.float32] | None:
        """Reference (y, x) to compare an image with; one in another unit is scaled to the image's.

        Its factor is that by which the image, multiplied with it, comes nearest to the reference.
        """
        if self.reference is None or not self.is_reference_rescaled:
            return self.reference
        magnitude = self.magnitude(image).astype(np.float64)
        energy, shared = float(np.square(magnitude).sum()), float((magnitude * self.reference).sum())
        return np.asarray(self.reference * (energy / shared), np.float32) if shared > 0 else self.reference


@dataclass(frozen=True)
class ForwardModel:
    """How slices of one type of acquisition become problems."""

    acquisition: type
    """A frozen dataclass of arrays and plain values"""
    build: Callable[[Any, int, torch.device], SliceProblem]
    """Problem of slice number `index` of an acquisition, on a device; raises UnsupportedScan where there is none"""
    refine: Callable[[SliceProblem], Iterator[SliceProblem]] | None = None
    """Better problems for methods that fit the model too, round by round, of which the last is to be solved"""
    preprocess: Callable[[Any, int, Preprocessing], Any] | None = None
    """What `build` takes instead of an acquisition, for its slice number `index`; raises UnsupportedScan"""


def cartesian_mri(scan: MRIAcquisition, index: int, device: torch.device) -> SliceProblem:
    """Problem of a Cartesian MRI slice: coils whitened, maps of the scan or else estimated.

    Raises UnsupportedScan when maps are needed and the calibration region is too small for them.
    """
    kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index])).to(device)
    mask = scan.mask_of(index)
    given = None
    if scan.sensitivity_maps is not None:
        given = torch.from_numpy(np.ascontiguousarray(scan.sensitivity_maps[index])).to(device)
    calibration = None
    if scan.calibration is not None:
        calibration = torch.from_numpy(np.ascontiguousarray(scan.calibration[index])).to(device)
    kspace, maps = estimate(kspace, mask, given, scan.noise_covariance, calibration)
    measured = torch.from_numpy(np.ascontiguousarray(mask)).to(device)
    operator = MultiCoilMRI(maps, measured)
    y = operator.scale * kspace[None] * measured
    return SliceProblem(operator, y, scan.recon_size, _slice_of(scan.reference, index), _slice_of(scan.guide, index))


def non_cartesian_mri(scan: NonCartesianAcquisition, index: int, device: torch.device) -> SliceProblem:
    """Problem of a slice of non-Cartesian MRI: coils whitened, maps of the scan or else of its gridded centre.

    Raises UnsupportedScan when maps are needed and the centre of k-space is sampled too sparsely for them.
    """
    kspace = torch.from_numpy(np.ascontiguousarray(scan.kspace[index])).to(device)
    trajectory = scan.trajectory[index].astype(np.float64)
    measured = np.ones(trajectory.shape[:2], bool) if scan.measured is None else scan.measured[index]
    given = None
    if scan.sensitivity_maps is not None:
        given = torch.from_numpy(np.ascontiguousarray(scan.sensitivity_maps[index])).to(device)
    kspace, maps = estimate_along(kspace, trajectory, measured, scan.matrix, given, scan.noise_covariance)
    operator = NonCartesianMRI(maps, trajectory, measured)
    y = operator.measurements(kspace)
    return SliceProblem(operator, y, scan.recon_size, _slice_of(scan.reference, index), _slice_of(scan.guide, index))


def fit_coil_maps(problem: SliceProblem) -> Iterator[SliceProblem]:
    """Problems with coil maps fitted together with the image, round by round; the last one is to be solved."""
    operator, y = cast("MultiCoilMRI | NonCartesianMRI", problem.operator), problem.measurements
    if operator.coils == 1 or is_empty(y):
        return
    rng = torch.Generator(y.device).manual_seed(0)
    y = y / intensity_scale(Inputs(y, operator).cg_estimate())
    for fitted in with_joint_maps(operator, y, rng):
        yield replace(problem, operator=fitted)


def ct(scan: CTAcquisition, index: int, device: torch.device) -> SliceProblem:
    """Problem of a CT slice, of parallel beams or fans. Raises UnsupportedScan for a geometry that cannot be.

    Of an object wider than the field, projections are continued and the image is larger than the scan's, so that what
    lies outside has a place; it is cropped like any other. Where only that makes the projector too large to be stored,
    nothing is continued.
    """
    geometry = geometry_of(scan)
    rays, added = continue_truncated(scan.sinogram[index], scan.measured_of(index), geometry)
    if added != NOTHING_ADDED and is_too_large(added.enlarged(geometry)) and not is_too_large(geometry):
        rays, added = scan.sinogram[index], NOTHING_ADDED
    return _ct_problem(scan, index, device, rays, added)


def _ct_problem(
    scan: CTAcquisition, index: int, device: torch.device, rays: NDArray[np.float32], added: Added
) -> SliceProblem:
    """Problem of rays (views, detectors) of the scan with what was added to it."""
    measured, weights = scan.measured_of(index), _slice_of(scan.weights, index)
    if added != NOTHING_ADDED:
        measured, weights = None, added.weights(measured, weights, scan.sinogram.shape[1:])
    geometry = added.enlarged(geometry_of(scan))
    operator = XRayTransform(
        scan.angles,
        geometry.image_size,
        geometry.detectors,
        scan.pixel_size_mm,
        scan.detector_spacing_mm,
        device,
        rotation_center=geometry.rotation_center,
        beam=scan.geometry,
        source_origin_mm=scan.source_origin_mm,
        source_detector_mm=scan.source_detector_mm,
        measured=measured,
        weights=weights,
        added=added,
    )
    sinogram = torch.from_numpy(np.ascontiguousarray(rays, np.float32)).to(device)
    y, size = operator.measurements_of(sinogram[None, None]), (scan.image_size, scan.image_size)
    return SliceProblem(operator, y, size, _slice_of(scan.reference, index), _slice_of(scan.guide, index))


ENTRY_POINTS = "udig_recon.operators"
BUILT_IN: tuple[ForwardModel, ...] = (
    ForwardModel(MRIAcquisition, cartesian_mri, refine=fit_coil_maps, preprocess=compress_coils),
    ForwardModel(NonCartesianAcquisition, non_cartesian_mri, refine=fit_coil_maps, preprocess=compress_coils),
    ForwardModel(CTAcquisition, ct, preprocess=preprocess_sinogram),
)


@cache
def forward_models() -> Mapping[type, ForwardModel]:
    """All forward models by the type of their acquisition. Raises BrokenExtension."""
    extensions = load_extensions(ENTRY_POINTS, ForwardModel).values()
    return {model.acquisition: model for model in (*extensions, *BUILT_IN)}


def forward_model_of(acquisition: Acquisition) -> ForwardModel:
    """The forward model that is registered for an acquisition's type, or else for a type that it derives from.

    Raises UnsupportedScan where there is none.
    """
    models = forward_models()
    for kind in type(acquisition).__mro__:
        if kind in models:
            return models[kind]
    known = ", ".join(kind.__name__ for kind in models)
    raise UnsupportedScan.at("acquisition", found=type(acquisition).__name__, expected=f"one of {known}")


def slice_problem(
    acquisition: Acquisition,
    index: int,
    device: torch.device,
    *,
    fit_maps: bool = False,
    preprocessing: Preprocessing = UNPROCESSED,
) -> SliceProblem:
    """Problem of slice number `index` of an acquisition, on a device: the last of `slice_problems`."""
    *_, last = slice_problems(acquisition, index, device, fit_maps=fit_maps, preprocessing=preprocessing)
    return last


def slice_problems(
    acquisition: Acquisition,
    index: int,
    device: torch.device,
    *,
    fit_maps: bool = False,
    preprocessing: Preprocessing = UNPROCESSED,
) -> Iterator[SliceProblem]:
    """Problem of slice number `index`, and with `fit_maps` the refined problems that follow; the last is to be solved.

    Its measurements are preprocessed as asked for. Raises UnsupportedScan when the scan's forward model cannot be made.
    """
    model = forward_model_of(acquisition)
    if model.preprocess is not None:
        acquisition = model.preprocess(acquisition, index, preprocessing)
    problem = model.build(acquisition, index, device)
    yield problem
    if fit_maps and model.refine is not None:
        yield from model.refine(problem)


def is_empty(y: Tensor) -> bool:
    """Whether measurements hold no signal, or none whose square is above zero."""
    return float(y.norm()) == 0


def _slice_of(images: NDArray[np.float32] | None, index: int) -> NDArray[np.float32] | None:
    return None if images is None else images[index]


def _crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    # As fastMRI crops its references, and as udig_recon.core.formats crops larger ones.
    top, left = ((have - want) // 2 for have, want in zip(image.shape, size, strict=True))
    return image[top : top + size[0], left : left + size[1]]

"""Acquisitions: the arrays of a scan with their shapes and units, and the header of a scan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.extensions import load_extensions


class Modality(StrEnum):
    """MRI or CT: which forward model applies to a scan."""

    MRI = "mri"
    CT = "ct"


@dataclass(frozen=True, kw_only=True)
class MRIAcquisition:
    """Multi-coil Cartesian k-space of a stack of slices; zero frequency in the centre of the last two axes."""

    kspace: NDArray[np.complex64]  # (slices, coils, ky, kx), scanner units, zeros where not measured
    mask: NDArray[np.bool_]  # (ky, kx), True where measured
    masks: NDArray[np.bool_] | None = None  # (slices, ky, kx), where slices are not all measured at the same places
    sensitivity_maps: NDArray[np.complex64] | None = None  # (slices, coils, y, x) on the grid of kspace
    calibration: NDArray[np.complex64] | None = None  # (slices, coils, h, w) about zero frequency, for coil maps alone
    reference: NDArray[np.float32] | None = None  # (slices, *recon_size), magnitude, scanner units
    guide: NDArray[np.float32] | None = None  # (slices, *recon_size), a structural image in any unit
    noise_covariance: NDArray[np.complex64] | None = None  # (coils, coils), of samples measured without any signal
    recon_size: tuple[int, int]  # (y, x): the centre of the image that is kept, readout oversampling cropped
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)  # (y, x)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.kspace)

    def mask_of(self, index: int) -> NDArray[np.bool_]:
        """Where slice number `index` was measured, (ky, kx)."""
        return self.mask if self.masks is None else self.masks[index]


@dataclass(frozen=True, kw_only=True)
class NonCartesianAcquisition:
    """Multi-coil k-space of a stack of slices, sampled along a trajectory: radial, spiral or any other."""

    kspace: NDArray[np.complex64]  # (slices, coils, readouts, samples), scanner units
    trajectory: NDArray[np.float32]  # (slices, readouts, samples, 2): (ky, kx) in cycles per field of view of the grid
    measured: NDArray[np.bool_] | None = None  # (slices, readouts, samples), False where a sample is missing
    matrix: tuple[int, int]  # (y, x): the grid of the image, one pixel a cycle at |k| = n / 2
    sensitivity_maps: NDArray[np.complex64] | None = None  # (slices, coils, y, x) on the grid
    reference: NDArray[np.float32] | None = None  # (slices, *recon_size), magnitude, scanner units
    guide: NDArray[np.float32] | None = None  # (slices, *recon_size), a structural image in any unit
    noise_covariance: NDArray[np.complex64] | None = None  # (coils, coils), of samples measured without any signal
    recon_size: tuple[int, int]  # (y, x): the centre of the image that is kept
    pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)  # (y, x)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.kspace)


BeamGeometry = Literal["parallel", "fan_flat", "fan_curved"]
"""Parallel rays, or a fan from a point source to a flat detector or one on an arc about the source."""


@dataclass(frozen=True, kw_only=True)
class CTAcquisition:
    """Sinograms of a stack of slices, of parallel beams or of fans."""

    sinogram: NDArray[np.float32]  # (slices, views, detectors), post-log line integrals, 0 where not measured
    angles: NDArray[np.float64]  # (views,), radians
    image_size: int  # pixels a side
    pixel_size_mm: float
    detector_spacing_mm: float
    rotation_center: float | None = None  # detector index that the axis falls on; None: (detectors - 1) / 2
    found_rotation_center: float | None = None  # the same, as the sinograms show it; None: they do not
    geometry: BeamGeometry = "parallel"
    source_origin_mm: float | None = None  # from the source to the axis of rotation; None: parallel
    source_detector_mm: float | None = None  # from the source to the detector; None: parallel
    measured: NDArray[np.bool_] | None = None  # (views, detectors), False where a ray is missing; None: all are there
    weights: NDArray[np.float32] | None = None  # (slices, views, detectors), inverse variances, mean 1; 0: left out
    reference: NDArray[np.float32] | None = None  # (slices, y, x), attenuation in 1/mm
    guide: NDArray[np.float32] | None = None  # (slices, y, x), a structural image in any unit

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.sinogram)

    def measured_of(self, index: int) -> NDArray[np.bool_] | None:
        """Which rays (views, detectors) of slice number `index` are used; None: all.

        Rays whose weight is 0 are left out beside those that are missing in all slices: detectors that are dead in
        this slice, saturated rays.
        """
        if self.weights is None or self.weights[index].all():
            return self.measured
        used: NDArray[np.bool_] = self.weights[index] > 0
        return used if self.measured is None else used & self.measured

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """Pixel spacing (y, x) in millimetres."""
        return (self.pixel_size_mm, self.pixel_size_mm)


Acquisition = MRIAcquisition | NonCartesianAcquisition | CTAcquisition


def acquisition_type(name: str) -> Any:
    """The type of acquisition with this class name, of ours or of an installed forward model.

    Raises KeyError where there is none.
    """
    for kind in (MRIAcquisition, NonCartesianAcquisition, CTAcquisition):
        if kind.__name__ == name:
            return kind
    models = load_extensions("udig_recon.operators").values()
    for kind in (model.acquisition for model in models):
        if kind.__name__ == name:
            return kind
    raise KeyError(name)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Which image a slice of a scan is, by the scanner's counters from 0."""

    slice: int  # by position along the slice direction
    contrast: int = 0
    phase: int = 0
    repetition: int = 0
    set: int = 0


def frames_of(header: Mapping[str, Any]) -> tuple[Frame, ...]:
    """The frames of a scan's header as JSON, or of a result's attributes; empty where it has none."""
    return tuple(Frame(**each) for each in header.get("frames") or ())


FRAME_COUNTERS = ("contrast", "phase", "repetition", "set")
"""Counters of a frame beside its slice."""


def frame_labels(frames: Sequence[Frame]) -> list[str]:
    """Each frame in words, "slice 3, contrast 1": its slice, and those counters that differ among the frames."""
    return _labels(frames, ("slice", *_differing(frames)))


def volume_labels(frames: Sequence[Frame]) -> list[str]:
    """The same without the slice, of frames that stand for a volume each."""
    return _labels(frames, _differing(frames))


def slice_names(numbers: Iterable[int], frames: Sequence[Frame]) -> list[str]:
    """Slices of a scan in words: "slice 3", or where it has several frames "frame 7 (slice 3, contrast 1)"."""
    if not _differing(frames):
        return [f"slice {number}" for number in numbers]
    labels = frame_labels(frames)
    return [f"frame {number} ({labels[number]})" for number in numbers]


def _labels(frames: Sequence[Frame], names: Sequence[str]) -> list[str]:
    return [", ".join(f"{name} {getattr(frame, name)}" for name in names) for frame in frames]


def _differing(frames: Sequence[Frame]) -> list[str]:
    return [name for name in FRAME_COUNTERS if len({getattr(frame, name) for frame in frames}) > 1]


def slice_number_range(slices: int, frames: Sequence[Frame]) -> str:
    """Numbers by which slices of a scan are asked for, in words; where it has frames they are indices into those."""
    numbers = f"0 to {slices - 1}"
    if not frames:
        return numbers
    counted = {name: len({getattr(frame, name) for frame in frames}) for name in ("slice", *FRAME_COUNTERS)}
    plurals = {name: f"{count} {name}{'s' if count > 1 else ''}" for name, count in counted.items()}
    told = " x ".join(plurals[name] for name, count in counted.items() if count > 1 or name == "slice")
    return f"{numbers}, indices of the {slices} frames in the scan's header ({told})"


Affine = tuple[tuple[float, ...], ...]
"""4 x 4, rows first: (column, row, slice, 1) of the image that comes out to patient coordinates in mm (L, P, S)."""


@dataclass(frozen=True, kw_only=True)
class ScanHeader:
    """Description of a scan without its arrays."""

    format: str  # "fastmri_hdf5", "sinogram_hdf5", "matlab", "npy", "npz", or an extension's name
    modality: Modality
    slices: int
    coils: int | None = None  # MRI
    views: int | None = None  # CT
    detectors: int | None = None  # CT
    matrix: tuple[int, int]  # (y, x) of the image that comes out
    kspace_matrix: tuple[int, int] | None = None  # (ky, kx), MRI
    pixel_spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None = None  # from slice to slice; None where the file does not tell
    affine: Affine | None = None  # None where the file does not tell how the patient lay
    frames: tuple[Frame, ...] = ()  # one for each slice of a scan of several contrasts, phases ...; else empty
    trajectory: Literal["cartesian", "radial", "spiral", "other"] | None = None  # MRI
    averages: int | None = None  # MRI: how often each line was measured, at most
    prewhitened: bool = False  # MRI: by the file's own noise measurement; values are in units of the noise
    geometry: BeamGeometry | None = None  # CT
    source_origin_mm: float | None = None  # CT, fans: from the source to the axis of rotation
    source_detector_mm: float | None = None  # CT, fans: from the source to the detector
    rotation_center: float | None = None  # CT: detector index that the axis falls on; None: the middle
    water_attenuation_per_mm: float | None = None  # CT: by which images become Hounsfield units
    corrections: tuple[str, ...] = ()  # what was corrected of the measurements before reconstruction, in sentences
    acceleration: float | None = None  # MRI: k-space samples / measured samples
    has_maps: bool = False
    has_reference: bool = False
    has_guide: bool = False
    warnings: tuple[str, ...] = field(default=())

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images in the file beside its measurements."""
        held = {"reference": self.has_reference, "guide": self.has_guide}
        return tuple(name for name, there in held.items() if there)

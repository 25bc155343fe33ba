"""Makes 3-D MRD measurements with two axes of phase encoding, whose hybrid space, mask and geometry are known."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from udig_recon.core.formats.containers import hdf5_library  # noqa: F401 - it comes before the next one's HDF5

import ismrmrd  # isort: skip
from ismrmrd import xsd  # isort: skip

NOISE, CALIBRATION, CALIBRATION_AND_IMAGE, REVERSE = 19, 20, 21, 22


@dataclass(frozen=True)
class VolumePlan:
    """What is measured, and how."""

    coils: int = 4
    columns: int = 16  # of the volume, along the readout
    oversampling: int = 2
    rows: int = 24
    partitions: int = 22
    image_partitions: int = 22  # of the volume: fewer where slices are oversampled
    contrasts: int = 1
    averages: int = 1
    elliptical: bool = True  # the corners of (ky, kz) are not measured
    share: float = 0.5  # of the samples outside of the calibration region that are measured
    calibration: int = 10  # side of the fully measured region
    separate: bool = False  # measured beside the image's readouts, and brighter
    first_row: int = 0  # partial Fourier: rows before it are not measured
    left_out: int = 0  # asymmetric echo: samples of the readout that are not measured at its beginning
    reversed_lines: bool = False
    shuffled: bool = False  # readouts in no order
    noise: float = 0.0
    pixel_mm: tuple[float, float, float] = (1.5, 1.25, 2.0)  # (x, y, z)
    handed: int = 1
    slabs: int = 1
    seed: int = 0


@dataclass(frozen=True)
class MadeVolume:
    """A measurement and what its reader must find."""

    plan: VolumePlan
    xml: str
    lines: list[Any]  # ismrmrd.Acquisition
    images: np.ndarray  # (contrasts, columns, rows, image partitions)
    hybrid: np.ndarray  # (contrasts, columns, coils, rows, partitions), without noise, zeros where not measured
    mask: np.ndarray  # (rows, partitions)
    affine: np.ndarray  # (4, 4), of (partition, row, column)


def make(plan: VolumePlan) -> MadeVolume:
    """A measurement by plan."""
    rng = np.random.default_rng(plan.seed)
    wide = plan.columns * plan.oversampling
    volume = _volume(plan)
    coils = _maps(plan) * _padded(volume[:, None], -1, plan.partitions)
    sampled = _fft(_padded(coils, 2, wide), (2, 3, 4))  # (contrasts, coils, columns, rows, partitions)
    hybrid = _fft(coils, (3, 4))
    mask, calibration = _masks(plan, rng)
    mixing = np.diag(1 + 0.5 * np.arange(plan.coils) / plan.coils).astype(complex)
    mixing += np.tril(np.full((plan.coils, plan.coils), 0.2j), -1)
    axes = _axes(plan)
    origin = np.array([12.5, -31.25, 47.0])
    lines = []
    for _ in range(60 if plan.noise else 0):
        noise = plan.noise * mixing @ _white(rng, plan.coils, 256)
        lines.append(ismrmrd.Acquisition.from_array(noise.astype(np.complex64), sample_time_us=5.0))
        lines[-1].setFlag(NOISE)
    wanted = [
        (contrast, slab, average, row, partition, calibration[row, partition] and not plan.separate)
        for contrast in range(plan.contrasts)
        for slab in range(plan.slabs)
        for average in range(plan.averages)
        for row, partition in np.argwhere(mask)
    ]
    if plan.shuffled:
        rng.shuffle(wanted)
    for number, (contrast, slab, average, row, partition, embedded) in enumerate(wanted):
        data = sampled[contrast, :, :, row, partition] + plan.noise * mixing @ _white(rng, plan.coils, wide)
        line = _line(plan, data, number)
        line.idx.contrast, line.idx.average, line.idx.slice = contrast, average, slab
        line.idx.kspace_encode_step_1, line.idx.kspace_encode_step_2 = row, partition
        if embedded:
            line.setFlag(CALIBRATION_AND_IMAGE)
        lines.append(line)
    for row, partition in np.argwhere(calibration) if plan.separate else ():
        line = _line(plan, 3 * sampled[0, :, :, row, partition], 0)
        line.idx.kspace_encode_step_1, line.idx.kspace_encode_step_2 = row, partition
        line.setFlag(CALIBRATION)
        lines.append(line)
    for line in lines:
        line.position[:] = origin
        line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = axes
    steps = np.stack([axes[2] * plan.pixel_mm[2], axes[1] * plan.pixel_mm[1], axes[0] * plan.pixel_mm[0]], axis=1)
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = origin - steps @ (plan.image_partitions // 2, plan.rows // 2, plan.columns // 2)
    return MadeVolume(plan, _header(plan), lines, volume, hybrid.swapaxes(1, 2) * mask, mask, affine)


def _line(plan: VolumePlan, data: np.ndarray, number: int) -> Any:
    samples = data[:, plan.left_out :]
    center = plan.columns * plan.oversampling // 2 - plan.left_out
    backward = plan.reversed_lines and number % 2 == 1
    if backward:
        samples, center = samples[:, ::-1], samples.shape[1] - 1 - center
    line = ismrmrd.Acquisition.from_array(
        np.ascontiguousarray(samples, np.complex64), sample_time_us=5.0, center_sample=center, scan_counter=number
    )
    if backward:
        line.setFlag(REVERSE)
    return line


def _volume(plan: VolumePlan) -> np.ndarray:
    """Ellipsoids (contrasts, columns, rows, image partitions), lopsided along every axis."""
    sides = plan.columns, plan.rows, plan.image_partitions
    x, y, z = np.meshgrid(*((np.arange(side) - side // 2) / (side / 2) for side in sides), indexing="ij")
    volume = (x**2 / 0.8 + y**2 / 0.6 + z**2 / 0.7 < 1).astype(complex)
    volume[(x - 0.3) ** 2 + (y + 0.2) ** 2 + (z - 0.35) ** 2 < 0.06] += 1.5
    volume[(x + 0.4) ** 2 + (y - 0.4) ** 2 + (z + 0.1) ** 2 < 0.03] += 0.8
    volume *= np.exp(0.4j * y - 0.3j * z)
    return np.stack([volume * (1 + 0.5 * contrast) for contrast in range(plan.contrasts)])


def _maps(plan: VolumePlan) -> np.ndarray:
    """Smooth maps (coils, columns, rows, partitions) of root-sum-of-squares 1."""
    sides = plan.columns, plan.rows, plan.partitions
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in sides), indexing="ij")
    angle = np.arange(plan.coils)[:, None, None, None] * 2 * np.pi / plan.coils
    distance = (y - 1.2 * np.cos(angle)) ** 2 + (z - 1.2 * np.sin(angle)) ** 2 + (x - 0.5 * np.sin(2 * angle)) ** 2
    maps = np.exp(-distance / 2 + 1j * angle)
    return np.asarray(maps / np.sqrt((np.abs(maps) ** 2).sum(0)))


def _masks(plan: VolumePlan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where the image's readouts lie (rows, partitions), and the calibration region."""
    row = np.arange(plan.rows)[:, None] - plan.rows // 2
    partition = np.arange(plan.partitions) - plan.partitions // 2
    half = plan.calibration // 2
    calibration = (row >= -half) & (row < half) & (partition >= -half) & (partition < half)
    mask = rng.random((plan.rows, plan.partitions)) < plan.share
    if not plan.separate:
        mask |= calibration
    if plan.elliptical:
        mask &= (row / (plan.rows / 2)) ** 2 + (partition / (plan.partitions / 2)) ** 2 <= 1
    mask[: plan.first_row] = False
    return mask, calibration


def _padded(array: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Zeros about an axis, so that the pixel n // 2 stays the pixel n // 2."""
    widths = [(0, 0)] * array.ndim
    before = side // 2 - array.shape[axis] // 2
    widths[axis] = before, side - array.shape[axis] - before
    return np.pad(array, widths)


def _fft(image: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    shifted = np.fft.fftn(np.fft.ifftshift(image, axes=axes), axes=axes, norm="ortho")
    return np.asarray(np.fft.fftshift(shifted, axes=axes))


def _white(rng: np.random.Generator, *shape: int) -> np.ndarray:
    real, imaginary = rng.normal(scale=np.sqrt(0.5), size=(2, *shape))
    return np.asarray(real + 1j * imaginary)


def _axes(plan: VolumePlan) -> np.ndarray:
    """Directions (readout, phase, slice) in the patient, (3, 3)."""
    a, b = 0.4, -0.7
    first = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return np.asarray((first @ second).T * np.array([[1], [1], [plan.handed]]))


def _header(plan: VolumePlan) -> str:
    x, y, z = plan.pixel_mm

    def space(columns: int, partitions: int) -> Any:
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=columns, y=plan.rows, z=partitions),
            fieldOfView_mm=xsd.fieldOfViewMm(x=columns * x, y=plan.rows * y, z=partitions * z),
        )

    limits = xsd.encodingLimitsType()
    limits.kspace_encoding_step_1 = xsd.limitType(minimum=0, maximum=plan.rows - 1, center=plan.rows // 2)
    limits.kspace_encoding_step_2 = xsd.limitType(minimum=0, maximum=plan.partitions - 1, center=plan.partitions // 2)
    factor = xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1)
    parallel = xsd.parallelImagingType(accelerationFactor=factor)
    parallel.calibrationMode = xsd.calibrationModeType("separate" if plan.separate else "embedded")
    encoding = xsd.encodingType(
        encodedSpace=space(plan.columns * plan.oversampling, plan.partitions),
        reconSpace=space(plan.columns, plan.image_partitions),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType("cartesian"),
        parallelImaging=parallel,
    )
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        encoding=[encoding],
    )
    return str(xsd.ToXML(header))

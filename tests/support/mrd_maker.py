"""Writes MRD (ISMRMRD) files of a phantom whose k-space, noise, geometry and order are known, as a reader must find."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.tiny_scans import fft, phantom
from udig_recon.core.formats.containers.hdf5_library import h5py

import ismrmrd  # isort: skip  # the HDF5 library that reads files from outside comes first
from ismrmrd import xsd  # isort: skip
from ismrmrd.serialization import ProtocolSerializer  # isort: skip

__all__ = ["Frames", "Made", "Plan", "h5py", "make", "write"]

IMAGE, NOISE, CALIBRATION, CALIBRATION_AND_IMAGE, REVERSE = 0, 19, 20, 21, 22
LEFT_OUT = {"navigation": 23, "phase correction": 24, "feedback": 26, "dummy": 27, "feedback again": 28,
            "surface coil": 29, "stabilization reference": 30, "stabilization": 31}  # fmt: skip


@dataclass(frozen=True)
class Frames:
    """How many of each there are."""

    slices: int = 1
    contrasts: int = 1
    phases: int = 1
    repetitions: int = 1
    sets: int = 1


@dataclass(frozen=True)
class Plan:
    """What is measured, and how."""

    frames: Frames = field(default_factory=Frames)
    coils: int = 4
    rows: int = 40  # phase encodes of the encoded matrix
    image_rows: int = 40  # of the image: fewer than `rows` where phase encoding is oversampled
    columns: int = 32  # of the image
    oversampling: int = 2
    averages: int = 1
    acceleration: int = 1
    calibration: str = ""  # "embedded", "separate": lines of the middle beside those of every `acceleration`-th
    calibration_width: int = 16
    first_row: int = 0  # partial Fourier: rows before it are not measured
    left_out: int = 0  # asymmetric echo: samples of the readout that are not measured at its beginning
    reversed_lines: bool = False
    discard: tuple[int, int] = (0, 0)  # rubbish about each readout
    rubbish: bool = False  # readouts of every flag that is no image's
    interleaved: bool = False  # slices are measured 1, 3, 5, 2, 4
    oblique: bool = False
    left_handed: bool = False
    noise: float = 0.0  # standard deviation of the coils' correlated noise, a complex sample's
    noise_readouts: int = 40  # 0: no noise measurement
    noise_dwell: float = 2.5  # of the noise measurement, over that of the image
    bandwidth: float | None = None  # relativeReceiverNoiseBandwidth
    pixel_mm: tuple[float, float, float] = (1.5, 2.0, 6.0)  # (x, y, from slice to slice)
    limits: bool = True
    center: int | None = None  # counter kspace_encode_step_1 at the zero frequency; None: rows // 2
    told_center: int | None = None  # what the header says of it, where that is another
    shifted: bool = False  # each repetition measures the next of `acceleration` sets of rows
    mode: str | None = None  # parallelImaging/calibrationMode, where it is not that of `calibration`
    trajectory: str = "cartesian"
    directions: bool = True
    seed: int = 0

    @property
    def encoded_columns(self) -> int:
        """Samples of a whole readout."""
        return self.columns * self.oversampling


@dataclass(frozen=True)
class Made:
    """A measurement and what its reader must find; frames come volume after volume, slices by position."""

    plan: Plan
    xml: str
    lines: list[Any]  # ismrmrd.Acquisition
    images: np.ndarray  # (frames, image rows, columns)
    maps: np.ndarray  # (coils, rows, columns)
    kspace: np.ndarray  # (frames, coils, rows, columns), without noise; oversampled along columns where echoes are cut
    masks: np.ndarray  # (frames, rows, columns)
    covariance: np.ndarray  # (coils, coils) of an image readout's noise
    affine: np.ndarray  # (4, 4)


def make(plan: Plan) -> Made:
    """A measurement by plan."""
    rng = np.random.default_rng(plan.seed)
    maps = coil_maps(plan.coils, plan.rows, plan.columns)
    keys = [
        (contrast, phase, repetition, set_, slice_)
        for contrast in range(plan.frames.contrasts)
        for phase in range(plan.frames.phases)
        for repetition in range(plan.frames.repetitions)
        for set_ in range(plan.frames.sets)
        for slice_ in range(plan.frames.slices)
    ]
    images = np.stack([_image(plan, key) for key in keys])
    above = (plan.rows - plan.image_rows) // 2
    canvas = np.zeros((len(keys), plan.rows, plan.columns), complex)
    canvas[:, above : above + plan.image_rows] = images
    coil_images = canvas[:, None] * maps
    kspace = fft(coil_images)
    left = plan.encoded_columns // 2 - plan.columns // 2
    wide = np.zeros((*coil_images.shape[:3], plan.encoded_columns), complex)
    wide[..., left : left + plan.columns] = coil_images
    # Orthonormal transforms: readouts that are cropped in image space keep their samples' scale.
    sampled = fft(wide)
    calibration_rows = _calibration_rows(plan)
    mixing = _mixing(plan, rng)
    lines = _noise_lines(plan, mixing, rng)
    if plan.rubbish:
        lines += _rubbish(plan, rng)
    order = list(range(plan.frames.slices))
    if plan.interleaved:
        order = order[::2] + order[1::2]
    numbers = {slice_: number for number, slice_ in enumerate(order)}  # the counter is the order of time
    axes = _axes(plan)
    origin = np.array([12.5, -31.25, 47.0])
    count, masks = 0, []
    for key, data in zip(keys, sampled, strict=True):
        contrast, phase, repetition, set_, slice_ = key
        counters = {"contrast": contrast, "phase": phase, "repetition": repetition, "set": set_}
        place = {"slice": numbers[slice_], "position": origin + axes[2] * plan.pixel_mm[2] * slice_}
        rows = _rows(plan, repetition)
        masks.append(_mask(plan, rows, calibration_rows))
        for average in range(plan.averages):
            for row in rows:
                flags = [CALIBRATION_AND_IMAGE] if row in calibration_rows and plan.calibration == "embedded" else []
                where = {**counters, **place, "average": average}
                lines.append(_line(plan, data[:, row], row, count, mixing, rng, flags, where))
                count += 1
        separate = plan.calibration == "separate"
        for row in calibration_rows if not separate or key[:4] == (0, 0, 0, 0) else ():
            if separate or row not in rows:
                # A separate measurement is of another contrast: brighter.
                gain = 3.0 if separate else 1.0
                where = {**counters, **place}
                lines.append(_line(plan, gain * data[:, row], row, count, mixing, rng, [CALIBRATION], where))
                count += 1
    return Made(
        plan=plan,
        xml=_header(plan),
        lines=lines,
        images=images,
        maps=maps,
        kspace=sampled if plan.left_out else kspace,
        masks=np.stack(masks),
        covariance=mixing @ mixing.conj().T * plan.noise**2,
        affine=_affine(plan, axes, origin),
    )


def write(path: Path, *made: Made, names: tuple[str, ...] = ("dataset", "dataset_1", "dataset_2")) -> Path:
    """Write measurements as the groups of an MRD file."""
    with ismrmrd.File(str(path), "w") as file:
        for name, each in zip(names, made, strict=False):
            file[name].header = xsd.CreateFromDocument(each.xml)
            file[name].acquisitions = each.lines
    return path


def write_stream(path: Path, *made: Made, close: bool = True) -> Path:
    """Write measurements as the messages of the streaming protocol, as siemens_to_ismrmrd does."""
    with path.open("wb") as file:
        serializer = ProtocolSerializer(file)
        for each in made:
            serializer.serialize(xsd.CreateFromDocument(each.xml))
            for line in each.lines:
                serializer.serialize(line)
        if close:
            serializer.close()
    return path


def coil_maps(coils: int, rows: int, columns: int) -> np.ndarray:
    """Smooth complex maps (coils, rows, columns) of root-sum-of-squares 1."""
    place = np.arange(coils)[:, None, None] * 2 * np.pi / coils
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    distance = (x - 1.2 * np.cos(place)) ** 2 + (y - 1.2 * np.sin(place)) ** 2
    maps = np.exp(-distance / 2 + 1j * (place + 0.5 * x))
    return np.asarray(maps / np.sqrt((np.abs(maps) ** 2).sum(0)))


def only_noise(made: Made) -> Made:
    """The noise readouts of a measurement alone, as a measurement before it."""
    return replace(made, lines=[line for line in made.lines if line.is_flag_set(NOISE)])


def without_noise(made: Made) -> Made:
    """A measurement without its noise readouts."""
    return replace(made, lines=[line for line in made.lines if not line.is_flag_set(NOISE)])


def _image(plan: Plan, key: tuple[int, ...]) -> np.ndarray:
    """An image of its own for each frame; lopsided, so that a mirrored one is another."""
    contrast, phase, repetition, set_, slice_ = key
    square = phantom(1, max(plan.image_rows, plan.columns))[0]
    size = (plan.image_rows, plan.columns)
    cut = [(len(square) - want) // 2 for want in size]
    image = square[cut[0] : cut[0] + size[0], cut[1] : cut[1] + size[1]].astype(complex)
    image *= 1 + 0.3 * contrast + 0.1 * phase + 0.07 * repetition + 0.05 * set_
    image[4 + 3 * slice_ : 7 + 3 * slice_, 6:9] += 1.5
    y, x = np.mgrid[: size[0], : size[1]]
    return image * np.exp(1j * (0.02 * x - 0.015 * y + 0.3 * contrast))


def _rows(plan: Plan, repetition: int) -> list[int]:
    first = repetition % plan.acceleration if plan.shifted else 0
    return [row for row in range(plan.first_row, plan.rows) if (row - plan.rows // 2) % plan.acceleration == first]


def _calibration_rows(plan: Plan) -> list[int]:
    width = plan.calibration_width if plan.calibration else 0
    middle = plan.rows // 2 - width // 2
    return list(range(middle, middle + width))


def _mask(plan: Plan, rows: list[int], calibration_rows: list[int]) -> np.ndarray:
    mask = np.zeros((plan.rows, plan.encoded_columns if plan.left_out else plan.columns), bool)
    mask[rows] = True
    if plan.calibration == "embedded":
        mask[calibration_rows] = True
    mask[:, : plan.left_out] = False
    return mask


def _mixing(plan: Plan, rng: np.random.Generator) -> np.ndarray:
    """Lower triangular: coils' noise of unlike level, correlated."""
    size = plan.coils
    mixing = np.diag(1 + 0.5 * np.arange(size) / size).astype(complex)
    for below in range(1, size):
        mixing[below, :below] = 0.25 * np.exp(2j * np.pi * rng.random(below))
    return mixing


def _white(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex noise of variance 1."""
    real, imaginary = rng.normal(scale=np.sqrt(0.5), size=(2, *shape))
    return np.asarray(real + 1j * imaginary)


def _noise_lines(plan: Plan, mixing: np.ndarray, rng: np.random.Generator) -> list[Any]:
    """Noise measured for longer a sample, so with less noise."""
    gain = plan.noise / np.sqrt(plan.noise_dwell) * np.sqrt(plan.bandwidth or 1)
    lines = []
    for _ in range(plan.noise_readouts if plan.noise else 0):
        data = (gain * mixing @ _white(rng, plan.coils, 256)).astype(np.complex64)
        line = ismrmrd.Acquisition.from_array(data, sample_time_us=5.0 * plan.noise_dwell)
        line.setFlag(NOISE)
        lines.append(line)
    return lines


def _rubbish(plan: Plan, rng: np.random.Generator) -> list[Any]:
    lines = []
    for flag in LEFT_OUT.values():
        if flag == 24 and plan.reversed_lines:
            continue  # phase correction beside reversed readouts is EPI
        for samples in (16, plan.encoded_columns):
            data = (1e3 * _white(rng, plan.coils, samples)).astype(np.complex64)
            line = ismrmrd.Acquisition.from_array(data, sample_time_us=5.0, center_sample=samples // 2)
            line.idx.kspace_encode_step_1 = plan.rows // 2
            line.setFlag(flag)
            lines.append(line)
    return lines


def _line(
    plan: Plan,
    data: np.ndarray,
    row: int,
    number: int,
    mixing: np.ndarray,
    rng: np.random.Generator,
    flags: list[int],
    where: dict[str, Any],
) -> Any:
    samples = data + plan.noise * mixing @ _white(rng, *data.shape)
    samples = samples[:, plan.left_out :]
    center = plan.encoded_columns // 2 - plan.left_out
    pre, post = plan.discard
    samples = np.concatenate([_white(rng, plan.coils, pre) * 99, samples, _white(rng, plan.coils, post) * 99], axis=1)
    center += pre
    backward = plan.reversed_lines and number % 2 == 1
    if backward:
        samples, center, (pre, post) = samples[:, ::-1], samples.shape[1] - 1 - center, (post, pre)
    line = ismrmrd.Acquisition.from_array(
        np.ascontiguousarray(samples, np.complex64),
        sample_time_us=5.0,
        center_sample=center,
        discard_pre=pre,
        discard_post=post,
        scan_counter=number,
    )
    step = plan.rows // 2 if plan.center is None else plan.center
    line.idx.kspace_encode_step_1 = row - plan.rows // 2 + step
    for name in ("slice", "average", "contrast", "phase", "repetition", "set"):
        setattr(line.idx, name, where.get(name, 0))
    line.position[:] = where["position"]
    if plan.directions:
        line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = _axes(plan)
    for flag in (*flags, *([REVERSE] if backward else [])):
        line.setFlag(flag)
    return line


def _axes(plan: Plan) -> np.ndarray:
    """Directions (readout, phase, slice) in the patient, (3, 3)."""
    if not plan.oblique:
        axes = np.eye(3)
    else:
        a, b = 0.4, -0.7
        first = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        second = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        axes = (first @ second).T
    return axes * np.array([[1], [-1 if plan.left_handed else 1], [1]])


def _affine(plan: Plan, axes: np.ndarray, origin: np.ndarray) -> np.ndarray:
    steps = axes.T * np.array(plan.pixel_mm)
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = origin - steps @ [plan.columns // 2, plan.image_rows // 2, 0]
    return affine


def _header(plan: Plan) -> str:
    x, y, z = plan.pixel_mm

    def space(columns: int, rows: int) -> Any:
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(x=columns, y=rows, z=1),
            fieldOfView_mm=xsd.fieldOfViewMm(x=columns * x, y=rows * y, z=z),
        )

    limits = xsd.encodingLimitsType()
    if plan.limits:
        center = plan.rows // 2 if plan.center is None else plan.center
        center = center if plan.told_center is None else plan.told_center
        limits.kspace_encoding_step_1 = xsd.limitType(minimum=0, maximum=plan.rows - 1, center=center)
    mode = plan.mode or plan.calibration
    parallel = None
    if plan.acceleration > 1 or mode:
        factor = xsd.accelerationFactorType(kspace_encoding_step_1=plan.acceleration, kspace_encoding_step_2=1)
        parallel = xsd.parallelImagingType(accelerationFactor=factor)
        parallel.calibrationMode = xsd.calibrationModeType(mode) if mode else None
    encoding = xsd.encodingType(
        encodedSpace=space(plan.encoded_columns, plan.rows),
        reconSpace=space(plan.columns, plan.image_rows),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType(plan.trajectory),
        parallelImaging=parallel,
    )
    system = xsd.acquisitionSystemInformationType(
        receiverChannels=plan.coils, relativeReceiverNoiseBandwidth=plan.bandwidth
    )
    header = xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000),
        acquisitionSystemInformation=system,
        encoding=[encoding],
    )
    return str(xsd.ToXML(header))

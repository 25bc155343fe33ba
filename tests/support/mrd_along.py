"""Writes MRD (ISMRMRD) files of a phantom sampled along a trajectory, whose truth is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.data.tiny_scans import phantom
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.simulation import birdcage_maps, radial_spokes, simulate_non_cartesian, spiral_interleaves

import ismrmrd  # isort: skip  # the HDF5 library that reads files from outside comes first
from ismrmrd import xsd  # isort: skip

__all__ = ["Plan", "Truth", "h5py", "make", "write"]

SIZE = 32
POSITION = np.array([10.0, -20.0, 30.0])
PIXEL_MM = 2.0
NOISE, SURFACE_COIL = 19, 29


@dataclass(frozen=True)
class Plan:
    """What is measured, and how."""

    shape: Literal["radial", "spiral"] = "radial"
    slices: int = 1
    repetitions: int = 1
    partitions: int = 1  # of a stack of stars, encoded along kz
    coils: int = 4
    unit: float = 1.0  # what frequencies in cycles per field of view are multiplied by
    dimensions: int = 2  # of the trajectory that is told; 0: none
    noise: float = 0.0  # standard deviation of complex noise
    told: str = "radial"  # the header's trajectory
    discard: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Truth:
    """A measurement and what its reader must find."""

    xml: str
    lines: list[Any]
    images: np.ndarray  # (slices of the scan, y, x)
    trajectory: np.ndarray  # (readouts, samples, 2): (ky, kx) in cycles per field of view


def make(plan: Plan) -> Truth:
    """A measurement by plan: frames of different brightness, or one slab of partitions."""
    rng = np.random.default_rng(0)
    square = (SIZE, SIZE)
    trajectory = radial_spokes(square, 48) if plan.shape == "radial" else spiral_interleaves(square, 5)
    count = plan.partitions if plan.partitions > 1 else plan.slices * plan.repetitions
    images = np.stack([(1 + 0.25 * number) * phantom(1, SIZE)[0] for number in range(count)])
    scan = simulate_non_cartesian(images.astype(np.complex64), birdcage_maps(plan.coils, square), trajectory, rng)
    kspace = scan.kspace.astype(np.complex128)
    if plan.partitions > 1:
        kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(kspace, 0), axis=0, norm="ortho"), 0)
    lines = [_line(plan, rng, plan.noise * white(rng, plan.coils, 256), None, [NOISE], {}) for _ in range(40)]
    lines = lines if plan.noise else []
    lines.append(_line(plan, rng, np.ones((plan.coils, 1)), None, [SURFACE_COIL], {}))
    for index, samples in enumerate(kspace):
        if plan.partitions > 1:
            counters = {"kspace_encode_step_2": index}
        else:
            counters = dict(zip(("repetition", "slice"), divmod(index, plan.slices), strict=True))
        for number, points in enumerate(trajectory):
            data = samples[:, number] + plan.noise * white(rng, *samples[:, number].shape)
            where = {**counters, "kspace_encode_step_1": number}
            lines.append(_line(plan, rng, data, points[:, ::-1] * plan.unit, [], where))
    return Truth(_header(plan), lines, images, trajectory)


def write(path: Path, truth: Truth) -> Path:
    """Write a measurement as an MRD file."""
    with ismrmrd.File(str(path), "w") as file:
        file["dataset"].header = xsd.CreateFromDocument(truth.xml)
        file["dataset"].acquisitions = truth.lines
    return path


def white(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Complex noise of variance 1."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def _line(
    plan: Plan,
    rng: np.random.Generator,
    data: np.ndarray,
    points: np.ndarray | None,
    flags: list[int],
    counters: dict[str, int],
) -> Any:
    pre, post = plan.discard if points is not None else (0, 0)
    samples = np.concatenate([99 * white(rng, plan.coils, pre), data, 99 * white(rng, plan.coils, post)], axis=1)
    told = None
    if points is not None and plan.dimensions:
        told = np.zeros((samples.shape[1], plan.dimensions), np.float32)
        told[pre : pre + len(points), :2] = points
    line = ismrmrd.Acquisition.from_array(
        np.ascontiguousarray(samples, np.complex64), told, sample_time_us=5.0, discard_pre=pre, discard_post=post
    )
    for name, value in counters.items():
        setattr(line.idx, name, value)
    line.position[:] = POSITION + np.array([0, 0, 6 * counters.get("slice", 0)])
    line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = np.eye(3)
    for flag in flags:
        line.setFlag(flag)
    return line


def _header(plan: Plan) -> str:
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=SIZE, y=SIZE, z=plan.partitions),
        fieldOfView_mm=xsd.fieldOfViewMm(x=SIZE * PIXEL_MM, y=SIZE * PIXEL_MM, z=6.0 * plan.partitions),
    )
    encoding = xsd.encodingType(
        encodedSpace=space,
        reconSpace=space,
        encodingLimits=xsd.encodingLimitsType(),
        trajectory=xsd.trajectoryType(plan.told),
    )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_500_000)
    return str(xsd.ToXML(xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding])))

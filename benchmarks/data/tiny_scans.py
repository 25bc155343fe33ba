"""Tiny scans of every format that the service reads, generated when needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from udig_recon.core.formats.readouts.mrd_head import HEAD

ELLIPSES = (
    (1.0, 0.05, 0.0, 0.62, 0.8),
    (-0.4, -0.2, 0.25, 0.2, 0.3),
    (0.6, 0.3, -0.35, 0.12, 0.1),
    (0.3, 0.25, 0.45, 0.15, 0.2),
)
ATTENUATION_1_PER_MM = 0.02  # of the phantom where it is 1
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{ex}</x><y>{ey}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{rx}</x><y>{ry}</y><z>1</z></matrixSize>
<fieldOfView_mm><x>{gx}</x><y>{gy}</y><z>5</z></fieldOfView_mm></reconSpace>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def fan(views: int = 24, size: int = 32, pixel_size_mm: float = 4.0) -> dict[str, Any]:
    """Exact line integrals of the phantom as a fan to a curved detector sees it over a turn, an axis off the middle."""
    detectors, distance = 61, 2.5  # from the source to the axis, in half widths of the image
    angles = np.arange(views) * 2 * np.pi / views
    gamma = (np.arange(detectors) - (detectors - 1) / 2 + 0.25) / 60
    theta = angles[:, None] - gamma
    sinogram = np.zeros((views, detectors))
    for value, cx, cy, ax, ay in ELLIPSES:
        width = (ax * np.cos(theta)) ** 2 + (ay * np.sin(theta)) ** 2
        offset = distance * np.sin(gamma) - (cx * np.cos(theta) + cy * np.sin(theta))
        sinogram += 2 * value * ax * ay * np.sqrt(np.maximum(width - offset**2, 0)) / width
    half = pixel_size_mm * size / 2
    return {
        "sinogram": (sinogram * ATTENUATION_1_PER_MM * half)[None].astype(np.float32),
        "angles": angles,
        "reference": phantom(1, size) * np.float32(ATTENUATION_1_PER_MM),
        "geometry": "fan_curved",
        "source_origin_mm": distance * half,
        "source_detector_mm": 2 * distance * half,
        "rotation_center": (detectors - 1) / 2 - 0.25,
        "image_size": size,
        "pixel_size_mm": pixel_size_mm,
        "detector_spacing_mm": 2 * distance * half / 60,
    }


def phantom(slices: int = 2, size: int = 32) -> np.ndarray:
    """(slices, size, size) float32; row 0 is the top, later slices are dimmer."""
    axis = (np.arange(size) - (size - 1) / 2) / (size / 2)
    x, y = axis[None, :], -axis[:, None]
    image = sum(v * (((x - cx) / ax) ** 2 + ((y - cy) / ay) ** 2 <= 1) for v, cx, cy, ax, ay in ELLIPSES)
    return np.stack([image / (1 + 0.2 * index) for index in range(slices)]).astype(np.float32)


def fft(image: np.ndarray) -> np.ndarray:
    """Centred orthonormal Fourier transform of the last two axes."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=axes), norm="ortho"), axes=axes)


def ifft(kspace: np.ndarray) -> np.ndarray:
    """Inverse of fft."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=axes), norm="ortho"), axes=axes)


def mri(slices: int = 2, coils: int = 4, size: int = 32, acceleration: int = 2) -> dict[str, Any]:
    """kspace, mask (kx,), sensitivity_maps and reference of an undersampled scan of the phantom."""
    image = phantom(slices, size)
    place = np.arange(coils) * 2 * np.pi / coils
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    distance = (x - 1.2 * np.cos(place)[:, None, None]) ** 2 + (y - 1.2 * np.sin(place)[:, None, None]) ** 2
    maps = np.exp(-distance / 2 + 1j * (place[:, None, None] + 0.5 * x))
    maps = np.broadcast_to(maps / np.sqrt((np.abs(maps) ** 2).sum(0)), (slices, coils, size, size))
    mask = np.arange(size) % acceleration == 0
    mask[size // 2 - size // 8 : size // 2 + size // 8] = True
    noise = np.random.default_rng(0).normal(scale=1e-3, size=(2, *maps.shape))
    kspace = (fft(maps * image[:, None]) + noise[0] + 1j * noise[1]) * mask
    return {
        "kspace": kspace.astype(np.complex64),
        "mask": mask,
        "sensitivity_maps": maps.astype(np.complex64),
        "reference": image,
    }


def ct(slices: int = 2, views: int = 24, size: int = 32, pixel_size_mm: float = 4.0) -> dict[str, Any]:
    """Exact line integrals of the phantom's ellipses with their angles, geometry and reference (1/mm)."""
    detectors = int(np.ceil(size * 1.5)) | 1
    angles = np.arange(views) * np.pi / views
    s = (np.arange(detectors) - (detectors - 1) / 2) / (size / 2)
    sinogram = np.zeros((views, detectors))
    for value, cx, cy, ax, ay in ELLIPSES:
        width = (ax * np.cos(angles)) ** 2 + (ay * np.sin(angles)) ** 2
        offset = s[None, :] - (cx * np.cos(angles) + cy * np.sin(angles))[:, None]
        chord = np.sqrt(np.maximum(width[:, None] - offset**2, 0)) / width[:, None]
        sinogram += 2 * value * ax * ay * chord
    dimmer = 1 / (1 + 0.2 * np.arange(slices))[:, None, None]
    return {
        "sinogram": (sinogram * dimmer * ATTENUATION_1_PER_MM * pixel_size_mm * size / 2).astype(np.float32),
        "angles": angles,
        "reference": phantom(slices, size) * np.float32(ATTENUATION_1_PER_MM),
        "geometry": "parallel",
        "image_size": size,
        "pixel_size_mm": pixel_size_mm,
        "detector_spacing_mm": pixel_size_mm,
    }


def header(kspace: np.ndarray, rows: int, columns: int, pixel_mm: float = 2.0) -> str:
    """An ISMRMRD header as fastMRI files carry it: x is the readout, which lies along rows."""
    ex, ey = kspace.shape[-2:]
    fields = {"fx": ex * pixel_mm, "fy": ey * pixel_mm, "gx": rows * pixel_mm, "gy": columns * pixel_mm}
    return HEADER.format(ex=ex, ey=ey, rx=rows, ry=columns, **fields)


def distributed(slices: int = 2, coils: int = 4) -> dict[str, Any]:
    """A scan as fastMRI distributes it: readout oversampled twice, phase encodes beyond the image, to be cropped."""
    scan = mri(slices, coils, 32, acceleration=1)
    images = ifft(scan["kspace"])
    padded = np.pad(images, ((0, 0), (0, 0), (16, 16), (2, 3)))
    kspace = fft(padded).astype(np.complex64)
    reference = np.sqrt((np.abs(images) ** 2).sum(1)).astype(np.float32)
    return {"kspace": kspace, "reconstruction_rss": reference, "ismrmrd_header": header(kspace, 32, 32)}


def write_hdf5(path: Path, **parts: Any) -> Path:
    """Arrays become datasets, scalars attributes, as in the HDF5 formats."""
    with h5py.File(path, "w") as file:
        for name, part in parts.items():
            if isinstance(part, np.ndarray) or name == "ismrmrd_header":
                file[name] = part
            else:
                file.attrs[name] = part
    return path


def write_npz(path: Path, **parts: Any) -> Path:
    """Arrays and scalars as numpy.savez writes them, whatever the path's suffix."""
    with path.open("wb") as file:
        np.savez(file, **parts)
    return path


def unnamed_npz(path: Path, array: np.ndarray) -> Path:
    """One array as numpy.savez writes it when it is given no name."""
    with path.open("wb") as file:
        np.savez(file, array)
    return path


def write_npy(path: Path, array: np.ndarray, *, allow_pickle: bool = False) -> Path:
    """An array as numpy.save writes it, whatever the path's suffix."""
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=allow_pickle)
    return path


def without(parts: dict[str, Any], *names: str) -> dict[str, Any]:
    """The parts but those of these names."""
    return {name: part for name, part in parts.items() if name not in names}


def _counts() -> dict[str, Any]:
    scan = ct()
    counts = np.random.default_rng(1).poisson(1e5 * np.exp(-scan["sinogram"])).astype(np.uint32)
    return {**scan, "sinogram": counts, "quantity": "counts", "i0": 1e5}


def _panel() -> dict[str, Any]:
    """Counts of an uneven beam by a detector whose middle the axis misses, scalars as arrays."""
    scan = _counts()
    flat = 1e5 * (1 + 0.2 * np.sin(np.arange(scan["sinogram"].shape[-1])))
    counts = np.random.default_rng(2).poisson(flat * np.exp(-ct()["sinogram"]) + 50)
    scalars = {"rotation_center": np.float64(24.25), "slice_spacing_mm": np.float64(2.5)}
    beam = {"flat": flat + 50, "dark": np.full(flat.size, 50.0)}
    return {**without(scan, "i0", "reference"), "sinogram": counts.astype(np.uint32), **scalars, **beam}


def projections() -> dict[str, Any]:
    """The phantom as a detector with rows takes it: counts (views, slices, detectors), beam, dark and degrees."""
    scan = ct()
    flat = np.full((2, *scan["sinogram"].shape[::2]), 1e4, np.float32)
    counts = np.random.default_rng(3).poisson(1e4 * np.exp(-scan["sinogram"].swapaxes(0, 1))).astype(np.float32)
    return {"data": counts + 50, "flat": flat + 50, "dark": flat * 0 + 50, "degrees": np.rad2deg(scan["angles"])}


def write_data_exchange(path: Path) -> Path:
    """A Data Exchange file of the phantom."""
    parts = projections()
    with h5py.File(path, "w") as file:
        file["exchange/data"], file["exchange/theta"] = parts["data"], parts["degrees"]
        file["exchange/data_white"], file["exchange/data_dark"] = parts["flat"], parts["dark"]
        file["exchange/theta"].attrs["units"] = "deg"
    return path


def write_nxtomo(path: Path) -> Path:
    """An NXtomo file of the phantom, its flat and dark fields before the projections."""
    parts = projections()
    frames = [parts["flat"], parts["dark"], parts["data"]]
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector["data"] = np.concatenate(frames)
        detector["image_key"] = np.repeat([1, 2, 0], [len(each) for each in frames])
        file["entry/sample/rotation_angle"] = np.concatenate([np.zeros(4), parts["degrees"]])
        file["entry/sample/rotation_angle"].attrs["units"] = "degree"
    return path


def write_mrd(path: Path) -> Path:
    """An MRD (ISMRMRD) file of the phantom: noise, two averages, two slices, every readout a chunk."""
    kspace = fft(np.pad(ifft(mri(acceleration=1)["kspace"]), ((0, 0), (0, 0), (0, 0), (16, 16)))).astype(np.complex64)
    slices, coils, rows, columns = kspace.shape
    rng = np.random.default_rng(4)
    noise = (1e-3 * (rng.normal(size=(4, coils, columns, 2)) @ [1, 1j])).astype(np.complex64)
    lines = [*noise, *(kspace[slice_, :, row] for _ in range(2) for slice_ in range(slices) for row in range(rows))]
    heads = np.zeros(len(lines), HEAD)
    heads["number_of_samples"], heads["active_channels"], heads["center_sample"] = columns, coils, columns // 2
    heads["sample_time_us"], heads["flags"][:4] = 5, 1 << 18
    counters = heads["idx"][4:]
    for name, values in zip(("average", "slice", "kspace_encode_step_1"), np.indices((2, slices, rows)), strict=True):
        counters[name] = values.reshape(-1)
    heads["read_dir"], heads["phase_dir"], heads["slice_dir"] = np.eye(3)
    heads["position"][:, 2] = 5 * heads["idx"]["slice"]
    floats = h5py.vlen_dtype(np.dtype("<f4"))
    content = np.empty(len(lines), [("head", HEAD), ("traj", floats), ("data", floats)])
    content["head"] = heads
    for index, line in enumerate(lines):
        content["traj"][index], content["data"][index] = np.zeros(0, "<f4"), line.reshape(-1).view("<f4")
    xml = HEADER.format(ex=columns, ey=rows, rx=columns // 2, ry=rows, fx=128, fy=64, gx=64, gy=64)
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/data", data=content, chunks=(1,), maxshape=(None,))
        file.create_dataset("dataset/xml", data=np.array([xml], object), dtype=h5py.string_dtype())
    return path


def _arrays(parts: dict[str, Any]) -> dict[str, Any]:
    """Numbers as arrays of no axes."""
    return {name: part if isinstance(part, str) else np.asarray(part) for name, part in parts.items()}


GOOD: dict[str, Callable[[Path], Path]] = {
    "fastmri": lambda path: write_hdf5(path, **distributed()),
    "fastmri_single_coil": lambda path: write_hdf5(
        path, kspace=mri(coils=1)["kspace"][:, 0], reconstruction_esc=phantom(), mask=mri()["mask"]
    ),
    "fastmri_with_maps": lambda path: write_hdf5(path, **mri()),
    "fastmri_with_guide": lambda path: write_hdf5(path, **mri(), guide=phantom()),
    "npz_kspace": lambda path: write_npz(path, **mri()),
    "npz_unnamed_kspace": lambda path: unnamed_npz(path, mri(1)["kspace"][0]),
    "npz_one_slice": lambda path: write_npz(path, **{k: v if k == "mask" else v[0] for k, v in mri(1).items()}),
    "npy_kspace": lambda path: write_npy(path, mri()["kspace"]),
    "npy_one_slice": lambda path: write_npy(path, mri()["kspace"][0]),
    "sinogram": lambda path: write_hdf5(path, **ct()),
    "sinogram_counts": lambda path: write_hdf5(path, **_counts()),
    "sinogram_panel": lambda path: write_hdf5(path, **_arrays(_panel())),
    "npz_sinogram_panel": lambda path: write_npz(path, **_panel()),
    "npz_sinogram": lambda path: write_npz(path, **ct()),
    "npz_sinogram_with_guide": lambda path: write_npz(path, **ct(), guide=ct()["reference"]),
}
MRI_SCANS = [name for name in GOOD if "kspace" in name or "fastmri" in name or name.endswith("one_slice")]
CT_SCANS = [name for name in GOOD if name not in MRI_SCANS]

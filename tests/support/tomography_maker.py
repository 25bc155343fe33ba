"""Makes Data Exchange and NXtomo files of a phantom, with its truth: counts with flat and dark fields."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

VIEWS, SLICES, DETECTORS = 40, 3, 32
ANGLES = np.arange(VIEWS) * np.pi / VIEWS
# (x, y, half axes a and b, attenuation a detector's width), lengths in detectors; nothing symmetric
ELLIPSES = ((0.0, 1.0, 9.0, 12.0, 0.04), (-3.0, 4.0, 3.0, 4.0, 0.03), (4.0, -4.0, 3.0, 2.0, -0.02))


def sinograms(slices: int = SLICES, detectors: int = DETECTORS, views: int = VIEWS) -> NDArray[np.float64]:
    """Exact line integrals (slices, views, detectors); slice number n attenuates n + 1 times as much."""
    theta = (np.arange(views) * np.pi / views)[:, None, None]
    s = np.arange(detectors)[None, :, None] + (np.arange(8) - 3.5) / 8 - (detectors - 1) / 2
    rays = np.zeros(np.broadcast_shapes(theta.shape, s.shape))
    for x, y, a, b, value in ELLIPSES:
        width = (a * np.cos(theta)) ** 2 + (b * np.sin(theta)) ** 2
        along = s - x * np.cos(theta) - y * np.sin(theta)
        rays += value * 2 * a * b * np.sqrt(np.clip(width - along**2, 0, None)) / width
    return rays.mean(axis=-1) * np.arange(1, slices + 1)[:, None, None]


@dataclass(frozen=True)
class Frames:
    """Frames of a detector with rows, as uint16, and what they were made of."""

    truth: NDArray[np.float64] = field(default_factory=sinograms)  # (slices, views, detectors), line integrals
    photons: float = 40_000.0

    @property
    def flat(self) -> NDArray[np.float64]:
        """Readings without an object, (slices, detectors)."""
        slices, _, detectors = self.truth.shape
        across, along = np.meshgrid(np.linspace(-1, 1, detectors), np.linspace(-1, 1, slices) if slices > 1 else [0.0])
        return self.photons * (1 + 0.3 * np.cos(2 * across) + 0.1 * along) + self.dark

    @property
    def dark(self) -> NDArray[np.float64]:
        """Readings without a beam, (slices, detectors)."""
        slices, _, detectors = self.truth.shape
        return np.round(100 + 20 * np.sin(np.arange(slices * detectors)).reshape(slices, detectors))

    @property
    def projections(self) -> NDArray[np.uint16]:
        """(views, slices, detectors)"""
        rays = np.exp(-self.truth).swapaxes(0, 1)
        return np.round(rays * (self.flat - self.dark) + self.dark).astype(np.uint16)

    def several(self, what: str, count: int = 4) -> NDArray[np.uint16]:
        """Noisy frames (count, slices, detectors) of "flat" or "dark"."""
        rng = np.random.default_rng(0)
        mean = self.flat if what == "flat" else self.dark
        return np.round(mean + rng.normal(scale=3, size=(count, *mean.shape))).astype(np.uint16)


def write_data_exchange(path: Path, frames: Frames | None = None, **how: Any) -> Path:
    """A Data Exchange file; `how` replaces datasets by their path (None: left out), or packs the projections."""
    frames = frames or Frames()
    packing = {name: how.pop(name) for name in ("chunks", "compression") if name in how}
    views = frames.truth.shape[1]
    parts: dict[str, Any] = {
        "exchange/data": frames.projections,
        "exchange/data_white": frames.several("flat"),
        "exchange/data_dark": frames.several("dark"),
        "exchange/theta": np.arange(views) * 180 / views,
        **how,
    }
    units = parts.pop("units", "deg")
    with h5py.File(path, "w") as file:
        for name, part in parts.items():
            if part is not None:
                file.create_dataset(name, data=part, **(packing if name == "exchange/data" else {}))
        if units and "exchange/theta" in file:
            file["exchange/theta"].attrs["units"] = units
        file["implements"] = "exchange"
    return path


def write_nxtomo(path: Path, frames: Frames | None = None, **how: Any) -> Path:
    """An NXtomo file: flats, dark fields, half of the projections, an invalid frame, the other half, flats.

    Data in NXdata are links. `how` replaces datasets by their path in the entry; None leaves one out.
    """
    frames = frames or Frames()
    flat, dark, projections = frames.several("flat"), frames.several("dark"), frames.projections
    half = len(projections) // 2
    pieces = [flat[:2], dark, projections[:half], projections[:1] * 0 + 7, projections[half:], flat[2:]]
    degrees = np.arange(len(projections)) * 180 / len(projections)
    turn = [np.zeros(len(flat[:2]) + len(dark)), degrees[:half], [0.0], degrees[half:], np.full(len(flat[2:]), 180.0)]
    keys = [[1] * 2, [2] * len(dark), [0] * half, [3], [0] * (len(projections) - half), [1] * len(flat[2:])]
    parts: dict[str, Any] = {
        "instrument/detector/data": np.concatenate(pieces),
        "instrument/detector/image_key": np.concatenate(keys).astype(np.uint8),
        "instrument/detector/x_pixel_size": 5e-6,
        "sample/rotation_angle": np.concatenate(turn),
        **how,
    }
    units = parts.pop("units", "degree")
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        for name, part in parts.items():
            if part is not None:
                entry[name] = part
        if units and "sample/rotation_angle" in entry:
            entry["sample/rotation_angle"].attrs["units"] = units
        if "instrument/detector/x_pixel_size" in entry:
            entry["instrument/detector/x_pixel_size"].attrs["units"] = "m"
        for name in set(entry["instrument/detector"]) & {"data", "image_key"}:
            entry[f"data/{name}"] = h5py.SoftLink(f"/entry/instrument/detector/{name}")
        entry["definition"] = "NXtomo"
    return path

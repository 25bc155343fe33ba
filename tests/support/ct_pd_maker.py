"""DICOM-CT-PD scans of ellipsoids, whose line integrals are known: helical or axial, the focal spot flying or not."""

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

WATER = 0.0193

# (x, y, z, half axes a, b, c, angle in the plane, attenuation 1/mm) in mm; y towards the source at angle 0
ELLIPSOIDS = (
    (0.0, 2.0, 0.0, 40.0, 30.0, 120.0, 0.1, WATER),
    (-12.0, 8.0, 3.0, 8.0, 10.0, 40.0, 0.4, 0.01),
    (14.0, -8.0, -4.0, 9.0, 7.0, 60.0, 0.0, -0.008),
    (20.0, 12.0, 6.0, 4.0, 4.0, 30.0, 0.0, 0.02),
)


def integrals(sources: NDArray[np.float64], ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Line integrals from sources to ends (..., 3) through the ellipsoids."""
    rays = ends - sources
    length = np.linalg.norm(rays, axis=-1)
    total = np.zeros(np.broadcast_shapes(length.shape))
    for x, y, z, a, b, c, turn, value in ELLIPSOIDS:
        turned = np.array([[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0], [0, 0, 1.0]])
        scaled = turned / np.array([[a], [b], [c]])
        p, d = (sources - (x, y, z)) @ scaled.T, rays @ scaled.T
        dd, pd, pp = (d * d).sum(-1), (p * d).sum(-1), (p * p).sum(-1)
        total += value * length * 2 * np.sqrt(np.clip(pd**2 - dd * (pp - 1), 0, None)) / dd
    return total


def slice_image(z: float, size: int, pixel_mm: float, samples: int = 4) -> NDArray[np.float64]:
    """The attenuation (size, size) in the plane at z, the mean of some points in each pixel; rows down, y up."""
    fine = ((np.arange(samples * size) + 0.5) / samples - size / 2) * pixel_mm
    x, y = fine[None, :], -fine[:, None]
    image = np.zeros((samples * size, samples * size))
    for cx, cy, cz, a, b, c, turn, value in ELLIPSOIDS:
        along, across = x - cx, y - cy
        u = along * math.cos(turn) + across * math.sin(turn)
        v = across * math.cos(turn) - along * math.sin(turn)
        image += value * ((u / a) ** 2 + (v / b) ** 2 + ((z - cz) / c) ** 2 <= 1)
    return image.reshape(size, samples, size, samples).mean((1, 3))


@dataclass(frozen=True)
class CtPdScan:
    """What is scanned, and how."""

    columns: int = 96
    rows: int = 16
    column_mm: float = 2.0
    row_mm: float = 2.0
    center: tuple[float, float] = (48.75, 8.5)  # counted from 1: a quarter of a column off the middle
    radius_mm: float = 595.0
    detector_mm: float = 1085.6
    views_a_turn: int = 96
    turns: float = 3.0
    feed_mm: float = 10.0
    first_angle: float = 0.3
    direction: int = 1
    shifts: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),)  # radius, angle, z of each focal spot in turn
    implicit: bool = True

    @property
    def views(self) -> int:
        """Number of views."""
        return round(self.turns * self.views_a_turn)

    def source_of(self, view: int) -> tuple[float, float]:
        """Angle and z of the focal centre."""
        turn = view / self.views_a_turn
        return self.first_angle + self.direction * 2 * math.pi * turn, self.feed_mm * (turn - self.turns / 2)

    def fan(self, phi: float, z: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[Any, Any]:
        """Source (3,) and the detector's elements (columns, rows, 3) with the columns as in the file."""
        radius, turned, along = shift
        source = place(self.radius_mm + radius, phi + turned, z + along)
        # Columns run against the sense of the angle, which is that of (cos phi, sin phi) here.
        gamma = (np.arange(1, self.columns + 1) - self.center[0]) * self.column_mm / self.detector_mm
        v = (np.arange(1, self.rows + 1) - self.center[1]) * self.row_mm
        focus = place(self.radius_mm, phi, z)
        inward, aside = np.array([math.sin(phi), -math.cos(phi)]), np.array([math.cos(phi), math.sin(phi)])
        plane = focus[:2] + self.detector_mm * (np.cos(gamma)[:, None] * inward + np.sin(gamma)[:, None] * aside)
        ends = np.empty((self.columns, self.rows, 3))
        ends[..., :2], ends[..., 2] = plane[:, None], z + v
        return source, ends

    def fan_sinogram(self, angles: NDArray[np.float64], z: float) -> NDArray[np.float64]:
        """The true sinogram (views, columns) of the fan in the plane at z, columns as `Geometry` has them."""
        rows = []
        for theta in angles:
            source, ends = self.fan(theta - math.pi, z)
            flat = ends[::-1, 0].copy()
            flat[:, 2] = z
            rows.append(integrals(source, flat))
        return np.stack(rows)


def place(radius: float, phi: float, z: float) -> NDArray[np.float64]:
    """A point by its distance from the axis and its angle, as DICOM-CT-PD has them."""
    return np.array([-radius * math.sin(phi), radius * math.cos(phi), z])


def files(scan: CtPdScan, change: Callable[[int, pydicom.Dataset], None] | None = None) -> dict[str, bytes]:
    """The files of a scan by their names; `change` spoils some."""
    made = {}
    projections = []
    for view in range(scan.views):
        phi, z = scan.source_of(view)
        projections.append(integrals(*scan.fan(phi, z, scan.shifts[view % len(scan.shifts)])))
    slope = float(np.max(projections)) / 65_000
    for view, projection in enumerate(projections):
        phi, z = scan.source_of(view)
        data = pydicom.Dataset()
        data.Modality, data.InstanceNumber = "CT", view + 1
        data.Rows, data.Columns, data.SamplesPerPixel = scan.columns, scan.rows, 1
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PhotometricInterpretation = "MONOCHROME2"
        data.RescaleSlope, data.RescaleIntercept = f"{slope:.10g}", "0"
        shift = scan.shifts[view % len(scan.shifts)]
        data.add_new(0x70291010, "US", scan.rows)
        data.add_new(0x70291011, "US", scan.columns)
        for tag, value in {
            **{0x70291002: scan.column_mm, 0x70291006: scan.row_mm, 0x70311002: z, 0x70311003: scan.radius_mm},
            **{
                0x70311001: math.remainder(phi, 2 * math.pi),
                0x70311031: scan.detector_mm,
                0x70311033: list(scan.center),
            },
            **{0x7033100B: shift[1], 0x7033100C: shift[2], 0x7033100D: shift[0]},
        }.items():
            data.add_new(tag, "FL", value)
        data.add_new(0x7029100B, "CS", "CYLINDRICAL")
        data.add_new(0x7033100E, "CS", "FFSNONE" if len(scan.shifts) == 1 else "FFSXYZ")
        data.add_new(0x70331013, "US", scan.views_a_turn)
        data.add_new(0x70411001, "DS", str(WATER))
        data.PixelData = np.round(projection / slope).astype("<u2").tobytes()
        if change is not None:
            change(view, data)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if scan.implicit else ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("1.2.3")
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, data, enforce_file_format=True)
        made[f"series/1-{view + 1:04}.dcm"] = stream.getvalue()
    return made


def zipped(made: dict[str, bytes]) -> bytes:
    """A zip of files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in made.items():
            archive.writestr(name, content)
    return stream.getvalue()

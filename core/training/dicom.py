"""DICOM series as volumes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan

Spacing = tuple[float, float, float]


def series(files: Sequence[Path]) -> Iterator[tuple[NDArray[np.float32], Spacing | None]]:
    """Volumes (rows, columns, slices) of DICOM files with their spacing in mm, a volume for each series and direction.

    Slices are sorted along their normal, values rescaled (CT: Hounsfield units). The spacing is None where positions
    are missing, repeated or uneven. Files without a grey image are skipped.
    """
    groups: dict[Any, list[tuple[Path, Any]]] = {}
    for path in files:
        header = _header(path)
        if header is not None:
            groups.setdefault(_group(header), []).append((path, header))
    for members in groups.values():
        yield _volume(members)


def _volume(members: list[tuple[Path, Any]]) -> tuple[NDArray[np.float32], Spacing | None]:
    placed = [_place(path, header) for path, header in members]
    order = np.argsort(placed, kind="stable")
    planes = [_values(*members[index]) for index in order]
    return np.stack(planes, axis=-1), _spacing(members[0][1], np.sort(placed))


def _header(path: Path) -> Any:
    """The data set of a file; None when it holds no grey image."""
    try:
        header = pydicom.dcmread(path)
    except (OSError, EOFError, ValueError, KeyError, pydicom.errors.InvalidDicomError) as error:
        raise UnreadableScan.at("images", str(error), "a DICOM file", subject=path.name) from error
    if "PixelData" not in header or header.get("SamplesPerPixel", 1) != 1:
        return None
    if int(header.get("NumberOfFrames", None) or 1) > 1:
        raise UnreadableScan.at("images", "several frames in one file", "one slice a file", subject=path.name)
    return header


def _group(header: Any) -> tuple[Any, ...]:
    direction = tuple(round(float(part), 3) for part in header.get("ImageOrientationPatient", None) or ())
    return str(header.get("SeriesInstanceUID", "")), header.Rows, header.Columns, direction


def _place(path: Path, header: Any) -> float:
    """Position of a slice along its normal in mm; its instance number where it has no position."""
    position, direction = (header.get(f"Image{name}Patient", None) for name in ("Position", "Orientation"))
    if position and direction:
        normal = np.cross(np.asarray(direction[:3], float), np.asarray(direction[3:], float))
        return float(normal @ np.asarray(position, float))
    number = header.get("InstanceNumber", None)
    if number is None:
        raise UnreadableScan.at(
            "images",
            "neither",
            "ImagePositionPatient and ImageOrientationPatient, or InstanceNumber",
            subject=path.name,
        )
    return float(number)


def _values(path: Path, header: Any) -> NDArray[np.float32]:
    try:
        pixels = header.pixel_array
    except (AttributeError, RuntimeError, NotImplementedError, ValueError, KeyError) as error:
        raise UnreadableScan.at(
            "images", str(error).split("\n")[0], "pixels that pydicom can decode", subject=path.name
        ) from error
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    rescaled: NDArray[np.float32] = pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return rescaled


def _spacing(header: Any, places: NDArray[np.float64]) -> Spacing | None:
    gaps = np.diff(places)
    in_plane = header.get("PixelSpacing", None)
    positioned = header.get("ImagePositionPatient", None) and header.get("ImageOrientationPatient", None)
    if not in_plane or not positioned or not gaps.size or gaps.min() < 0.9 * gaps.max() or gaps.max() == 0:
        return None
    return float(in_plane[0]), float(in_plane[1]), float(np.median(gaps))

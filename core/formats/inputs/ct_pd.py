"""Input format DICOM-CT-PD: projections of CT scanners, a DICOM file a view, all of a scan in a zip.

Chen et al. (2015): Development and validation of an open data format for CT projection data; the archive
"LDCT-and-Projection-data" has scans in it. Pixels are line integrals, geometry stands in private elements. Helical and
axial scans are rebinned to fans (`udig_recon.core.formats.sinogram.rebinning`).
"""

import io
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers.arrays import InMemory
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.zip_archive import SIGNATURE, ZipMember, read_archive
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.limits import damage_as_unreadable
from udig_recon.core.formats.sinogram.geometry import WATER_PER_MM
from udig_recon.core.formats.sinogram.rebinning import ConeGeometry, Rebinned

MOST_VIEWS = 65_535  # members of a zip archive without its 64-bit extension
MARK = b"DICM"

_PREAMBLE_BYTES = 128
_MOST_VIEW_BYTES = 8 << 20
_MOST_HEADER_BYTES = 64 << 10
_MOST_COLUMNS, _MOST_ROWS = 4096, 1024
_MOST_IMAGE = 512  # pixels a side, unless the file's detector is coarser
_CONE = (
    "fans of single-slice rebinning: only CT scanners' detectors, on an arc about the source, are read "
    "(DICOM-CT-PD with DetectorShape CYLINDRICAL); flat panels need a cone-beam reconstruction, as RTK or ASTRA have"
)
_CT_PD = "projections of a CT scanner as DICOM-CT-PD: one file a view, all of a series in one zip"
_FLAT_PANELS = ("XA", "RF", "DX", "CR", "MG", "RTIMAGE", "IO", "PX")
"""Modalities whose pictures are taken by flat panels."""

_ROWS, _COLUMNS = (0x7029, 0x1010), (0x7029, 0x1011)
_COLUMN_MM, _ROW_MM, _SHAPE = (0x7029, 0x1002), (0x7029, 0x1006), (0x7029, 0x100B)
_ANGLE, _Z, _RADIUS = (0x7031, 0x1001), (0x7031, 0x1002), (0x7031, 0x1003)
_DISTANCE, _CENTER = (0x7031, 0x1031), (0x7031, 0x1033)
_ANGLE_SHIFT, _Z_SHIFT, _RADIUS_SHIFT = (0x7033, 0x100B), (0x7033, 0x100C), (0x7033, 0x100D)
_WATER = (0x7041, 0x1001)
_PRIVATE = (_ROWS, _COLUMNS, _COLUMN_MM, _ROW_MM, _SHAPE, _ANGLE, _Z, _RADIUS, _DISTANCE, _CENTER)
_SHIFTS = (_RADIUS_SHIFT, _ANGLE_SHIFT, _Z_SHIFT)
_PLAIN = ("Modality", "Rows", "Columns", "BitsAllocated", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames")
_NEEDED = (*_PLAIN, "InstanceNumber", "RescaleSlope", "RescaleIntercept", *_PRIVATE, *_SHIFTS, _WATER)
_DIGITS = frozenset(b"0123456789+-.eE\\ ")
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")


@dataclass(frozen=True)
class _View:
    """What the file of a view says of it."""

    number: int
    fixed: tuple[float, ...]  # what all views of a scan share: sizes, spacings, distances, centre
    angle: float
    z_mm: float
    radius_mm: float
    shifts: tuple[float, float, float]
    rescale: tuple[float, float]
    water: float | None


class CtPd:
    """A zip of DICOM files with the private elements of DICOM-CT-PD."""

    name = "DICOM-CT-PD"
    expected = "a zip of DICOM-CT-PD projections"

    def sniff(self, file: ScanFile) -> bool:
        """Whether it is a zip archive whose first file is DICOM."""
        if file.start(len(SIGNATURE)) != SIGNATURE:
            return False
        try:
            with damage_as_unreadable("zip"), zipfile.ZipFile(file.stream()) as archive:
                first = next((each for each in archive.infolist() if not each.is_dir()), None)
                if first is None:
                    return False
                with archive.open(first) as member:
                    return member.read(_PREAMBLE_BYTES + len(MARK)).endswith(MARK)
        except (UnreadableScan, NotImplementedError):
            return False

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The sinogram of each slice, rebinned when it is read."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, over values that are looked at here
            members = list(read_archive(file, MOST_VIEWS).values())
            yield _contents(members, file.size)

    def samples(self) -> Sequence[bytes]:
        """A turn of views of two rows in the plane."""
        return (_sample(),)


FORMAT = CtPd()


def _contents(members: list[ZipMember], file_bytes: int) -> Contents:
    views = [_read_view(member) for member in members]
    if len({view.fixed for view in views}) > 1:
        raise UnreadableScan.at("file", "views of several detectors or distances", "the views of one series")
    order = sorted(range(len(views)), key=lambda index: views[index].number)
    if len({view.number for view in views}) < len(views):
        raise UnreadableScan.at("InstanceNumber", "two views of one number", "the views of one series, each once")
    views, members = [views[index] for index in order], [members[index] for index in order]
    columns, rows, column_mm, row_mm, detector_mm, center_column, center_row = views[0].fixed
    radius_mm = float(np.median([view.radius_mm for view in views]))
    geometry = ConeGeometry(
        columns=int(columns),
        rows=int(rows),
        column_mm=column_mm,
        row_mm=row_mm,
        # The elements are counted from 1, and columns against the sense of the angle.
        center=(columns - center_column, center_row - 1),
        radius_mm=radius_mm,
        detector_mm=detector_mm,
        phi=np.unwrap([view.angle for view in views]),
        z_mm=np.array([view.z_mm for view in views]),
        shifts=np.array([(view.shifts[0] + view.radius_mm - radius_mm, *view.shifts[1:]) for view in views]),
    )
    slope, intercept = (np.array(each) for each in zip(*(view.rescale for view in views), strict=True))
    shape = (int(columns), int(rows))
    source = Rebinned(geometry, lambda index: _pixels(members[index], shape), (slope, intercept), file_bytes)
    return Contents(
        "dicom_ct_pd",
        {"sinogram": source, "angles": InMemory("angles", source.angles)},
        _attributes(source, views),
        warnings=tuple(_warnings(source, views)),
    )


def _attributes(source: Rebinned, views: list[_View]) -> dict[str, float | str]:
    geometry = source.geometry
    shorter = min(abs(geometry.fan_angles[0]), abs(geometry.fan_angles[-1]))
    field = 2 * geometry.radius_mm * math.sin(shorter + geometry.column_mm / geometry.detector_mm / 2)
    natural = geometry.column_mm * geometry.radius_mm / geometry.detector_mm
    size = max(1, min(_MOST_IMAGE, round(field / natural)))
    attributes: dict[str, float | str] = {
        "geometry": "fan_curved",
        "source_origin_mm": geometry.radius_mm,
        "source_detector_mm": geometry.detector_mm,
        "detector_spacing_mm": geometry.column_mm,
        "rotation_center": geometry.center[0],
        "image_size": size,
        "pixel_size_mm": field / size,
        "slice_spacing_mm": source.spacing_mm,
    }
    waters = {view.water for view in views}
    if len(waters) == 1 and (water := waters.pop()) is not None:
        attributes["water_attenuation_per_mm"] = water
    return attributes


def _warnings(source: Rebinned, views: list[_View]) -> Iterator[str]:
    geometry = source.geometry
    turns = float(np.ptp(geometry.phi)) / (2 * math.pi)
    kind = f"a helix of {turns:.3g} turns, {source.feed_mm:.4g} mm each" if source.feed_mm else "an axial scan"
    first, last = float(source.z_mm[0]), float(source.z_mm[-1])
    yield (
        f"{len(views)} views of {kind}, were rebinned to fans in the planes of {len(source.z_mm)} slices, from "
        f"z = {first:.4g} to {last:.4g} mm (single-slice rebinning)"
    )
    if source.farthest_mm > geometry.row_at_axis_mm / 2:
        yield (
            f"the table moves further in a turn than the detector is high: rays as far as {source.farthest_mm:.3g} mm "
            "from the plane of a slice stand in for those in it"
        )
    yield "the file does not tell how the patient lay: columns and rows are those of the scanner, seen from its front"


def _read_view(member: ZipMember) -> _View:
    """What a file says of its view. Raises UnreadableScan and UnsupportedScan."""
    if member.size > _MOST_VIEW_BYTES:
        raise UnreadableScan.at("file", f"a view of {member.size} bytes", f"at most {_MOST_VIEW_BYTES} bytes a file")
    with damage_as_unreadable("DICOM"):
        found = _elements(member.open().start(min(member.size, _MOST_HEADER_BYTES)), header_alone=True)
    modality = str(found.get("Modality", ""))
    if not any(name in found for name in _PRIVATE):
        if modality in _FLAT_PANELS:
            raise UnsupportedScan.at("file", f"cone-beam projections (DICOM of modality {modality})", _CONE)
        raise UnsupportedScan.at(
            "file", "DICOM files that are no projections", f"{_CT_PD}; images need no reconstruction"
        )
    if _text(found, _SHAPE, "CYLINDRICAL") != "CYLINDRICAL":
        raise UnsupportedScan.at("(7029,100B)", "a detector of another shape (cone beam)", _CONE)
    columns, rows = _whole(found, _COLUMNS, _MOST_COLUMNS), _whole(found, _ROWS, _MOST_ROWS)
    _check_pixels(found, columns, rows, member.size)
    center = _numbers(found, _CENTER, 2)
    fixed = (
        float(columns),
        float(rows),
        _number(found, _COLUMN_MM, 1e-3, 1e2),
        _number(found, _ROW_MM, 1e-3, 1e2),
        _number(found, _DISTANCE, 10, 1e4),
        *center,
    )
    if not (1 <= center[0] <= columns and 0 <= center[1] <= rows + 1):
        raise UnreadableScan.at(
            "(7031,1033)", f"{center[0]:g}, {center[1]:g}", f"a column of {columns} and a row of {rows}"
        )
    water = _number(found, _WATER, *WATER_PER_MM) if _WATER in found else None
    slope, intercept = found.get("RescaleSlope", 1.0), found.get("RescaleIntercept", 0.0)
    rescale = float(slope), float(intercept)
    if not (np.isfinite(rescale).all() and rescale[0] > 0):
        raise UnreadableScan.at("RescaleSlope", f"{rescale[0]:g}, {rescale[1]:g}", "a slope above 0, and an intercept")
    return _View(
        number=int(found.get("InstanceNumber") or 0),
        fixed=fixed,
        angle=_number(found, _ANGLE, -1e4, 1e4),
        z_mm=_number(found, _Z, -1e4, 1e4),
        radius_mm=_number(found, _RADIUS, 10, fixed[4]),
        shifts=tuple(_number(found, name, -1e2, 1e2) if name in found else 0.0 for name in _SHIFTS),  # type: ignore[arg-type]
        rescale=rescale,
        water=water,
    )


def _check_pixels(found: Mapping[Any, Any], columns: int, rows: int, size: int) -> None:
    """Raise UnreadableScan where the picture is not one of the detector's elements."""
    # The picture's rows are the detector's columns.
    shape = found.get("Rows"), found.get("Columns")
    if shape != (columns, rows):
        raise UnreadableScan.at(
            "Rows", f"{shape[0]} x {shape[1]}", f"{columns} x {rows}, columns and rows of the detector"
        )
    plain = found.get("BitsAllocated"), found.get("PixelRepresentation"), found.get("SamplesPerPixel")
    if plain != (16, 0, 1) or int(found.get("NumberOfFrames") or 1) != 1:
        raise UnreadableScan.at("BitsAllocated", f"pixels of {plain[0]} bits", "one picture of unsigned 16-bit numbers")
    if size < 2 * columns * rows:
        raise UnreadableScan.at("PixelData", f"a file of {size} bytes", f"{2 * columns * rows} bytes of pixels")


def _elements(content: bytes, *, header_alone: bool) -> dict[Any, Any]:
    """Elements of a DICOM file: by keyword, and private ones by their tag."""
    wanted = [*_NEEDED, *(() if header_alone else ("PixelData",))]
    try:
        data = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=header_alone, specific_tags=wanted)
        syntax = str(data.file_meta.get("TransferSyntaxUID", _UNCOMPRESSED[0]))
        found = {element.keyword or (element.tag.group, element.tag.element): element.value for element in data}
    except Exception as error:  # of damaged files it raises whatever comes
        raise ValueError("no DICOM") from error
    if syntax not in _UNCOMPRESSED:
        raise UnsupportedScan.at("TransferSyntaxUID", "a compressed or big-endian file", "uncompressed little-endian")
    return found


def _pixels(member: ZipMember, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Pixels (columns, rows), in the sense of the angle. Raises UnreadableScan."""
    with damage_as_unreadable("DICOM"):
        whole = member.open().start(member.size)
        if zlib.crc32(whole) != member.crc:
            raise UnreadableScan.at("file", "damaged content (another checksum)", "a whole zip archive")
        content = _elements(whole, header_alone=False).get("PixelData", b"")
    if len(content) not in (2 * shape[0] * shape[1], 2 * shape[0] * shape[1] + 1):
        found = f"{len(content)} bytes"
        raise UnreadableScan.at("PixelData", found, f"{2 * shape[0] * shape[1]} bytes: 16 bits for each of {shape}")
    values = np.frombuffer(content, "<u2", shape[0] * shape[1]).reshape(shape)
    return np.ascontiguousarray(values[::-1])


def _numbers(found: Mapping[Any, Any], name: tuple[int, int], count: int) -> tuple[float, ...]:
    """Numbers of a private element, which under an implicit VR are bytes: floats, or a text of digits."""
    value = found.get(name)
    label = f"({name[0]:04X},{name[1]:04X})"
    if value is None:
        raise UnreadableScan.at(label, "none", f"{count} numbers, as DICOM-CT-PD has them")
    if isinstance(value, bytes):
        if set(value) <= _DIGITS:
            numbers = tuple(float(text) for text in value.decode().strip("\0 ").split("\\"))
        else:
            numbers = struct.unpack(f"<{len(value) // 4}f", value[: len(value) // 4 * 4])
    else:
        numbers = tuple(map(float, value if isinstance(value, Sequence) and not isinstance(value, str) else [value]))
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UnreadableScan.at(label, f"{len(numbers)} numbers", f"{count} finite numbers")
    return numbers


def _text(found: Mapping[Any, Any], name: tuple[int, int], missing: str) -> str:
    value = found.get(name, missing)
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).strip("\0 ").upper()


def _number(found: Mapping[Any, Any], name: tuple[int, int], low: float, high: float) -> float:
    try:
        (number,) = _numbers(found, name, 1)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        label = f"({name[0]:04X},{name[1]:04X})"
        raise UnreadableScan.at(label, f"{number:g}", f"a number from {low:g} to {high:g}")
    return number


def _whole(found: Mapping[Any, Any], name: tuple[int, int], most: int) -> int:
    value = found.get(name)
    number = int.from_bytes(value, "little") if isinstance(value, bytes) else value
    if not isinstance(number, int) or not 1 <= number <= most:
        found_number = "none" if value is None else "no whole number, or one out of range"
        raise UnreadableScan.at(f"({name[0]:04X},{name[1]:04X})", found_number, f"a whole number up to {most}")
    return number


def _sample() -> bytes:
    """A turn of 16 views of 16 columns and 2 rows."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(16):
            data = pydicom.Dataset()
            data.Modality, data.InstanceNumber = "CT", number + 1
            data.Rows, data.Columns, data.SamplesPerPixel, data.NumberOfFrames = 16, 2, 1, 1
            data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
            data.PhotometricInterpretation = "MONOCHROME2"
            data.RescaleSlope, data.RescaleIntercept = "0.001", "0"
            data.add_new(_ROWS, "US", 2)
            data.add_new(_COLUMNS, "US", 16)
            given: dict[tuple[int, int], Any] = {
                **{_COLUMN_MM: 2.0, _ROW_MM: 2.0, _ANGLE: number * math.pi / 8, _Z: 0.0, _RADIUS: 50.0},
                **{_DISTANCE: 100.0, _CENTER: [8.5, 1.5], _ANGLE_SHIFT: 0.0, _Z_SHIFT: 0.0, _RADIUS_SHIFT: 0.0},
            }
            for name, value in given.items():
                data.add_new(name, "FL", value)
            data.add_new(_SHAPE, "CS", "CYLINDRICAL")
            data.add_new(_WATER, "DS", "0.0193")
            data.PixelData = np.full(32, 9, "<u2").tobytes()
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = UID(_UNCOMPRESSED[number % 2])
            data.file_meta.MediaStorageSOPClassUID = data.file_meta.MediaStorageSOPInstanceUID = UID("1.2")
            written = io.BytesIO()
            pydicom.dcmwrite(written, data, enforce_file_format=True)
            archive.writestr(f"{number:04}.dcm", written.getvalue())
    return stream.getvalue()

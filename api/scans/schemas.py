"""JSON schema of scans."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from udig_recon.api.openapi.content import CREATED, SCAN_ID, SHA256, UPLOAD_ID

_ITEM: dict[str, Any] = {
    "id": SCAN_ID,
    "filename": "brain.h5",
    "size_bytes": 7864320,
    "sha256": SHA256,
    "format": "fastmri_hdf5",
    "modality": "mri",
    "slices": 1,
    "coils": 8,
    "views": None,
    "detectors": None,
    "matrix": [320, 320],
    "kspace_matrix": [320, 320],
    "pixel_spacing_mm": [0.7, 0.7],
    "slice_spacing_mm": 4.0,
    "affine": [[0.7, 0.0, 0.0, -112.0], [0.0, 0.7, 0.0, -104.5], [0.0, 0.0, 4.0, 31.2], [0.0, 0.0, 0.0, 1.0]],
    "trajectory": "cartesian",
    "averages": 1,
    "prewhitened": False,
    "geometry": None,
    "source_origin_mm": None,
    "source_detector_mm": None,
    "rotation_center": None,
    "water_attenuation_per_mm": None,
    "acceleration": 4.0,
    "has_maps": False,
    "has_reference": True,
    "has_guide": False,
    "corrections": [],
    "warnings": [],
    "created_at": CREATED,
    "expires_at": None,
}


AFFINE = (
    "from (column, row, slice position, 1) of the image to patient coordinates in mm (L, P, S), rows first; slice "
    "positions are those that frames count, or else slice numbers; null: the file does not tell how the patient lay"
)
AffineRow = tuple[float, float, float, float]
AffineOut = tuple[AffineRow, AffineRow, AffineRow, AffineRow]


class UploadedScan(BaseModel):
    """A complete resumable upload that is to become a scan."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"upload_id": UPLOAD_ID}]})

    upload_id: uuid.UUID = Field(description="of POST /v1/uploads")


class FrameOut(BaseModel):
    """Which image a slice of a scan is, by the scanner's counters from 0."""

    slice: int = Field(description="slice position, along the slice direction")
    contrast: int = 0
    phase: int = 0
    repetition: int = 0
    set: int = 0


class ScanItem(BaseModel):
    """A scan in a list."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ITEM]})

    id: uuid.UUID
    filename: str = Field(description="base name that the client gave; kept for people only")
    size_bytes: int
    sha256: str
    format: str = Field(description="found by content")
    modality: Literal["mri", "ct"]
    slices: int
    coils: int | None = Field(description="MRI")
    views: int | None = Field(description="CT")
    detectors: int | None = Field(description="CT")
    matrix: tuple[int, int] = Field(description="(y, x) of the image that comes out")
    kspace_matrix: tuple[int, int] | None = Field(description="(ky, kx), MRI")
    pixel_spacing_mm: tuple[float, float] = Field(description="(y, x)")
    slice_spacing_mm: float | None = Field(None, description="from slice to slice; null: unknown")
    affine: AffineOut | None = Field(None, description=AFFINE)
    trajectory: Literal["cartesian", "radial", "spiral", "other"] | None = Field(
        None, description="MRI; null: Cartesian, by a format that has no other"
    )
    averages: int | None = Field(None, description="how often each line was measured, at most, MRI; null: unknown")
    prewhitened: bool = Field(False, description="by the file's own noise measurement, MRI")
    geometry: Literal["parallel", "fan_flat", "fan_curved"] | None = Field(None, description="of the rays, CT")
    source_origin_mm: float | None = Field(None, description="from the source to the axis of rotation, fans")
    source_detector_mm: float | None = Field(None, description="from the source to the detector, fans")
    rotation_center: float | None = Field(
        None, description="detector index that the axis of rotation falls on, CT; null: the middle"
    )
    water_attenuation_per_mm: float | None = Field(
        None, description="by which attenuation becomes Hounsfield units, CT; null: the file does not tell"
    )
    acceleration: float | None = Field(description="k-space samples / measured samples, MRI")
    has_maps: bool = Field(description="the file brings coil sensitivity maps")
    has_reference: bool = Field(description="the file brings a fully sampled reference")
    has_guide: bool = Field(False, description="the file brings a structural image for ref_guided_dip")
    corrections: list[str] = Field([], description="what was corrected of the measurements, in sentences")
    warnings: list[str] = Field(description="what was assumed, left out or doubtful, in sentences")
    created_at: datetime
    expires_at: datetime | None = Field(description="when it is deleted; null: not by itself")


class ScanOut(ScanItem):
    """A scan that is stored, with its frames."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_ITEM, "frames": []}]})

    frames: list[FrameOut] = Field(
        [],
        description="which contrast, phase ... each slice is; a job's `slices` are indices into this list. Empty: "
        "the scan has one image of each slice position, and `slices` are their numbers",
    )

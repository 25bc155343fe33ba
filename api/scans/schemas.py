"""JSON schema of scans."""

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from udig_recon.api.openapi.content import CREATED, SCAN_ID, SHA256

_EXAMPLE: dict[str, Any] = {
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
    "acceleration": 4.0,
    "has_maps": False,
    "has_reference": True,
    "has_guide": False,
    "warnings": [],
    "created_at": CREATED,
    "expires_at": None,
}


class ScanOut(BaseModel):
    """A scan that is stored."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

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
    acceleration: float | None = Field(description="k-space samples / measured samples, MRI")
    has_maps: bool = Field(description="the file brings coil sensitivity maps")
    has_reference: bool = Field(description="the file brings a fully sampled reference")
    has_guide: bool = Field(False, description="the file brings a structural image for ref_guided_dip")
    warnings: list[str]
    created_at: datetime
    expires_at: datetime | None = Field(description="when it is deleted; null: not by itself")

"""JSON schema of scans."""

import uuid
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field


class ScanOut(BaseModel):
    """A scan that is stored."""

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

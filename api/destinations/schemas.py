"""JSON schemas of destinations and of what is sent to them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from udig_recon.worker.database.tables import DeliveryState

_DESTINATION: dict[str, Any] = {"name": "radiology", "kind": "dicomweb", "identifiers": False}


class DestinationOut(BaseModel):
    """An archive that jobs may name."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DESTINATION]})

    name: str
    kind: Literal["dicomweb", "dimse"] = Field(description="`dicomweb`: STOW-RS; `dimse`: C-STORE")
    identifiers: bool = Field(description="whether its objects carry the identifiers of patient and study")


class DeliveryOut(BaseModel):
    """Delivery of a result to a destination."""

    destination: str
    state: DeliveryState = Field(description="`failed`: given up, some three days after the first attempt")
    attempts: int
    error: str | None = Field(description="what the last attempt came to; null once the archive has all objects")
    due_at: datetime = Field(description="of the next attempt, while it is pending")
    delivered_at: datetime | None

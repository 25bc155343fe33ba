"""Unique identifiers (UIDs) of DICOM objects, derived from what they name: a repeat of a job keeps them."""

import hashlib
import json
import uuid
from importlib.metadata import version
from typing import Any

from udig_recon.core.results.output_format import ResultInfo


def derived_uid(*of: str | int) -> str:
    """A UID below 2.25 of 128 bits of SHA-256 over these names (DICOM PS3.5 B.2)."""
    digest = hashlib.sha256(json.dumps(of).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def software_of(info: ResultInfo) -> str:
    """The software that made a result: this version, where the result does not tell it."""
    return str(info.attributes.get("software", f"udig-recon {version('udig-recon')}"))


def job_key(info: ResultInfo) -> str:
    """What names a result: the id of its job, or else a hash of all that is known of it and of the software."""
    attributes = {**info.attributes, "slice_numbers": list(info.slice_numbers)}
    if "job_id" in attributes:
        return str(uuid.UUID(str(attributes["job_id"])))
    known = {name: _plain(value) for name, value in attributes.items()} | {"software": software_of(info)}
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def short_id(job: str) -> str:
    """Twelve digits of a job's key, for people; of a UUIDv7 those that are random."""
    return job.replace("-", "")[-12:]


def _plain(value: Any) -> Any:
    """A JSON text as what it says: attributes hold parameters in both forms."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return list(value) if isinstance(value, tuple) else value

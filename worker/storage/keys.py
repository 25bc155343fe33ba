"""Keys of stored objects: the name of every scan, checkpoint, slice, preview and result, alike in every backend.

A key is a relative path of names divided by "/". Rows hold keys (`jobs.result`, `chunks.result`).

    scans/[TENANT/]SHA256                    a scan as it was uploaded; those of the default tenant have no TENANT
    prepared/TENANT/SHA256                   its prepared form, see `udig_recon.core.formats.prepared`
    identities/TENANT/SHA256                 who was scanned, by a template DICOM, see `udig_recon.core.identity`
    jobs/ID/checkpoints/SLICE.STEP.SHA256.pt
    jobs/ID/previews/SLICE.npz               the latest image of a slice that runs
    jobs/ID/slices/SLICE.ATTEMPT.npz         the result of a slice, by one attempt
    jobs/ID/results/ATTEMPT/reconstruction.* the result of the job, by one attempt
    uploads/ID                               the bytes of an upload that goes on; a local file in every backend
    parts/ID/NUMBER                          a part of an upload that goes straight to a bucket
    identity                                 the id that the storage and its database share
"""

import uuid
from typing import NamedTuple

from udig_recon.core.results.output_format import OutputFormat
from udig_recon.worker.database.tables import DEFAULT_TENANT

SCANS, PREPARED, IDENTITIES, JOBS = "scans", "prepared", "identities", "jobs"
PARTS = "parts"
COLLECTIONS = (SCANS, PREPARED, IDENTITIES, JOBS)
IDENTITY = "identity"
RESULT_NAME = "reconstruction.h5"


class ScanKey(NamedTuple):
    """The scan that a key below `scans`, `prepared` or `identities` belongs to."""

    tenant: str
    sha256: str


def scan(sha256: str, tenant: str = DEFAULT_TENANT) -> str:
    """Key of a tenant's scan."""
    return f"{SCANS}/{sha256}" if tenant == DEFAULT_TENANT else f"{SCANS}/{tenant}/{sha256}"


def prepared_scan(sha256: str, tenant: str = DEFAULT_TENANT) -> str:
    """Key of the prepared form of a tenant's scan.

    It is not below `scans`: workers of version 0.1 take every object there for a scan and remove unknown ones.
    """
    return f"{PREPARED}/{tenant}/{sha256}"


def identity_of_scan(sha256: str, tenant: str = DEFAULT_TENANT) -> str:
    """Key of the identity that a template gave a tenant's scan."""
    return f"{IDENTITIES}/{tenant}/{sha256}"


def scan_of(key: str) -> ScanKey:
    """The scan of a key that `scan`, `prepared_scan` or `identity_of_scan` made."""
    *folders, sha256 = key.split("/")
    return ScanKey(folders[1] if len(folders) > 1 else DEFAULT_TENANT, sha256)


def parts(upload_id: uuid.UUID) -> str:
    """Prefix of the parts of an upload that goes straight to a bucket."""
    return f"{PARTS}/{upload_id}"


def part(upload_id: uuid.UUID, number: int) -> str:
    """Key of one of them."""
    return f"{parts(upload_id)}/{number}"


def job(job_id: uuid.UUID) -> str:
    """Group of all objects of a job."""
    return f"{JOBS}/{job_id}"


def checkpoints(job_id: uuid.UUID) -> str:
    """Prefix of a job's checkpoints."""
    return f"{job(job_id)}/checkpoints"


def slices(job_id: uuid.UUID) -> str:
    """Prefix of the results of a job's slices."""
    return f"{job(job_id)}/slices"


def slice_result(job_id: uuid.UUID, slice_: int, attempt: int) -> str:
    """Key of the result of one slice, by one attempt."""
    return f"{slices(job_id)}/{slice_}.{attempt}.npz"


def previews(job_id: uuid.UUID) -> str:
    """Prefix of a job's previews."""
    return f"{job(job_id)}/previews"


def preview(job_id: uuid.UUID, slice_: int) -> str:
    """Key of the latest image of a slice."""
    return f"{previews(job_id)}/{slice_}.npz"


def results(job_id: uuid.UUID, attempt: int) -> str:
    """Prefix of the result files that one attempt assembled."""
    return f"{job(job_id)}/results/{attempt}"


def result_name(output: OutputFormat) -> str:
    """Name of a result file in this format, below the prefix of its attempt."""
    return f"reconstruction{output.suffix}"


def group_of(key: str) -> str | None:
    """The group that a key lies in (`jobs/ID`), None for keys outside groups.

    An object of a group can be written only while the group exists: what is late for a deleted job is refused.
    """
    parts = key.split("/")
    return "/".join(parts[:2]) if parts[0] == JOBS and len(parts) > 1 else None


def name_of(key: str) -> str:
    """The last part of a key."""
    return key.rsplit("/", 1)[-1]

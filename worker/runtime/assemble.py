"""The slices of a job put together: the result file, and the formats that were asked for."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.results.output_format import ResultInfo, scan_attributes
from udig_recon.core.results.outputs import OUTPUTS, write_result
from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.tables import JobSlice
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.storage import keys, previews
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.integrity import entry
from udig_recon.worker.storage.keys import RESULT_NAME, result_name
from udig_recon.worker.telemetry import tracing

UNNOTED = {"software": "unknown"}  # slices of a version that did not note what it was


class DamagedSlices(Exception):
    """Files of slices are missing or damaged; these slices must be computed again."""

    def __init__(self, slices: Sequence[int]) -> None:
        super().__init__(f"slices {', '.join(map(str, slices))}")
        self.slices = slices


class Assembled(NamedTuple):
    """Folder, versions and files of an assembled job."""

    prefix: str  # of the result files in the storage
    versions: dict[str, str]  # what made the slices
    files: dict[str, Any]  # name -> sha256 and bytes


@tracing.span("assemble")
def assemble(process: WorkerProcess, claim: Claim) -> Assembled:
    """Write the files of a job whose slices are all done. Raises DamagedSlices.

    A worker that died over it leaves a folder that no row names; this one has a name of its own.
    """
    with process.sessions() as session:
        query = select(JobSlice.slice, JobSlice.result, JobSlice.result_sha256).where(JobSlice.job_id == claim.job_id)
        rows = session.execute(query).all()
    storage, prefix = process.storage, keys.results(claim.job_id, claim.attempt)
    stored = {number: _Stored(storage, number, key or f"{prefix}/none", sha256) for number, key, sha256 in rows}
    known, damaged = {}, []
    for number in stored:
        try:
            known[number] = stored[number].versions()
        except (DamagedFile, FileNotFoundError):
            damaged.append(number)
    if damaged:
        raise DamagedSlices(damaged)
    storage.require(sum(storage.info(each.key).size for each in stored.values()))
    versions = merge_versions([known[number] for number in claim.slices])
    storage.delete_prefix(prefix)
    # A format that this worker does not have, or that is written on demand, is written when it is downloaded first.
    asked = [OUTPUTS[name] for name in claim.outputs if name in OUTPUTS]
    outputs = {RESULT_NAME: OUTPUTS["h5"], **{result_name(each): each for each in asked if not each.on_demand}}
    slices = (stored[number].load() for number in claim.slices)
    info = ResultInfo(len(claim.slices), attributes(claim, versions))
    try:
        with ExitStack() as stack:
            paths = {name: stack.enter_context(storage.writing(f"{prefix}/{name}")) for name in outputs}
            written = write_result(slices, info, {paths[name]: output for name, output in outputs.items()})
        files = {name: entry(written[path]) for name, path in paths.items()}
    except BaseException:
        storage.delete_prefix(prefix)
        raise
    return Assembled(prefix, versions, files)


def delete_slices(sessions: sessionmaker[Session], storage: Storage, job_id: uuid.UUID) -> None:
    """Delete the slices of a job and their previews: its result holds the same images."""
    for each in storage.list(keys.slices(job_id)):
        storage.delete(each.key)
    previews.delete_all(sessions, storage, job_id)


class _Stored(NamedTuple):
    """The file of a slice."""

    storage: Storage
    slice: int
    key: str
    sha256: str | None

    def versions(self) -> Mapping[str, str]:
        """Versions that made a slice. Raises DamagedFile."""
        return SliceResult.versions_of(self._read(), keys.name_of(self.key), self.sha256)

    def load(self) -> SliceResult:
        """The slice. Raises DamagedSlices where it has spoilt since it was looked at."""
        try:
            return SliceResult.from_bytes(self._read(), keys.name_of(self.key), self.sha256)
        except (DamagedFile, FileNotFoundError):
            raise DamagedSlices([self.slice]) from None

    def _read(self) -> bytes:
        # Not by `read`: it is wanted twice, and a storage that is far keeps a copy of what is opened.
        with self.storage.open(self.key) as file:
            return file.read()


def merge_versions(each: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Versions that made several slices; different versions or devices are joined by commas."""
    known = [versions or UNNOTED for versions in each]
    names = dict.fromkeys(name for versions in known for name in versions)
    return {name: ", ".join(dict.fromkeys(v[name] for v in known if name in v)) for name in names}


def attributes(claim: Claim, versions: dict[str, str]) -> dict[str, Any]:
    """Attributes of the result file."""
    return {
        "job_id": str(claim.job_id),
        "parameters": claim.parameters,
        "seed": claim.seed,
        "seeds": claim.seeds,
        "slice_numbers": list(claim.slices),
        "scan_sha256": claim.scan_sha256,
        **scan_attributes(claim.scan_header, claim.slices),
        **versions,
    }

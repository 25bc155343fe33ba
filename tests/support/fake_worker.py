"""A worker's steps without a worker: claim, report, finish, fail."""

import hashlib
import uuid
from typing import Any

import numpy as np
from sqlalchemy.orm import Session, sessionmaker

from tests.support.claim import claim_slice
from tests.support.results import write_hdf5
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.quality.rating import Rating
from udig_recon.core.results.outputs import OUTPUTS, convert
from udig_recon.core.results.store import SliceResult
from udig_recon.worker.database.tables import Worker
from udig_recon.worker.jobs import leases
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.runtime.assemble import delete_slices
from udig_recon.worker.storage import keys, previews
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.integrity import entry
from udig_recon.worker.storage.keys import RESULT_NAME, result_name

LEASE_SECONDS = 600


def slice_result(*, reference: bool = True, seed: int = 0) -> SliceResult:
    """A slice of 16 by 16 pixels."""
    rng = np.random.default_rng(seed)
    image = rng.random((16, 16), np.float32)
    return SliceResult(
        image=image,
        image_complex=image.astype(np.complex64),
        direct=image * np.float32(0.9),
        reference=image * np.float32(1.1) if reference else None,
        curves={"loss": [2.0, 1.0]},
    )


class Drive:
    """Moves jobs as workers do."""

    def __init__(self, sessions: sessionmaker[Session], storage: Storage) -> None:
        self.sessions, self.storage = sessions, storage

    def claim(self, job: dict[str, Any], slice_: int = 0) -> Claim:
        """Begin a slice."""
        with self.sessions.begin() as session:
            claim = claim_slice(session, uuid.UUID(job["id"]), slice_, lease_seconds=LEASE_SECONDS)
        assert claim is not None
        self.storage.create_group(keys.job(claim.job_id))
        return claim

    def report(self, claim: Claim, iteration: int, iterations: int = 10) -> None:
        """One snapshot."""
        point = leases.Point(iteration, iterations, 0.5 * iteration, loss=1.0 / iteration, data_residual=0.1)
        with self.sessions.begin() as session:
            leases.record(session, claim, point, LEASE_SECONDS)

    def show(self, job: dict[str, Any], slice_: int = 0, *, reference: bool = True) -> None:
        """The preview that a running slice leaves."""
        job_id = uuid.UUID(job["id"])
        previews.save(self.sessions, self.storage, job_id, slice_, slice_result(reference=reference))

    def finish(self, claim: Claim, verdict: PriorCheck | None = None, rating: Rating | None = None) -> None:
        """Finish the slice, judged or not, and with the last one the job."""
        metrics = {"psnr": 30.0, "ssim": 0.9, "nmse": 0.01, "data_residual": 0.05}
        written = keys.slice_result(claim.job_id, claim.slice, claim.attempt)
        content = slice_result(seed=claim.slice).to_bytes()
        self.storage.put(written, content)
        sha256 = hashlib.sha256(content).hexdigest()
        with self.sessions.begin() as session:
            judged = None if verdict is None else verdict.as_json()
            quality = None if rating is None else rating.as_json()
            last = leases.store_slice(session, claim, written, metrics, judged, quality, sha256)
        if last:
            self._assemble(claim)

    def _assemble(self, claim: Claim) -> None:
        prefix = keys.results(claim.job_id, claim.attempt)
        slices = [slice_result(seed=number) for number in claim.slices]
        with self.storage.writing(f"{prefix}/{RESULT_NAME}") as whole:
            files = {RESULT_NAME: entry(write_hdf5(whole, slices, {"seed": claim.seed}))}
            for output in [OUTPUTS[name] for name in set(claim.outputs) - {"h5"}]:
                with self.storage.writing(f"{prefix}/{result_name(output)}") as path:
                    files[result_name(output)] = entry(convert(whole, path, output))
        with self.sessions.begin() as session:
            leases.succeed_job(session, claim, prefix, {"udig_recon": "0"}, files)
        delete_slices(self.sessions, self.storage, claim.job_id)

    def complete(self, job: dict[str, Any]) -> None:
        """All slices, one after the other."""
        for number in job["slice_numbers"]:
            claim = self.claim(job, number)
            self.report(claim, 5)
            self.report(claim, 10)
            self.finish(claim)

    def fail(self, job: dict[str, Any]) -> None:
        """The first slice cannot be done."""
        claim = self.claim(job, job["slice_numbers"][0])
        problem = {"type": "about:blank", "title": "No", "status": 500, "detail": "it broke"}
        with self.sessions.begin() as session:
            leases.fail_job(session, claim, problem)

    def worker(self) -> None:
        """A worker was seen just now."""
        with self.sessions.begin() as session:
            session.add(Worker(name="host:1:a", device="cpu"))

"""Scrubbing: all stored bytes are read again periodically, at a limited rate, and compared with their digests."""

import hashlib
import uuid
from collections.abc import Callable
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.errors import DamagedScan
from udig_recon.core.files.atomic import DamagedFile, Digest
from udig_recon.core.formats.prepared import open_prepared
from udig_recon.worker.database.tables import Job, JobSlice, Scan, ServiceState, Status
from udig_recon.worker.storage import integrity, keys
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.keys import RESULT_NAME

STATE = "scrub"
SCANS, JOBS = "scans", "jobs"
BLOCK = 1 << 20


class Stopped(Exception):
    """The process is shutting down; the next run continues this pass."""


class Scrub:
    """Passes over all objects whose digest a row holds.

    The position of a pass is in the database, so that any worker can continue it.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        storage: Storage,
        bytes_per_second: float,
        wait: Callable[[float], bool],
    ) -> None:
        """`wait` sleeps for so many seconds and returns whether the process is shutting down."""
        self._sessions, self._storage = sessions, storage
        self._bytes_per_second, self._wait = bytes_per_second, wait

    def is_due(self, seconds: float) -> bool:
        """Whether a pass is under way, or the last one began more than `seconds` ago."""
        with self._sessions() as session:
            state, now = _state(session), session.scalars(select(func.extract("epoch", func.now()))).one()
        return state.get("kind") is not None or float(now) - state.get("began", 0.0) >= seconds

    def run(self) -> int:
        """Continue the pass, or begin one, to its end. Returns the number of objects that were read. Raises Stopped."""
        count = 0
        with self._sessions.begin() as session:
            state = _state(session)
            if state.get("kind") is None:
                now = session.scalars(select(func.extract("epoch", func.now()))).one()
                _save_state(session, {"began": float(now), "kind": SCANS, "after": None})
        while (row := self._next()) is not None:
            count += self._scan(row) if isinstance(row, Scan) else self._job(row)
        return count

    def _next(self) -> Scan | Job | None:
        """The next scan or job to check; None at the end of the pass."""
        with self._sessions.begin() as session:
            state = _state(session)
            after = uuid.UUID(state["after"]) if state["after"] else None
            if state["kind"] == SCANS:
                scans = select(Scan).order_by(Scan.id).limit(1)
                scan = session.scalars(scans if after is None else scans.where(Scan.id > after)).first()
                if scan is not None:
                    _save_state(session, {**state, "after": str(scan.id)})
                    return scan
                state, after = {**state, "kind": JOBS, "after": None}, None
            jobs = select(Job).where(~Job.expired).order_by(Job.id).limit(1)
            job = session.scalars(jobs if after is None else jobs.where(Job.id > after)).first()
            more = {"kind": None, "after": None} if job is None else {"after": str(job.id)}
            _save_state(session, {**state, **more})
            return job

    def _scan(self, scan: Scan) -> int:
        whole = self._is_whole(keys.scan(scan.sha256, scan.tenant), scan.sha256)
        with self._sessions.begin() as session:
            if not whole:
                integrity.note_scan(session, scan.tenant, scan.sha256)
            elif scan.damaged_at is not None and (row := session.get(Scan, scan.id)) is not None:
                row.damaged_at = None
        return 1 + self._prepared_objects(scan)

    def _prepared_objects(self, scan: Scan) -> int:
        """Check the prepared form; a damaged one is deleted, for workers make it again."""
        key = keys.prepared_scan(scan.sha256, scan.tenant)
        try:
            if self._wait(self._storage.info(key).size / self._bytes_per_second):
                raise Stopped
            with self._storage.local(key, bypass_cache=True) as path, open_prepared(path) as prepared:
                prepared.verify()
        except FileNotFoundError:
            return 0
        except (DamagedScan, DamagedFile):
            self._storage.delete(key)
            with self._sessions.begin() as session:
                integrity.count(session, "prepared", scan_id=str(scan.id))
        return 1

    def _job(self, job: Job) -> int:
        count = 0
        if job.status is Status.SUCCEEDED and job.result is not None:
            if RESULT_NAME not in (job.result_files or {}):
                self._adopt(job.id, f"{job.result}/{RESULT_NAME}")
            for name, known in (job.result_files or {}).items():
                count += 1
                self._result(job, name, known["sha256"])
        with self._sessions() as session:
            rows = select(JobSlice.result, JobSlice.result_sha256).where(
                JobSlice.job_id == job.id, JobSlice.result.is_not(None)
            )
            slices = session.execute(rows.where(JobSlice.result_sha256.is_not(None))).all()
        for key, sha256 in slices:
            count += 1
            # An object that is gone belongs to a job that has succeeded since.
            if not self._is_whole(key or "", sha256 or "") and self._storage.exists(key or ""):
                with self._sessions.begin() as session:
                    integrity.note_job(session, job.id, f"slices/{keys.name_of(key or '')}", "slice")
        return count

    def _result(self, job: Job, name: str, sha256: str) -> None:
        key = f"{job.result}/{name}"
        if self._is_whole(key, sha256):
            return
        if name != RESULT_NAME:
            # The API makes it again from the result when it is wanted.
            if self._storage.exists(key):
                self._storage.delete(key)
                with self._sessions.begin() as session:
                    integrity.count(session, "converted", job_id=str(job.id), file=name)
            return
        with self._sessions.begin() as session:
            row = session.get(Job, job.id)
            if row is not None and not row.expired:
                integrity.note_job(session, job.id, name, "result")

    def _adopt(self, job_id: uuid.UUID, key: str) -> None:
        """Record the present digest of a result that a version without digests wrote."""
        try:
            digest = Digest(self._sha256(key), self._storage.info(key).size)
        except (FileNotFoundError, DamagedFile):
            return
        with self._sessions.begin() as session:
            integrity.add_file(session, job_id, keys.name_of(key), digest)

    def _is_whole(self, key: str, sha256: str) -> bool:
        """Whether the object has this digest; read twice, for the first read may have met its replacement."""
        for _ in range(2):
            try:
                if self._sha256(key) == sha256:
                    return True
            except (FileNotFoundError, DamagedFile):
                pass
        return False

    def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        # Bytes in the memory of this machine prove nothing about the disk.
        with self._storage.open(key, bypass_cache=True) as file:
            while block := file.read(BLOCK):
                digest.update(block)
                if self._wait(len(block) / self._bytes_per_second):
                    raise Stopped
        return digest.hexdigest()


def _state(session: Session) -> dict[str, Any]:
    state = session.get(ServiceState, STATE)
    return {} if state is None else state.value


def _save_state(session: Session, value: dict[str, Any]) -> None:
    session.merge(ServiceState(name=STATE, value=value))
    session.flush()

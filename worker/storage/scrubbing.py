"""Stored bytes are read again now and then, slowly, and compared with their digests, before they are needed."""

import hashlib
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.errors import DamagedScan
from udig_recon.core.files.atomic import DamagedFile, Digest, open_stored
from udig_recon.core.formats.prepared import opened_prepared
from udig_recon.worker.database.tables import Job, JobSlice, Scan, ServiceState, Status
from udig_recon.worker.storage import integrity
from udig_recon.worker.storage.local import RESULT, Storage

log = logging.getLogger(__name__)
STATE = "scrub"
SCANS, JOBS = "scans", "jobs"
BLOCK = 1 << 20


class Stopped(Exception):
    """The process ends; the next pass goes on where this one was."""


class Scrub:
    """Passes over all that rows name a digest of. Where a pass stands is in the database, whoever goes on with it."""

    def __init__(
        self,
        sessions: sessionmaker[Session],
        storage: Storage,
        bytes_per_second: float,
        wait: Callable[[float], bool],
    ) -> None:
        """`wait` waits for so many seconds and is true when the process is to end."""
        self._sessions, self._storage = sessions, storage
        self._bytes_per_second, self._wait = bytes_per_second, wait

    def is_due(self, seconds: float) -> bool:
        """Whether a pass is under way, or none was begun for so long."""
        with self._sessions() as session:
            state, now = _state(session), session.scalars(select(func.extract("epoch", func.now()))).one()
        return state.get("kind") is not None or float(now) - state.get("began", 0.0) >= seconds

    def run(self) -> int:
        """Go on with the pass, or begin one, to its end. Returns how many files were looked at. Raises Stopped."""
        seen = 0
        with self._sessions.begin() as session:
            state = _state(session)
            if state.get("kind") is None:
                now = session.scalars(select(func.extract("epoch", func.now()))).one()
                _stand(session, {"began": float(now), "kind": SCANS, "after": None})
        while (row := self._next()) is not None:
            seen += self._scan(row) if isinstance(row, Scan) else self._job(row)
        return seen

    def _next(self) -> Scan | Job | None:
        """The scan or job that is to be looked at; None at the end of the pass."""
        with self._sessions.begin() as session:
            state = _state(session)
            after = uuid.UUID(state["after"]) if state["after"] else None
            if state["kind"] == SCANS:
                scans = select(Scan).order_by(Scan.id).limit(1)
                scan = session.scalars(scans if after is None else scans.where(Scan.id > after)).first()
                if scan is not None:
                    _stand(session, {**state, "after": str(scan.id)})
                    return scan
                state, after = {**state, "kind": JOBS, "after": None}, None
            jobs = select(Job).where(~Job.expired).order_by(Job.id).limit(1)
            job = session.scalars(jobs if after is None else jobs.where(Job.id > after)).first()
            more = {"kind": None, "after": None} if job is None else {"after": str(job.id)}
            _stand(session, {**state, **more})
            return job

    def _scan(self, scan: Scan) -> int:
        path = self._storage.scan(scan.sha256, scan.tenant)
        whole = self._is_whole(path, scan.sha256)
        with self._sessions.begin() as session:
            if not whole:
                integrity.note_scan(session, scan.tenant, scan.sha256)
            elif scan.damaged_at is not None and (row := session.get(Scan, scan.id)) is not None:
                row.damaged_at = None
        return 1 + self._prepared(scan)

    def _prepared(self, scan: Scan) -> int:
        """The prepared form, which whoever needs it makes anew where it is damaged."""
        path = self._storage.prepared_scan(scan.sha256, scan.tenant)
        try:
            if self._wait(path.stat().st_size / self._bytes_per_second):
                raise Stopped
            with opened_prepared(path) as prepared:
                prepared.verify()
        except FileNotFoundError:
            return 0
        except DamagedScan:
            path.unlink(missing_ok=True)
            with self._sessions.begin() as session:
                integrity.count(session, "prepared", scan_id=str(scan.id))
        return 1

    def _job(self, job: Job) -> int:
        seen = 0
        if job.status is Status.SUCCEEDED and job.result is not None:
            folder = self._storage.path(job.result)
            if RESULT not in (job.result_files or {}):
                self._adopt(job.id, folder / RESULT)
            for name, known in (job.result_files or {}).items():
                seen += 1
                self._result(job, folder / name, known["sha256"])
        with self._sessions() as session:
            rows = select(JobSlice.result, JobSlice.result_sha256).where(
                JobSlice.job_id == job.id, JobSlice.result.is_not(None)
            )
            slices = session.execute(rows.where(JobSlice.result_sha256.is_not(None))).all()
        for relative, sha256 in slices:
            seen += 1
            path = self._storage.path(relative or "")
            if not self._is_whole(path, sha256 or "") and path.exists():
                with self._sessions.begin() as session:
                    integrity.note_job(session, job.id, f"slices/{path.name}", "slice")
        return seen

    def _result(self, job: Job, path: Path, sha256: str) -> None:
        if self._is_whole(path, sha256):
            return
        if path.name != RESULT:
            # Made anew from the result when it is wanted.
            if path.exists():
                path.unlink(missing_ok=True)
                with self._sessions.begin() as session:
                    integrity.count(session, "converted", job_id=str(job.id), file=path.name)
            return
        with self._sessions.begin() as session:
            row = session.get(Job, job.id)
            if row is not None and not row.expired:
                integrity.note_job(session, job.id, path.name, "result")

    def _adopt(self, job_id: uuid.UUID, path: Path) -> None:
        """Give a result of an older version the digest that it has now."""
        try:
            digest = Digest(self._sha256(path), path.stat().st_size)
        except (FileNotFoundError, DamagedFile):
            return
        with self._sessions.begin() as session:
            integrity.add_file(session, job_id, path.name, digest)

    def _is_whole(self, path: Path, sha256: str) -> bool:
        """Whether the file is what it was; asked twice, for it may just have been put in the place of another."""
        for _ in range(2):
            try:
                if self._sha256(path) == sha256:
                    return True
            except (FileNotFoundError, DamagedFile):
                pass
        return False

    def _sha256(self, path: Path) -> str:
        found = hashlib.sha256()
        with open_stored(path) as file:
            # What lies in memory is no proof of what lies on the disk.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while block := file.read(BLOCK):
                found.update(block)
                if self._wait(len(block) / self._bytes_per_second):
                    raise Stopped
        return found.hexdigest()


def _state(session: Session) -> dict[str, Any]:
    state = session.get(ServiceState, STATE)
    return {} if state is None else state.value


def _stand(session: Session, value: dict[str, Any]) -> None:
    session.merge(ServiceState(name=STATE, value=value))
    session.flush()

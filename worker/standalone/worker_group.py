"""`udig worker --processes`: worker processes of one machine, each on its GPU, until SIGTERM or until all are idle."""

import logging
import os
import signal
import threading
from collections.abc import Sequence

from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.cli import UDIG
from udig_recon.worker.database.engine import AWAY, make_engine, make_sessions
from udig_recon.worker.database.worker_names import name_prefix
from udig_recon.worker.gpus.bindings import bindings, visible_gpus
from udig_recon.worker.jobs import sweep
from udig_recon.worker.settings import Settings, get_settings
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.supervisor import SupervisedProcess
from udig_recon.worker.telemetry import logs

log = logging.getLogger(__name__)
SUPERVISE_SECONDS = 0.2
STOP_SECONDS = 12.0


def environments(settings: Settings, wanted: int | None) -> list[dict[str, str]]:
    """What each process gets in its environment beside this one's; None: a number by the GPUs.

    A setting for GPUs that changes nothing here is named in the log.
    """
    gpus = visible_gpus(settings.device)
    if settings.slices_per_gpu > 1 and (not gpus or wanted is not None):
        reason = "there is no GPU" if not gpus else f"the number of processes is set, to {wanted}"
        log.warning("slices_per_gpu.unused", extra={"slices_per_gpu": settings.slices_per_gpu, "reason": reason})
    found = bindings(wanted, gpus, settings.slices_per_gpu)
    return [{**each, "WORKERS": str(len(found))} for each in found]


class WorkerGroup:
    """Worker processes that are started again when they fail. One that ends with 0 had no work, and stays away."""

    def __init__(self, added: Sequence[dict[str, str]], sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self.children = [
            SupervisedProcess(f"worker {number}", [*UDIG, "worker"], {**os.environ, **each})
            for number, each in enumerate(added, 1)
        ]

    def supervise(self) -> None:
        """Start what is due, and forget what has ended well."""
        for child in list(self.children):
            if child.process is not None and child.process.poll() == 0:
                self.children.remove(child)
                continue
            if (pid := child.reap()) is not None:
                self._deregister(pid)
            child.start_when_due()

    def stop(self) -> None:
        """Have the workers give their slices back, and end."""
        processes.stop([child.process for child in self.children if child.process], signal.SIGTERM, STOP_SECONDS)

    def _deregister(self, pid: int) -> None:
        """End the leases of a worker that is dead, so that nobody waits for them to run out."""
        try:
            with self._sessions.begin() as session:
                sweep.deregister(session, name_prefix(pid))
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})


def main(wanted: int | None) -> int:
    """Keep so many workers up, None: one for each GPU, until SIGINT or SIGTERM, or until all have ended."""
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ending.set())
    os.umask(0o077)
    processes.keep_private()
    settings = get_settings()
    for name, value in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)):
        if value is None:
            raise SystemExit(f"error: {name} is not set; `udig serve` starts a server of its own")
    logs.configure()
    engine = make_engine(str(settings.database_url), 1)
    group = WorkerGroup(environments(settings, wanted), make_sessions(engine))
    try:
        while group.children and not ending.wait(SUPERVISE_SECONDS):
            group.supervise()
    finally:
        group.stop()
        engine.dispose()
    return 0

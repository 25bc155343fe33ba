"""State of a worker process: settings, sessions, storage, device, the slice that it computes, its shutdown."""

import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

import torch
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.core.acquisition import Modality
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats import Prober
from udig_recon.core.operators.pair_cache import use_projector_cache
from udig_recon.core.parameters import Parameters
from udig_recon.core.priors.card import card_of
from udig_recon.worker.database.engine import AWAY, make_engine, make_sessions
from udig_recon.worker.database.worker_names import worker_name
from udig_recon.worker.gpus import nvml
from udig_recon.worker.gpus.bindings import VISIBLE
from udig_recon.worker.jobs import sweep
from udig_recon.worker.runtime import memory, memory_fit
from udig_recon.worker.runtime.heartbeat import LeaseKeeper
from udig_recon.worker.runtime.memory_fit import Room
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import data_folder
from udig_recon.worker.storage.backends import open_storage
from udig_recon.worker.storage.base import Storage
from udig_recon.worker.storage.integrity import Verifier

log = logging.getLogger(__name__)
LAST_STEP_SECONDS = 2.0  # that the last step of a process may take, before it ends in any case


@dataclass
class WorkerProcess:
    """A worker process: its settings, its device, the slice that it computes, the jobs that it skips."""

    settings: Settings
    sessions: sessionmaker[Session]
    storage: Storage
    device: torch.device
    name: str = field(default_factory=lambda: worker_name(os.getpid()))
    shutdown: threading.Event = field(default_factory=threading.Event)
    lease: LeaseKeeper | None = None  # of the slice that is being computed
    messages_received: int = 0  # from the queue, so far
    worked_at: float = field(default_factory=time.monotonic)  # when it last had a slice, or began
    verifier: Verifier = field(default_factory=Verifier)
    prober: Prober = field(default_factory=Prober)
    confirmed: bool = False  # whether the data folder is known to be the database's
    storage_pause: float = 0.0  # seconds until it asks a storage again that did not answer; 0: it does
    skipped_until: dict[uuid.UUID, float] = field(default_factory=dict)  # job -> until when, by the monotonic clock
    _missing_since: dict[uuid.UUID, float] = field(default_factory=dict)  # job -> when its scan's file was first missed

    def confirm_data_folder(self) -> bool:
        """Whether the data folder is the database's; asked until the database has told once. Raises ForeignFolder."""
        self.confirmed = self.confirmed or data_folder.confirm(self.sessions, self.storage)
        return self.confirmed

    @contextmanager
    def holding(self, lease: LeaseKeeper) -> Iterator[None]:
        """Let the watchdog and the shutdown, in threads of their own, see the lease while its slice is computed."""
        self.lease = lease
        try:
            yield
        finally:
            self.worked_at = time.monotonic()
            self.lease = None

    def deregister(self) -> None:
        """Take this worker off the list of those that are alive, and end its leases."""
        try:
            with self.sessions.begin() as session:
                sweep.deregister(session, self.name)
        except AWAY as error:
            log.warning("database.unavailable", extra={"error": type(error).__name__})

    @property
    def shutting_down(self) -> bool:
        """Whether this process was told to end."""
        return self.shutdown.is_set()

    @property
    def skipped_jobs(self) -> list[uuid.UUID]:
        """Jobs that this worker leaves to others for now."""
        now = time.monotonic()
        self.skipped_until = {job_id: until for job_id, until in self.skipped_until.items() if until > now}
        return list(self.skipped_until)

    def skip(self, job_id: uuid.UUID, seconds: float) -> bool:
        """Leave a job to other workers for so many seconds; False where none are left."""
        self.skipped_until[job_id] = time.monotonic() + seconds
        return seconds > 0

    def missing_scan_seconds(self, job_id: uuid.UUID) -> float:
        """For how many seconds the file of the job's scan has been missing, now that it is."""
        return time.monotonic() - self._missing_since.setdefault(job_id, time.monotonic())

    def note_scan_found(self, job_id: uuid.UUID) -> None:
        """Forget that the file of the job's scan was missing."""
        self._missing_since.pop(job_id, None)

    @cached_property
    def device_name(self) -> str:
        """What the device is called."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"

    @cached_property
    def memory_bytes(self) -> int:
        """What a slice may take: of the GPU where there is one, else of what this machine has for its workers."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[1])
        return memory.for_workers()

    def room(self, session: Session) -> Room:
        """What the other workers leave of the memory of this machine, or of the GPU.

        None of them claims until the transaction ends.
        """
        if self.device.type != "cuda":
            return memory_fit.room(session, self.name, self.memory_bytes)
        free, total = torch.cuda.mem_get_info(self.device)
        own = torch.cuda.memory_reserved(self.device)  # kept by PyTorch for the next slice
        return memory_fit.gpu_room(session, self.name, self.gpu_name, total, free + own)

    @cached_property
    def gpu_name(self) -> str:
        """UUID of the GPU, or of the MIG instance, which CUDA itself does not tell."""
        instance = os.environ.get(VISIBLE, "").split(",")[0].strip()
        if instance.startswith("MIG-"):
            return instance
        uuid = str(torch.cuda.get_device_properties(self.device).uuid)
        return f"GPU-{uuid.removeprefix('GPU-')}"

    def gpu(self) -> dict[str, str | int | None]:
        """Identity, memory and utilisation of the GPU, as columns of `workers`; empty on a CPU."""
        if self.device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(self.device)
        return {
            "gpu": self.gpu_name,
            "gpu_memory_used_bytes": total - free,
            "gpu_memory_total_bytes": total,
            "gpu_utilisation_percent": nvml.utilisation_percent(self.gpu_name),
        }

    def versions(self, method: Parameters, modality: Modality, tenant: str) -> dict[str, str]:
        """What makes a result: software, prior with its hash, device. Raises MissingPrior."""
        found = {
            "software": f"udig-recon {version('udig-recon')}",
            "torch": str(torch.__version__),
            "device": self.device_name,
        }
        if (card := card_of(method, modality, self.settings.priors_folders(tenant))) is not None:
            found |= {"prior": card.name, "prior_sha256": card.sha256}
        return found


def exit_after(last_step: Callable[[], object], status: int, end: Callable[[int], object] = os._exit) -> None:
    """End this process, whatever its other threads do, after a last step that may take LAST_STEP_SECONDS."""
    step = threading.Thread(target=last_step, name="last step", daemon=True)
    step.start()
    step.join(LAST_STEP_SECONDS)
    end(status)


def _log_projector(event: str, file: str, error: str) -> None:
    log.warning(event, extra={"file": file, "error": error})


def set_up(settings: Settings) -> WorkerProcess:
    """The process as a worker; torch takes its share of the cores."""
    if settings.database_url is None:
        raise SystemExit("error: DATABASE_URL is not set; `udig serve` starts a server of its own")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS does not give the same bits twice
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(settings.threads or max(1, cores // (1 if settings.workers == "auto" else settings.workers)))
    use_projector_cache(settings.projectors_folder, settings.max_projector_bytes, _log_projector)
    try:
        device = select_device(settings.device)
    except ReconstructionError as error:
        raise SystemExit(f"error: DEVICE: {error}") from None
    storage = open_storage(settings)
    confirmed = data_folder.confirm_at(settings.database_url, storage)
    engine = make_engine(settings.database_url)
    return WorkerProcess(settings, make_sessions(engine), storage, device, confirmed=confirmed)

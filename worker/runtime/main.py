"""Main program of a worker: a Celery worker that computes one slice at a time until SIGTERM."""

import os
import uuid
import warnings

from celery import signals
from celery.exceptions import SecurityWarning

from udig_recon.worker.jobs import queue
from udig_recon.worker.runtime import memory, sandbox_report
from udig_recon.worker.runtime.maintenance import Maintenance
from udig_recon.worker.runtime.process import set_up
from udig_recon.worker.runtime.tasks import run_next_slice
from udig_recon.worker.settings import get_settings
from udig_recon.worker.standalone.processes import keep_private
from udig_recon.worker.telemetry import logs, tracing


def work() -> int:
    """Work until SIGTERM; the exit status is Celery's."""
    os.umask(0o077)
    memory.go_before_others(memory.WORKER_SCORE)
    keep_private()
    # Celery warns of root, whose workers could be sent pickles; these take JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    settings = get_settings()
    if settings.redis_url is None:
        raise SystemExit("error: REDIS_URL is not set; `udig serve` starts a server of its own")
    process = set_up(settings)
    if settings.require_sandbox:
        sandbox_report.check(process.prober, required=True)
    if process.device.type == "cpu":  # CUDA maps far more than it uses
        memory.limit(process.memory_bytes)
    logs.configure(worker=process.name)
    tracing.configure(settings.otel_exporter_otlp_endpoint, "udig-recon-worker", process.name)
    maintenance = Maintenance(process)
    # Celery would set levels and handlers of its own.
    signals.setup_logging.connect(_leave_logging, weak=False)
    signals.worker_ready.connect(maintenance.start, weak=False)
    signals.worker_shutting_down.connect(maintenance.stop, weak=False)
    app = queue.make_celery(settings)

    def take(job_id: str, slice_: int) -> None:
        run_next_slice(process, uuid.UUID(job_id), int(slice_))

    app.task(take, name=queue.TASK)
    # One task at a time in this very process: whoever kills it kills all of it, and the GPU's memory is free again.
    worker = app.Worker(
        pool="solo",
        hostname=process.name,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    process.deregister()
    process.prober.close()
    return int(worker.exitcode or 0)


def _leave_logging(**_: object) -> None:
    pass

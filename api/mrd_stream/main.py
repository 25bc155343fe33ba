"""The process of the MRD stream: a server that listens at MRD_HOST and MRD_PORT of the settings."""

import asyncio
import logging
import os
import signal
import socket

from udig_recon.api.main import open_listener
from udig_recon.api.mrd_stream.server import MRDServer
from udig_recon.api.service import PROBES, open_service
from udig_recon.worker.runtime import memory, sandbox_report
from udig_recon.worker.settings import BadSetting, Settings, get_settings
from udig_recon.worker.standalone.processes import keep_private
from udig_recon.worker.telemetry import logs, tracing

log = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    os.umask(0o077)
    memory.go_before_others(memory.API_SCORE)
    keep_private()
    settings = get_settings()
    try:
        settings.check_mrd_stream()
    except BadSetting as error:
        raise SystemExit(f"error: {error}") from None
    logs.configure()
    tracing.configure(settings.otel_exporter_otlp_endpoint, "udig-recon-mrd", f"{socket.gethostname()}:{os.getpid()}")
    listener = open_listener(settings.mrd_host, settings.mrd_port, "MRD_")
    asyncio.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    service = open_service(settings)
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    prober = service.context.prober
    prober.prepare(PROBES)
    sandbox_report.check(prober, required=settings.require_sandbox)
    async with service.running():
        host, port = listener.getsockname()[:2]
        log.info("mrd.listening", extra={"host": host, "port": port})
        await MRDServer(service.context).run(listener, ending)
        service.context.notifications.close()

"""The process of the HTTP API: a server that listens at HOST and PORT of the settings."""

import errno
import logging
import os
import socket
from contextlib import suppress

import uvicorn

from udig_recon.api.app import create_app
from udig_recon.api.http.server import Server, allow_files, timed_protocol
from udig_recon.api.service import PROBES
from udig_recon.worker.runtime import memory, sandbox_report
from udig_recon.worker.settings import get_settings
from udig_recon.worker.standalone.processes import keep_private
from udig_recon.worker.telemetry import logs, tracing

log = logging.getLogger("udig_recon.api")
KEEP_ALIVE_SECONDS = 15
OWN_FILES = 256  # of databases, queue, uploads and logs, beside the connections
KEYS_CURE = "AUTHENTICATION=on, and `udig keys create NAME`"
GRACE_SECONDS = 8  # then what still runs is cut off, so that the process is gone within ten seconds


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    os.umask(0o077)
    memory.go_before_others(memory.API_SCORE)
    keep_private()
    settings = get_settings()
    logs.configure()
    tracing.configure(settings.otel_exporter_otlp_endpoint, "udig-recon-api", f"{socket.gethostname()}:{os.getpid()}")
    allowed = allow_files(settings.max_connections + OWN_FILES) - OWN_FILES
    if allowed < settings.max_connections:
        log.warning("connections.limited", extra={"to": allowed, "by": "ulimit -n"})
        settings = settings.model_copy(update={"max_connections": allowed})
    app = create_app(settings)
    places = app.state.context.concurrency.connections
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings.header_timeout_seconds, settings.body_timeout_seconds, places),
        ws="none",
        log_config=None,
        access_log=False,  # its lines hold the query, and with it what a client calls its files
        server_header=False,
        proxy_headers=False,  # see api/http/proxies.py
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    listener = open_listener(settings.host, settings.port)
    app.state.context.prober.prepare(PROBES)
    sandbox_report.check(app.state.context.prober, required=settings.require_sandbox)
    if not settings.authenticates:
        log.warning(
            "authentication.disabled", extra={"for": "every process and proxy of this machine", "cure": KEYS_CURE}
        )
    host, port = listener.getsockname()[:2]
    log.info("api.listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})
    with suppress(KeyboardInterrupt):  # raised again by uvicorn once all is closed
        Server(config, app.state.context.notifications.close).run(sockets=[listener])


def open_listener(host: str, port: int, settings: str = "") -> socket.socket:
    """Return a listening socket. Raises SystemExit with one line where the address cannot be listened at.

    `settings` is the prefix of the settings that gave it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except socket.gaierror as error:
        raise SystemExit(f"error: {settings}HOST: {host} is no address of this machine: {error.strerror}") from None
    except OSError as error:
        name = settings + ("PORT" if error.errno == errno.EADDRINUSE else "HOST")
        raise SystemExit(
            f"error: {name}: cannot listen at {host}, port {port}: {os.strerror(error.errno or 0)}"
        ) from None
    # asyncio leaves this out for a socket that it was given. The body of a short answer, which is sent after its head,
    # would then wait for the client's acknowledgement, some 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener

"""`python -m api`: the door, opened at HOST and PORT of the settings."""

import logging
import socket
from contextlib import suppress

import uvicorn

from api.app import create_app
from api.server import Server, timed_protocol
from worker.settings import get_settings

KEEP_ALIVE_SECONDS = 15
GRACE_SECONDS = 8  # then what still runs is cut off, so that the process is gone within ten seconds


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = get_settings()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        http=timed_protocol(settings.header_timeout_seconds, settings.body_timeout_seconds),
        ws="none",
        log_config=None,
        access_log=False,  # its lines hold the query, and with it what a client calls its files
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    listener = socket.create_server((settings.host, settings.port), family=_family(settings.host), backlog=512)
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)  # noqa: T201 - whoever asked for PORT=0 reads it here
    with suppress(KeyboardInterrupt):  # raised again by uvicorn once all is closed
        Server(config, app.state.context.watcher.close).run(sockets=[listener])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


if __name__ == "__main__":
    main()

"""Debian's PgBouncer in transaction mode, by the configuration of `docs/deployment`, before a database of the tests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from udig_recon.worker.standalone.system_user import SystemUser

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/sbin")
CONFIGURATION = Path(__file__).parents[2] / "docs" / "deployment" / "pgbouncer.ini"
SERVER_CONNECTIONS = 8
START_SECONDS = 20.0


@contextmanager
def pgbouncer(database_url: str, folder: Path, connections: int = SERVER_CONNECTIONS) -> Iterator[str]:
    """URL of the same database by a PgBouncer, which holds so many connections to it."""
    url = make_url(database_url)
    host, port = url.query.get("host", url.host), _free_port()
    users = folder / "userlist.txt"
    users.write_text(f'"{url.username}" "{url.password or ""}"\n')
    users.chmod(0o644)
    text = CONFIGURATION.read_text()
    text = text.replace("host=postgres port=5432", f"host={host} port={url.port or 5432}")
    text = text.replace("udig = ", f"{url.database} = ").replace("dbname=udig", f"dbname={url.database}")
    changed = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "auth_type": "trust",
        "auth_file": str(users),
        "default_pool_size": str(connections),
    }
    for name, value in changed.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count == 1, name
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(text + "unix_socket_dir =\n")
    configuration.chmod(0o644)
    prefix = SystemUser.find_or_make().prefix if os.geteuid() == 0 else []
    with subprocess.Popen([*prefix, str(PGBOUNCER), str(configuration)], stderr=subprocess.PIPE, text=True) as process:
        try:
            _await(process, port)
            query = {name: value for name, value in url.query.items() if name != "host"}
            yield url.set(host="127.0.0.1", port=port, query=query).render_as_string(hide_password=False)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def _await(process: "subprocess.Popen[str]", port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(process.communicate()[1]) from None
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

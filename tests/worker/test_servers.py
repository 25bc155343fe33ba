"""The embedded servers keep what they hold, whoever starts them, wherever, and however they end."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests.support.worker_processes import ROOT, until
from udig_recon.worker.database.engine import conninfo
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.servers import EmbeddedError, EmbeddedServers

pytestmark = pytest.mark.service

HOLD = """
import sys, time
from pathlib import Path
from udig_recon.worker.standalone.servers import EmbeddedServers
EmbeddedServers(Path(sys.argv[1])).start()
print("started", flush=True)
time.sleep(60)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as tmp_path's is not."""
    with tempfile.TemporaryDirectory(prefix="udig-") as made:
        yield Path(made)


def connected(servers: EmbeddedServers) -> psycopg.Connection:
    return psycopg.connect(conninfo(servers.migration_database_url), autocommit=True)


def commands_with(marker: Path) -> list[str]:
    lines = (processes.command_line(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return [line for line in lines if (f"{marker}/" in line and "postgres" in line) or f"{marker}/run/valkey" in line]


def test_a_killed_holder_takes_the_servers_along_and_the_next_start_finds_what_was_stored(folder: Path) -> None:
    data = folder / "data"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(data)], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"started\n"
    servers = EmbeddedServers(data)
    with connected(servers) as connection:
        connection.execute("CREATE TABLE kept (x int)")
    with redis.Redis.from_url(servers.redis_url) as client:
        client.set("kept", "1")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        # One second's worth is what AOF may lose to a power cut; to a killed holder it loses nothing.
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    servers.start()
    try:
        with connected(servers) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.get("kept") == b"1"
    finally:
        servers.stop()
    until(lambda: commands_with(data) == [], seconds=10)


@pytest.mark.parametrize("name", ["/".join(["long" * 10] * 3), "Dr. Müller's scans, 50% #1?"])
def test_an_odd_path_has_its_sockets_elsewhere_and_a_dead_server_is_revived(folder: Path, name: str) -> None:
    data = folder / name / "data"
    servers = EmbeddedServers(data)
    assert not servers.sockets.is_relative_to(data)
    servers.start()
    try:
        assert servers.sockets.stat().st_mode & 0o777 == 0o700
        pid = int((data / "postgres" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGQUIT)
        until(lambda: processes.command_line(pid) == "", seconds=10)
        servers.restart_stopped()
        with connected(servers) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.ping()
    finally:
        servers.stop()
    assert not servers.sockets.exists()


def test_another_users_socket_folder_is_refused(folder: Path) -> None:
    servers = EmbeddedServers(folder.joinpath(*["long" * 10] * 3))
    (folder / "trap").mkdir()
    servers.sockets.symlink_to(folder / "trap")
    try:
        with pytest.raises(EmbeddedError, match="not a folder of this user"):
            servers.start()
    finally:
        servers.sockets.unlink()


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("9.6\n")
    servers = EmbeddedServers(folder)
    with pytest.raises(EmbeddedError, match="postgres does not start"):
        servers.start()
    servers.stop()
    assert commands_with(folder) == []


def test_a_leftover_is_ended_only_when_it_is_ours(folder: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    pid_file = folder / "a.pid"
    pid_file.write_text(f"{stranger.pid}\n")
    until(lambda: "sleep" in processes.command_line(stranger.pid))
    processes.stop_leftover(pid_file, str(folder), signal.SIGTERM, 1)
    assert stranger.poll() is None
    processes.stop_leftover(pid_file, "sleep", signal.SIGTERM, 10)
    assert stranger.wait() == -signal.SIGTERM


def test_servers_run_as_no_root(folder: Path) -> None:
    servers = EmbeddedServers(folder / "data", valkey=False)
    servers.start()
    try:
        pid = int((folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
        owner = Path(f"/proc/{pid}").stat().st_uid
        assert owner != 0
        assert pwd.getpwuid(owner).pw_name == ("udig_postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())[0])
        assert (folder / "data").stat().st_mode & 0o777 == 0o700
    finally:
        servers.stop()

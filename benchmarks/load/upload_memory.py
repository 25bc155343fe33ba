"""Growth of the API's memory during the upload of a large scan: `python -m benchmarks.load.upload_memory [MiB]`."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from udig_recon.core.cli import UDIG
from udig_recon.worker.database.migrate import migrate
from udig_recon.worker.database.roles import role_of
from udig_recon.worker.standalone.serve import free_port
from udig_recon.worker.standalone.servers import EmbeddedServers

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1 << 20
LIMIT_MIB = 64


class ApiProcess(NamedTuple):
    """An API that runs."""

    port: int
    pid: int
    environment: dict[str, str]


@contextmanager
def api_process(data: Path, log: Path = Path(os.devnull), **settings: str) -> Iterator[ApiProcess]:
    """The API on servers of its own, with these settings beside; what it says goes to the log."""
    servers = EmbeddedServers(data)
    servers.start()
    try:
        migrate(servers.migration_database_url, service=role_of(servers.database_url))
        port = free_port("127.0.0.1")
        own = {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url, "DATA": str(data)}
        environment = {**os.environ, **own, "PORT": str(port), "DISK_RESERVE_BYTES": "0", **settings}
        command = [*UDIG, "api"]
        with log.open("w") as sink, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=sink) as process:
            try:
                _wait_for(port)
                yield ApiProcess(port, process.pid, environment)
            finally:
                process.terminate()
    finally:
        servers.stop()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the API did not come up")


def scan_of(path: Path, mebibytes: int) -> None:
    """A real scan of about that size: k-space (slices, coils, ky, kx) as .npy."""
    slices, coils, side = max(1, mebibytes // 8), 16, 256
    shape = (slices, coils, side, side)
    kspace = np.lib.format.open_memmap(path, mode="w+", dtype=np.complex64, shape=shape)
    rng = np.random.default_rng(0)
    for index in range(slices):
        kspace[index] = rng.standard_normal((coils, side, side)) + 1j
    kspace.flush()


def upload(port: int, path: Path) -> tuple[int, float]:
    """Status of the answer and the seconds it took."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    with path.open("rb") as file:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
        connection.request("POST", "/v1/scans", file, headers)
        answer = connection.getresponse()
        answer.read()
    connection.close()
    return answer.status, time.perf_counter() - started


def memory_mib(pid: int, what: str) -> float:
    """Resident memory of a process: now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def main(mebibytes: int) -> int:
    """Print a row of a Markdown table; 1 when the memory grew too much."""
    with tempfile.TemporaryDirectory(prefix="udig-upload-") as folder:
        small, large = Path(folder) / "small.npy", Path(folder) / "large.npy"
        scan_of(small, 8)
        scan_of(large, mebibytes)
        with api_process(Path(folder) / "data") as api:
            upload(api.port, small)
            before = memory_mib(api.pid, "VmRSS")
            status, seconds = upload(api.port, large)
            grown = memory_mib(api.pid, "VmHWM") - before
    print("| upload (MiB) | status | seconds | MiB/s | memory before (MiB) | growth (MiB) | limit (MiB) |")
    print("|---|---|---|---|---|---|---|")
    cells = (
        mebibytes,
        status,
        f"{seconds:.1f}",
        f"{mebibytes / seconds:.0f}",
        f"{before:.0f}",
        f"{grown:.1f}",
        LIMIT_MIB,
    )
    print("| " + " | ".join(map(str, cells)) + " |")
    return int(status != 201 or grown >= LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024))

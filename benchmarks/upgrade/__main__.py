"""Upgrade without downtime, and back: `python -m benchmarks.upgrade [--old REF]`.

Two APIs and two workers of the version before run jobs, which a client files and follows all the time, by whichever API
answers. The tables are migrated, then each process is replaced by one of the current version, one after the other; then
each is replaced by one of the version before, and the tables go back. No job may be lost or fail, and each request must
find an API; else the exit code is 1.
"""

import argparse
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.chaos.workload import ct_scan, file_of
from udig_recon.worker.standalone.servers import EmbeddedServers

ROOT = Path(__file__).parents[2]
OLD = "a80cdbc"  # version 0.4.0
PATHS = ("api", "core", "worker", "migrations", "src", "pyproject.toml")
METHOD = {"method": "sirt", "iterations": 400, "holdout_share": 0}
PAUSE_SECONDS, STOP_SECONDS, PATIENCE_SECONDS = 0.5, 30.0, 120.0


@contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """The sources of a commit."""
    sources = subprocess.run(
        ["git", "archive", "--format=tar", ref, *PATHS], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory(prefix="udig-old-") as folder:
        with tarfile.open(fileobj=io.BytesIO(sources)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


@dataclass
class Fleet:
    """Processes of the service, of one version or another."""

    environment: dict[str, str]
    logs: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self, name: str, source: Path) -> None:
        """Start `udig api` or `udig worker` of these sources, and wait until it is ready; its name ends with a port."""
        kind, _, number = name.partition(" ")
        environment = self.environment | {"PYTHONPATH": str(source / "src"), "PORT": number}
        with (self.logs / f"{name}-{time.monotonic_ns()}.log").open("w") as log:
            command = [sys.executable, "-m", "udig_recon.core", kind]
            self.running[name] = subprocess.Popen(command, cwd=source, env=environment, stderr=log)
        self._await(name, kind, int(number))

    def _await(self, name: str, kind: str, port: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while kind == "api":
            try:
                httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=5).raise_for_status()
                return
            except httpx2.HTTPError:
                if self.running[name].poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"error: {name} does not start") from None
            time.sleep(0.1)

    def stop(self, name: str) -> None:
        """Let it end as a container's stop does."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)

    def run(self, source: Path, *arguments: str) -> float:
        """Run a command of these sources; its seconds."""
        began = time.monotonic()
        environment = self.environment | {"PYTHONPATH": str(source / "src")}
        subprocess.run([sys.executable, "-m", "udig_recon.core", *arguments], cwd=source, env=environment, check=True)
        return time.monotonic() - began


class Client:
    """Files a job every half a second and follows it, by the first API that answers, as a proxy would choose it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._over = fleet, threading.Event()
        self.jobs: list[str] = []
        self.unanswered, self.longest_seconds, self.retried = 0, 0.0, 0
        self._thread = threading.Thread(target=self._run)

    def ask(self, method: str, path: str, **named: Any) -> Any:
        """The answer of the first API that gives one."""
        began = time.monotonic()
        for attempt in range(20):
            for name in sorted(self._fleet.running):
                if not name.startswith("api"):
                    continue
                try:
                    url = f"http://127.0.0.1:{name.partition(' ')[2]}{path}"
                    answer = httpx2.request(method, url, timeout=30, **named)
                    answer.raise_for_status()
                except httpx2.HTTPError:
                    self.retried += 1
                    continue
                self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
                return answer.json()
            self.unanswered += attempt == 0
            time.sleep(0.1)
        raise SystemExit(f"error: nobody answers {method} {path}")

    def start(self) -> None:
        """Bring a scan, and begin."""
        scan = ct_scan(slices=1)
        self._scan = self.ask("POST", "/v1/scans", content=file_of(scan))["id"]
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            headers = {"Idempotency-Key": str(time.monotonic_ns())}
            body = {"scan_id": self._scan, "parameters": METHOD, "seed": len(self.jobs)}
            self.jobs.append(self.ask("POST", "/v1/jobs", json=body, headers=headers)["id"])
            self.ask("GET", f"/v1/jobs/{self.jobs[0]}")

    def finish(self) -> list[dict[str, Any]]:
        """Every job as it has ended."""
        self._over.set()
        self._thread.join()
        deadline = time.monotonic() + PATIENCE_SECONDS
        ended = []
        for job in self.jobs:
            while (found := self.ask("GET", f"/v1/jobs/{job}"))["status"] in ("queued", "running"):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.2)
            ended.append(found)
        return ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", default=OLD, help="commit or tag of the version before")
    asked = parser.parse_args()
    lines = ["| step | s | jobs filed until then | requests that no API took |", "|---|---|---|---|"]
    with ExitStack() as stack:
        old = stack.enter_context(checkout(asked.old))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="udig-upgrade-")))
        servers = EmbeddedServers(folder / "data")
        servers.start()
        stack.callback(servers.stop)
        environment = {
            **os.environ,
            "DATABASE_URL": servers.database_url,
            "MIGRATION_DATABASE_URL": servers.migration_database_url,
            "REDIS_URL": servers.redis_url,
            "DATA": str(folder / "files"),
            "WORKERS": "2",
            "THREADS": "1",
            "DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "SWEEP_SECONDS": "1",
        }
        fleet = Fleet(environment, folder)
        stack.callback(lambda: [fleet.stop(name) for name in list(fleet.running)])
        client = Client(fleet)
        ports = [(f"api {port}", f"api {port + 10}") for port in (18470, 18471)]
        workers = [(f"worker {number}", f"worker {number + 10}") for number in (1, 2)]

        def step(name: str, seconds: float) -> None:
            lines.append(f"| {name} | {seconds:.1f} | {len(client.jobs)} | {client.unanswered} |")

        def replace(there: str, then: str, source: Path) -> None:
            began = time.monotonic()
            fleet.start(then, source)
            fleet.stop(there)
            time.sleep(2)
            step(f"{then} in place of {there}", time.monotonic() - began)

        fleet.run(old, "migrate")
        newest = sorted(path.name[:4] for path in (old / "migrations" / "versions").glob("[0-9]*.py"))[-1]
        for name, _ in (*ports, *workers):
            fleet.start(name, old)
        client.start()
        time.sleep(10)
        step(f"version of {asked.old} alone", 10)
        step("udig migrate", fleet.run(ROOT, "migrate"))
        for there, then in (*ports, *workers):
            replace(there, then, ROOT)
        time.sleep(5)
        for there, then in (*ports, *workers):
            replace(then, there, old)
        step(f"udig migrate --down {newest}", fleet.run(ROOT, "migrate", "--down", newest))
        time.sleep(5)
        jobs = client.finish()
        step("all jobs have ended", 0)
    wrong = [job for job in jobs if job["status"] != "succeeded"]
    lines += ["", "| jobs | succeeded | more than one attempt | longest answer s |", "|---|---|---|---|"]
    again = sum(job["attempt"] > 1 for job in jobs)
    lines.append(f"| {len(jobs)} | {len(jobs) - len(wrong)} | {again} | {client.longest_seconds:.2f} |")
    print("\n".join(lines))
    for job in wrong[:5]:
        print(job["id"], job["status"], job["error"])
    return int(bool(wrong) or client.unanswered > 0)


if __name__ == "__main__":
    sys.exit(main())

"""The blocks of docs/operations.md, run as they stand: a backup under work, and a service restored from it."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy.orm import Session, sessionmaker

from tests.core.test_dicom import template
from tests.support.environment import ROOT
from tests.support.scans import ct, write_hdf5
from tests.support.worker_processes import until
from udig_recon.core.cli import UDIG
from udig_recon.worker.cli import postgres
from udig_recon.worker.database.tables import Scan
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone.servers import EmbeddedError
from udig_recon.worker.storage import keys

pytestmark = pytest.mark.service

KNOBS = {"WORKERS": "1", "PORT": "0", "DEVICE": "cpu", "CHECKPOINT_SECONDS": "0.3", "SWEEP_SECONDS": "0.5"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, below which sockets fit."""
    with tempfile.TemporaryDirectory(prefix="udig-") as made:
        yield Path(made)


def environment(**more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}
    return {**inherited, "PYTHONPATH": str(ROOT), "UDIG": " ".join(UDIG), **KNOBS, **more}


@contextmanager
def serving(data: Path, log: Path, end: signal.Signals = signal.SIGTERM) -> Iterator[httpx2.Client]:
    """A client of the service on a data folder, which is ended by this signal."""
    with (
        log.open("w") as sink,
        subprocess.Popen(
            [*UDIG, "serve"],
            cwd=ROOT,
            env=environment(DATA=str(data)),
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        ) as service,
    ):
        assert service.stdout is not None
        found = re.search(r"http://\S+", service.stdout.readline())
        assert found, log.read_text()
        try:
            with httpx2.Client(base_url=found[0], timeout=60) as client:
                yield client
        finally:
            service.send_signal(end)
            service.wait(60)


def block(mark: str, **variables: str) -> None:
    """Run a block of the page."""
    page = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(rf"<!-- {mark} -->\n```bash\n(.*?)```", page, re.DOTALL)
    assert found
    command = ["bash", "-euo", "pipefail", "-c", found[1]]
    done = subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def post(client: httpx2.Client, scan: Path, iterations: int) -> str:
    """The id of a job for a scan with a template beside it."""
    job = f'{{"parameters": {{"method": "sirt", "iterations": {iterations}, "holdout_share": 0}}}}'
    files = {"scan": scan.read_bytes(), "template": template()}
    answer = client.post("/v1/jobs", files=files, data={"job": job})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def seen(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return job


@pytest.mark.slow
def test_a_service_restored_from_a_backup_has_the_results_and_goes_on_with_a_half_done_job(folder: Path) -> None:
    scan = write_hdf5(folder / "scan.h5", **ct(slices=1, size=96))
    backup, restored = folder / "backup", folder / "restored"
    with serving(folder / "data", folder / "log", signal.SIGKILL) as client:
        done, half = post(client, scan, 50), post(client, scan, 20000)
        until(lambda: seen(client, done)["status"] == "succeeded")
        result = client.get(f"/v1/jobs/{done}/result?format=npy").content
        until(lambda: any((folder / "data" / "jobs" / half / "checkpoints").glob("*.pt")))
        block("backup", DATA=str(folder / "data"), BACKUP=str(backup))
        assert seen(client, half)["status"] == "running"
        refused = run("migrate", "--down", "0006", DATA=str(folder / "data"))
        assert (refused.returncode, "in use" in refused.stderr) == (1, True)
    block("restore", NEW=str(restored), BACKUP=str(backup))
    # What nothing else could make again is there: of whom a template says that the scan is.
    (identity,) = [path for path in (restored / keys.IDENTITIES).rglob("*") if path.is_file()]
    assert identity.read_bytes() == (folder / "data" / identity.relative_to(restored)).read_bytes()
    with serving(restored, folder / "log") as client:
        assert client.get(f"/v1/jobs/{done}/result?format=npy").content == result
        assert seen(client, done)["status"] == "succeeded"
        until(lambda: seen(client, half)["status"] == "succeeded", seconds=240)
        assert seen(client, half)["attempt"] == 2
    assert '"event": "slice.resumed"' in (folder / "log").read_text()
    for kept in (backup / "rows.dump", backup, restored):
        assert kept.stat().st_mode & 0o077 == 0
    # Its tables go back for an older version, while nothing else runs on them.
    assert run("migrate", "--down", "0006", DATA=str(restored)).returncode == 0
    asked = ("psql", "-Atc", "SELECT version_num, (SELECT count(*) FROM jobs) FROM alembic_version")
    assert run("postgres", *asked, DATA=str(restored)).stdout == "0006|2\n"


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [*UDIG, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("revision", "why"), [("0999", "0999"), ("0002", "tenants")])
def test_where_the_tables_cannot_go_is_told_in_one_line(
    settings: Settings, database: sessionmaker[Session], revision: str, why: str
) -> None:
    with database.begin() as session:
        session.add(Scan(tenant="another", sha256="0" * 64, filename="", size_bytes=1, header={}))
    ended = run("migrate", "--down", revision, DATABASE_URL=str(settings.migration_database_url))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: --down: ")
    assert why in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_program_of_postgres_that_is_none_is_told_in_one_line(folder: Path) -> None:
    ended = run("postgres", "pg_nothing", DATA=str(folder / "data"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: PostgreSQL has no program pg_nothing")
    assert ended.stderr.count("\n") == 1


def test_a_machine_without_a_server_takes_the_clients_on_its_path(
    settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_server() -> Path:
        raise EmbeddedError("no server")

    (folder / "psql").symlink_to(postgres.postgres_binaries() / "psql")
    monkeypatch.setattr(postgres, "postgres_binaries", no_server)
    monkeypatch.setenv("PATH", str(folder))
    assert postgres.run(settings, ["psql", "-Atc", "SELECT count(*) FROM jobs"]) == 0
    assert capfd.readouterr().out == "0\n"
    with pytest.raises(EmbeddedError, match="no pg_dump on this machine"):
        postgres.run(settings, ["pg_dump"])
    with pytest.raises(EmbeddedError, match="no server"):
        postgres.run(settings.model_copy(update={"database_url": None}), ["psql"])

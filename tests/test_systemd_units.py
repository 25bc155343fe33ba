"""The systemd units: what systemd says of them, what the code says of their settings, and their commands, run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.worker_processes import until
from udig_recon.api.main import GRACE_SECONDS
from udig_recon.api.mrd_stream.server import DRAIN_SECONDS, TELL_SECONDS
from udig_recon.core.cli.main import COMMANDS
from udig_recon.worker.runtime.maintenance import SHUTDOWN_SECONDS
from udig_recon.worker.runtime.process import LAST_STEP_SECONDS
from udig_recon.worker.settings import Settings
from udig_recon.worker.standalone.serve import STOP_SECONDS, free_port

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "deployment" / "systemd"
UNITS = sorted(path.name for path in FOLDER.glob("*.service"))
PROGRAM = Path(sys.executable).with_name("udig")
INSTALLED = "/opt/udig-recon/bin/udig"
OF_PROCESSES = {"PYTHONUNBUFFERED", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES"}
PATIENCE_SECONDS = 240  # of a machine with other things to do
MOST_EXPOSURE = 27  # tenths; `systemd-analyze security` calls 100 unsafe


def directives(unit: str) -> list[tuple[str, str]]:
    lines = (FOLDER / unit).read_text().splitlines()
    return [(key, value) for key, _, value in (line.partition("=") for line in lines if re.match(r"[A-Z]\w*=", line))]


def values(unit: str, directive: str) -> list[str]:
    return [value for key, value in directives(unit) if key == directive]


def value(unit: str, directive: str) -> str:
    (found,) = values(unit, directive)
    return found


def variables(unit: str, folder: Path) -> dict[str, str]:
    """What `Environment=` gives, with the credentials and the state of the unit in this folder."""
    words = " ".join(values(unit, "Environment")).split()
    replaced = {"%d": str(folder / "secrets"), "%i": "cpu1", "/var/lib/udig-recon": str(folder / "data")}
    given = {}
    for word in words:
        name, _, text = word.partition("=")
        for old, new in replaced.items():
            text = text.replace(old, new)
        assert name not in given
        given[name] = text
    return given


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not on this machine: systemd-analyze cannot read the units")
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for unit in UNITS:
        (tmp_path / unit).write_text((FOLDER / unit).read_text().replace(INSTALLED, str(PROGRAM)))
    verified = analyze("verify", *(str(tmp_path / unit) for unit in UNITS))
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_exposed_little(unit: str) -> None:
    checked = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSURE}", str(FOLDER / unit))
    assert checked.returncode == 0, checked.stdout.splitlines()[-1]


def test_a_misspelt_directive_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "wrong.service").write_text(f"[Service]\nExecStart={PROGRAM} api\nTimeoutStopSecs=5\n")
    assert "TimeoutStopSecs" in analyze("verify", str(tmp_path / "wrong.service")).stderr


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_runs_a_command_that_exists_with_settings_that_exist(unit: str, tmp_path: Path) -> None:
    program, command = value(unit, "ExecStart").split()
    assert program == INSTALLED
    assert command in COMMANDS
    given = variables(unit, tmp_path)
    assert {name.lower().removesuffix("_file") for name in set(given) - OF_PROCESSES} <= set(Settings.model_fields)
    credentials = dict(each.split(":") for each in values(unit, "LoadCredential"))
    files = {name.lower().removesuffix("_file") for name in given if name.endswith("_FILE")}
    assert set(credentials) == files
    assert all(path == f"/etc/udig-recon/secrets/{name}" for name, path in credentials.items())
    assert ("migration_database_url" in files) == (command == "migrate")
    assert not files & {"audit_key", "webhook_secret"} or command == "api"
    assert ("mrd_key" in files) == (command == "mrd-stream")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_may_do_no_more_than_the_others(unit: str) -> None:
    confined = {"CapabilityBoundingSet": "", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "UMask": "0077"}
    assert {name: value(unit, name) for name in confined} == confined
    assert (value(unit, "User"), value(unit, "StateDirectoryMode")) == ("udig", "0700")
    # GPUs are devices: whoever needs them gets them and no others.
    uses_gpus = value(unit, "ExecStart").split()[-1] in ("serve", "worker")
    assert values(unit, "PrivateDevices") == ([] if uses_gpus else ["yes"])
    assert values(unit, "DeviceAllow") == (["char-nvidia* rw"] if uses_gpus else [])


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit != "udig-migrate.service"])
def test_a_unit_comes_back_and_has_the_time_that_its_end_needs(unit: str) -> None:
    needed = {
        "serve": 3 * STOP_SECONDS,
        "api": GRACE_SECONDS,
        "mrd-stream": DRAIN_SECONDS + TELL_SECONDS,
        "worker": SHUTDOWN_SECONDS + LAST_STEP_SECONDS,
    }
    assert int(value(unit, "TimeoutStopSec")) > needed[value(unit, "ExecStart").split()[-1]]
    # SIGTERM for every process of the unit would end embedded servers before the slices are given back.
    assert (value(unit, "KillSignal"), value(unit, "KillMode")) == ("SIGTERM", "mixed")
    assert value(unit, "Restart") == "always"


def test_the_user_of_the_units_is_that_of_the_images() -> None:
    (line,) = re.findall(r"^u .*$", (FOLDER / "udig-recon.sysusers").read_text(), re.MULTILINE)
    assert line.split()[1:3] == ["udig", "10001"]
    assert "useradd --uid 10001" in (ROOT / "Dockerfile.gpu").read_text()


@contextmanager
def started(unit: str, folder: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a unit, ended as systemd ends it."""
    _, *arguments = value(unit, "ExecStart").split()
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    settings = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **variables(unit, folder), **more}
    with (folder / f"{unit}.log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, *arguments], env=kept | settings, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        # To systemd the end by the signal that it sent is a clean one.
        assert process.wait(PATIENCE_SECONDS) in (0, -signal.SIGTERM), unit
    finally:
        process.kill()
        process.wait()


def wait_until_ready(port: int, folder: Path) -> None:
    """Wait; the logs of the units say why it is in vain."""
    try:
        until(lambda: is_ready(port), seconds=PATIENCE_SECONDS)
    except AssertionError:
        pytest.fail("\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in folder.glob("*.log")))


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_the_units_of_several_machines_make_a_service_that_is_ready(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    secrets = {
        "database_url": settings.database_url,
        "migration_database_url": settings.migration_database_url,
        "redis_url": settings.redis_url,
        "audit_key": "0" * 32,
        "webhook_secret": f"whsec_{'A' * 32}",
    }
    for name, secret in secrets.items():
        (folder / name).write_text(str(secret))
    (tmp_path / "data").mkdir()
    _, *arguments = value("udig-migrate.service", "ExecStart").split()
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": os.environ["PATH"]}
    migrated = variables("udig-migrate.service", tmp_path) | environment
    subprocess.run([PROGRAM, *arguments], env=migrated, check=True, cwd=tmp_path)
    port = free_port("127.0.0.1")
    more = {"PORT": str(port), "REDIS_PREFIX": settings.redis_prefix, "DISK_RESERVE_BYTES": "0"}
    with ExitStack() as running:
        for unit in ("udig-api.service", "udig-worker@.service"):
            running.enter_context(started(unit, tmp_path, **more))
        wait_until_ready(port, tmp_path)


def test_the_unit_of_one_machine_is_a_service_that_is_ready() -> None:
    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="udig-") as made:  # paths of sockets must be short
        folder = Path(made)
        (folder / "data").mkdir()
        with started("udig-recon.service", folder, PORT=str(port), WORKERS="1", DISK_RESERVE_BYTES="0"):
            wait_until_ready(port, folder)

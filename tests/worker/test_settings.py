"""Settings that the service cannot start with stop it, with one line that names them."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.worker_processes import ROOT
from udig_recon.core.cli import UDIG
from udig_recon.worker.settings import BadSetting, Settings, read_settings

pytestmark = pytest.mark.long

SECRET = "hunter2"
NOWHERE = {
    "DATABASE_URL": f"postgresql://udig:{SECRET}@127.0.0.1:1/none",
    "REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1/0",
}
WRONG: list[tuple[str, dict[str, str]]] = [
    ("DATABASE_URL", {"DATABASE_URL": f"sqlite:///{SECRET}"}),
    ("DATABASE_URL", {"DATABASE_URL": f"what:{SECRET}"}),
    ("REDIS_URL", {"REDIS_URL": f"amqp://{SECRET}@host"}),
    ("DATABASE_URL_FILE", {"DATABASE_URL": "", "DATABASE_URL_FILE": "/nowhere/secret"}),
    ("DATABASE_URL", {"DATABASE_URL_FILE": "/etc/hostname"}),
    ("DATA", {"DATA": "/etc/hostname"}),
    ("PRIORS", {"PRIORS": "/etc/hostname"}),
    ("PORT", {"PORT": "eighty"}),
    ("TRUSTED_PROXIES", {"TRUSTED_PROXIES": "10.0.0.0/8 proxy"}),
    ("WORKERS", {"WORKERS": "0"}),
    ("DEVICE", {"DEVICE": "tpu"}),
    ("RETENTION_DAYS", {"RETENTION_DAYS": "-1"}),
    ("AUTHENTICATION", {"AUTHENTICATION": "maybe"}),
    ("AUTHENTICATION", {"AUTHENTICATION": "off", "HOST": "0.0.0.0"}),
    ("AUTHENTICATION", {"AUTHENTICATION": "off", "HOST": "example.org"}),
    ("HEARTBEAT_SECONDS", {"HEARTBEAT_SECONDS": "60", "LEASE_SECONDS": "60"}),
]
OF_A_PROCESS: list[tuple[str, str, dict[str, str]]] = [
    ("api", "DATABASE_URL", {"DATABASE_URL": ""}),
    ("api", "REDIS_URL", {"REDIS_URL": ""}),
    ("api", "HOST", {"HOST": "192.0.2.1"}),
    ("worker", "REDIS_URL", {"REDIS_URL": ""}),
    ("migrate", "DATABASE_URL", {}),
    ("serve", "DATABASE_URL", {}),
]
COMMANDS = (
    "api",
    "worker",
    "serve",
    "migrate",
    "health",
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    settings = {name.upper() for name in Settings.model_fields}
    return {key: value for key, value in os.environ.items() if key not in settings} | {
        **NOWHERE,
        "DATA": str(tmp_path / "data"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def refusal(command: str, environment: dict[str, str]) -> str:
    """The one line that a process ends with."""
    given = {name: value for name, value in environment.items() if value}
    ended = subprocess.run([*UDIG, command], env=given, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith("error: "), ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert SECRET not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(("name", "change"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_setting_is_named(
    name: str, change: dict[str, str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in set(os.environ) & {field.upper() for field in Settings.model_fields}:
        monkeypatch.delenv(key)
    for key, value in (environment | change).items():
        if value:
            monkeypatch.setenv(key, value)
    with pytest.raises(BadSetting) as refused:
        read_settings()
    assert str(refused.value).startswith(f"{name}: ")
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_process_starts_with_a_wrong_setting(command: str, environment: dict[str, str]) -> None:
    told = refusal(command, environment | {"AUTHENTICATION": "off", "HOST": "0.0.0.0"})
    assert told.startswith("error: AUTHENTICATION: off would let everyone in who reaches 0.0.0.0")


@pytest.mark.parametrize(("command", "name", "change"), OF_A_PROCESS)
def test_what_a_process_lacks_or_cannot_use_is_named(
    command: str, name: str, change: dict[str, str], environment: dict[str, str]
) -> None:
    assert name in refusal(command, environment | change).partition(":")[2].split(";")[0]


@pytest.mark.parametrize("command", ["api", "serve"])
def test_data_that_cannot_be_used_is_named(command: str, environment: dict[str, str]) -> None:
    assert refusal(command, environment | {"DATA": "/proc/nothing"}).startswith("error: DATA: ")


def test_a_taken_port_is_named(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "PORT" in refusal("api", environment | {"PORT": str(taken.getsockname()[1])})


def test_secrets_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{NOWHERE['DATABASE_URL']}\n")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    assert read_settings().database_url == NOWHERE["DATABASE_URL"]
    monkeypatch.setenv("DATABASE_URL", NOWHERE["DATABASE_URL"])
    with pytest.raises(BadSetting, match="DATABASE_URL_FILE is set too"):
        read_settings()
    monkeypatch.setenv("DATABASE_URL_FILE", "")  # no file is named
    assert read_settings().database_url == NOWHERE["DATABASE_URL"]


@pytest.mark.parametrize(
    ("host", "authentication", "needed"),
    [
        ("127.0.0.1", "auto", False),
        ("::1", "auto", False),
        ("localhost", "off", False),
        ("127.0.0.1", "on", True),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("10.0.0.7", "auto", True),
        ("recon.example.org", "auto", True),
        ("", "auto", True),
    ],
)
def test_only_this_machine_is_let_in_without_a_key(host: str, authentication: str, needed: bool) -> None:
    settings = Settings.model_validate({"host": host, "authentication": authentication})
    assert settings.authenticates is needed

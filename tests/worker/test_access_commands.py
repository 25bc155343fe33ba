"""Keys and the audit log from the command line, as whoever runs the service uses it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tests.support.worker_processes import ROOT, environment
from udig_recon.core.cli.main import main as run
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.database.tables import Job, Key, Status
from udig_recon.worker.settings import Settings, get_settings


@pytest.fixture(autouse=True)
def _environment(settings: Settings, database: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    get_settings.cache_clear()


def done(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command says on standard output."""
    assert run(arguments) == 0
    return capsys.readouterr().out.strip()


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    return told.err


def opened(session: Session, secret: str) -> keys.Recognised | None:
    """The valid key with this secret."""
    row = session.execute(keys.VALID, {"sha256": keys.hash_secret(secret)}).one_or_none()
    return None if row is None else keys.recognise_key(row)


def test_a_key_is_made_listed_rotated_and_revoked(
    database: sessionmaker[Session], capsys: pytest.CaptureFixture[str]
) -> None:
    limits = ("--max-open-jobs", "3", "--retention-days", "30", "--expires-days", "90")
    secret = done(capsys, "keys", "create", "scanner 3", "--tenant", "radiology", "--scopes", "read", "write", *limits)
    with database.begin() as session:
        found = opened(session, secret)
    assert found is not None
    key = found.key
    assert (key.tenant, key.name, key.scopes, key.max_open_jobs) == ("radiology", "scanner 3", ["read", "write"], 3)
    listed = json.loads(done(capsys, "keys", "list"))
    assert (listed["id"], listed["retention_days"]) == (str(key.id), 30)
    assert not any("sha256" in name for name in listed)
    assert done(capsys, "keys", "list", "--tenant", "other") == ""
    turned = done(capsys, "keys", "rotate", str(key.id))
    assert done(capsys, "keys", "revoke", str(key.id)) == ""
    assert "is revoked" in refused(capsys, "keys", "rotate", str(key.id))
    with database.begin() as session:
        assert opened(session, secret) is opened(session, turned) is None
        assert session.scalars(select(Key.revoked_at)).one() is not None
    log = [json.loads(line) for line in done(capsys, "audit", "export").splitlines()]
    assert [(entry["action"], entry["tenant"]) for entry in log] == [
        (action, "radiology") for action in ("key.created", "key.rotated", "key.revoked")
    ]
    assert all(entry["actor"].startswith("command:") and entry["ids"] == {"key": str(key.id)} for entry in log)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("keys", "create", "x", "--tenant", "../a"), "--tenant"),
        (("keys", "create", ""), "--name"),
        (("keys", "create", "x", "--max-open-jobs", "0"), "--max-open-jobs"),
        (("keys", "revoke", "0198c2f0-11aa-7b3c-8f00-5d1c2b3a4e5f"), "there is no key"),
        (("audit", "verify", "/nowhere"), "/nowhere"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert told in refused(capsys, *arguments)


def test_an_exported_log_is_verified_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert done(capsys, "audit", "verify") == "no entries"
    for name in "abc":
        done(capsys, "keys", "create", name)
    exported = tmp_path / "audit.jsonl"
    exported.write_text(done(capsys, "audit", "export") + "\n")
    assert done(capsys, "audit", "verify", str(exported)).startswith("3 entries")
    done(capsys, "keys", "create", "d")
    assert done(capsys, "audit", "verify", str(exported)).startswith("4 entries")
    whole = exported.read_text()
    exported.write_text(whole.replace("key.created", "key.kept", 1))
    assert "entry 1 is not what was written" in refused(capsys, "audit", "verify", str(exported))
    exported.write_text(whole[:-9])
    assert "line 3 is no entry" in refused(capsys, "audit", "verify", str(exported))


def test_the_commands_need_no_torch(settings: Settings) -> None:
    script = "import sys; from udig_recon.core.cli.main import main; main(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "keys", "create", "x"]
    ended = subprocess.run(command, env=environment(settings), cwd=ROOT, capture_output=True, text=True, check=True)
    secret, loaded = ended.stdout.split()
    assert secret.startswith(keys.PREFIX)
    assert loaded == "False"


def test_each_tenant_has_webhook_secrets_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "WEBHOOK_SECRET" in refused(capsys, "webhook-secret")
    given = [f"whsec_{letter * 43}" for letter in "ab"]
    monkeypatch.setenv("WEBHOOK_SECRET", " ".join(given))
    get_settings.cache_clear()
    a, b = (done(capsys, "webhook-secret", "--tenant", tenant).split() for tenant in ("a", "b"))
    assert len({*a, *b, *given}) == 6
    assert done(capsys, "webhook-secret", "--tenant", "a").split() == a


def test_a_keys_jobs_go_on_when_it_is_revoked_unless_they_are_to_be_cancelled(
    database: sessionmaker[Session], capsys: pytest.CaptureFixture[str]
) -> None:
    ids = {}
    for name in ("kept", "cancelled"):
        with database.begin() as session:
            key, _ = keys.make(session, "a", NewKey(name=name, scopes=[Scope.WRITE]))
            row = {"tenant": "a", "parameters": {}, "outputs": [], "slices": [0], "seed": 0, "tags": {}}
            jobs = [Job(**row, key_id=key.id, status=status) for status in (Status.QUEUED, Status.SUCCEEDED)]
            session.add_all(jobs)
            session.flush()
            ids[name] = (key.id, *(job.id for job in jobs))
    done(capsys, "keys", "revoke", str(ids["kept"][0]))
    done(capsys, "keys", "revoke", str(ids["cancelled"][0]), "--cancel-jobs")
    with database() as session:
        status = {name: [session.get_one(Job, each).status for each in found[1:]] for name, found in ids.items()}
    assert status == {"kept": ["queued", "succeeded"], "cancelled": ["cancelled", "succeeded"]}
    log = [json.loads(line) for line in done(capsys, "audit", "export").splitlines()]
    cancelled = [entry["ids"] for entry in log if entry["action"] == "job.cancelled"]
    assert cancelled == [{"job": str(ids["cancelled"][1])}]


def test_limits_of_tenants_are_set_shown_and_listed(capsys: pytest.CaptureFixture[str], settings: Settings) -> None:
    assert run(["tenants", "set", "radiology", "--max-open-jobs", "7", "--max-keys", "1"]) == 0
    assert run(["tenants", "show", "radiology"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (shown["limits"]["max_open_jobs"], shown["limits"]["max_keys"]) == (7, 1)
    assert shown["limits"]["max_open_slices"] == settings.tenant_max_open_slices
    assert shown["usage"]["open_jobs"] == 0
    assert run(["keys", "create", "large", "--tenant", "radiology", "--max-open-jobs", "8"]) == 1
    assert "--max-open-jobs" in capsys.readouterr().err
    assert run(["keys", "create", "first", "--tenant", "radiology"]) == 0
    assert run(["keys", "create", "second", "--tenant", "radiology"]) == 1
    assert "max_keys" in capsys.readouterr().err
    assert run(["tenants", "set", "radiology", "--max-open-jobs", "default"]) == 0
    assert run(["tenants", "list"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"tenant": "radiology", "limits": {"max_keys": 1}}
    for wrong in ("0", "-1", "many"):
        assert run(["tenants", "set", "radiology", "--max-open-jobs", wrong]) in (1, 2)
    assert run(["tenants", "set", "Not a name"]) == 1

"""Heads that have left the machine show what was rewritten on it."""

import json
import secrets
import socket
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.access.audit_heads import AuditHeadSender
from udig_recon.core.cli.main import main
from udig_recon.worker.access import audit, audit_heads
from udig_recon.worker.access.audit import BrokenChain, Who
from udig_recon.worker.access.audit_heads import Destination, Head
from udig_recon.worker.settings import BadSetting, Settings, get_settings, read_settings

KEY = b"0123456789abcdef0123456789abcdef"
FORGE = """
ALTER TABLE audit DISABLE TRIGGER audit_is_only_added_to;
DELETE FROM audit WHERE seq > {kept};
"""


def fill(database: sessionmaker[Session], count: int = 3, actor: str = "key:1") -> None:
    for number in range(count):
        with database.begin() as session:
            audit.append(session, Who("a", actor), "job.filed", job=number)


def head(database: sessionmaker[Session]) -> Head:
    with database() as session:
        return audit_heads.newest(session, KEY)


def verified(database: sessionmaker[Session], *heads: Head) -> int:
    with database() as session:
        return audit_heads.verify(session, heads, KEY)


def test_heads_of_a_log_that_grows_hold(database: sessionmaker[Session]) -> None:
    heads = [head(database)]
    for _ in range(3):
        fill(database, 2)
        heads.append(head(database))
    assert [each.seq for each in heads] == [0, 2, 4, 6]
    assert verified(database, *heads) == 4
    assert audit_heads.read(f"Nov 30 host {each.model_dump_json()}\n" for each in heads) == heads


@pytest.mark.parametrize(("again", "told"), [(0, "3 are missing"), (3, "another by now"), (9, "another by now")])
def test_a_log_written_anew_by_its_owner_has_a_whole_chain_and_no_longer_the_heads(
    database: sessionmaker[Session], owner_database: sessionmaker[Session], again: int, told: str
) -> None:
    fill(database, 5)
    kept = head(database)
    with owner_database.begin() as session:
        session.execute(text(FORGE.format(kept=2)))
    fill(database, again, actor="key:2")
    with database() as session:
        assert len(list(audit.verify_entries(audit.entries(session)))) == 2 + again
    with pytest.raises(BrokenChain, match=told):
        verified(database, kept)


def test_heads_are_forged_by_nobody_who_lacks_the_key(database: sessionmaker[Session]) -> None:
    fill(database)
    true = head(database)
    forged = [
        true.model_copy(update={"seq": 2}),
        true.model_copy(update={"hash": "0" * 64}),
        true.model_copy(update={"at": true.at.replace(year=2001)}),
        Head.of(true.seq, true.hash, true.at, b"another key"),
    ]
    for each in forged:
        with pytest.raises(BrokenChain, match="not signed with this key"):
            verified(database, each)
    with pytest.raises(BrokenChain, match="line 2 of the heads"):
        audit_heads.read([true.model_dump_json(), "rubbish"])


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_heads_go_to_syslog(settings: Settings, database: sessionmaker[Session], kind: str) -> None:
    fill(database)
    heard: list[bytes] = []
    with socket.socket(type=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as receiver:
        receiver.settimeout(30)
        receiver.bind(("127.0.0.1", 0))
        if kind == "tcp":
            receiver.listen()

        def hear() -> None:
            listener = receiver.accept()[0] if kind == "tcp" else receiver
            heard.append(listener.recv(1 << 16))
            if listener is not receiver:
                listener.close()

        listening = threading.Thread(target=hear)
        listening.start()
        url = f"{kind}://127.0.0.1:{receiver.getsockname()[1]}"
        given = {"audit_key": SecretStr(KEY.decode()), "audit_heads": url}
        AuditHeadSender(settings.model_copy(update=given), database).send()
        listening.join()
    message = heard[0].decode()
    if kind == "tcp":
        length, _, message = message.partition(" ")
        assert int(length) == len(message)
    assert message.startswith("<109>1 ")
    (told,) = audit_heads.read([message])
    assert told.seq == 3
    assert verified(database, told) == 1


def test_a_receiver_that_is_away_is_told_and_stops_nothing(
    settings: Settings, database: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    given = {"audit_key": SecretStr(KEY.decode()), "audit_heads": "tcp://127.0.0.1:1"}
    AuditHeadSender(settings.model_copy(update=given), database).send()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["audit.head_send_failed"]


def test_the_command_holds_the_log_against_kept_heads(
    settings: Settings,
    database: sessionmaker[Session],
    owner_database: sessionmaker[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(database)
    kept = tmp_path / "heads.jsonl"
    for _ in range(2):
        Destination(f"file://{kept}").send(head(database))
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("DATA", str(tmp_path))
    get_settings.cache_clear()
    assert main(["audit", "verify", "--heads", str(kept)]) == 1
    assert "AUDIT_KEY is not set" in capsys.readouterr().err
    monkeypatch.setenv("AUDIT_KEY", KEY.decode())
    get_settings.cache_clear()
    assert main(["audit", "verify", "--heads", str(kept)]) == 0
    assert "2 heads" in capsys.readouterr().out
    with owner_database.begin() as session:
        session.execute(text(FORGE.format(kept=1)))
    assert main(["audit", "verify", "--heads", str(kept)]) == 1
    assert "2 are missing" in capsys.readouterr().err
    get_settings.cache_clear()


@pytest.mark.parametrize("url", ["http://host/", "tcp://host", "udp://:514", "file://host/path", "heads.jsonl"])
def test_where_heads_cannot_go_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("AUDIT_HEADS", url)
    with pytest.raises(BadSetting, match="AUDIT_HEADS: expected udp://host:port"):
        read_settings()


def test_a_short_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secrets.token_hex(8)
    monkeypatch.setenv("AUDIT_KEY", secret)
    with pytest.raises(BadSetting, match="AUDIT_KEY") as told:
        read_settings()
    assert secret not in str(told.value)


def test_a_line_of_the_services_log_is_a_head(database: sessionmaker[Session]) -> None:
    fill(database)
    sent = head(database)
    line = {"event": "audit.head_created", "level": "info", **sent.model_dump(mode="json")}
    assert audit_heads.read([json.dumps(line)]) == [sent]

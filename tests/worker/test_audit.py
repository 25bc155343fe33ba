"""The audit log is only ever added to, and shows it when somebody has found a way around that."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.access import audit
from udig_recon.worker.access.audit import BrokenChain, Entry, Who

ALICE = Who("a", "key:1")
TAMPERING: dict[str, tuple[str, str]] = {
    "changed": ('UPDATE audit SET ids = \'{"job": "8"}\' WHERE seq = 2', "entry 2 is not what was written"),
    "at another time": ("UPDATE audit SET at = at + interval '1 microsecond' WHERE seq = 3", "entry 3 is not what"),
    "by another": ("UPDATE audit SET actor = 'key:2' WHERE seq = 1", "entry 1 is not what"),
    "taken out": ("DELETE FROM audit WHERE seq = 2", "entry 2 is missing"),
    "beheaded": ("DELETE FROM audit WHERE seq = 1", "entry 1 is missing"),
    "swapped": ("UPDATE audit SET seq = CASE seq WHEN 2 THEN 3 WHEN 3 THEN 2 ELSE seq END", "entry 2 is not what"),
    "put in": (
        "INSERT INTO audit SELECT 5, at, actor, tenant, action, ids, hash FROM audit WHERE seq = 4",
        "entry 5 is not what",
    ),
}


@pytest.fixture
def database(owner_database: sessionmaker[Session]) -> sessionmaker[Session]:
    """What the service's own role cannot even try."""
    return owner_database


def fill(database: sessionmaker[Session], count: int = 4) -> None:
    for number in range(count):
        with database.begin() as session:
            audit.append(session, ALICE, "job.filed", job=number, scan="7")


def read(database: sessionmaker[Session]) -> list[Entry]:
    with database() as session:
        return list(audit.verify_entries(audit.entries(session)))


def test_what_is_added_is_read_again_in_order_and_verified(database: sessionmaker[Session]) -> None:
    assert read(database) == []
    fill(database)
    log = read(database)
    assert [entry.seq for entry in log] == [1, 2, 3, 4]
    assert {(entry.tenant, entry.actor, entry.action) for entry in log} == {("a", "key:1", "job.filed")}
    assert log[3].ids == {"job": "3", "scan": "7"}
    exported = [Entry.model_validate_json(entry.model_dump_json()) for entry in log]
    assert list(audit.verify_entries(exported)) == log


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
def test_the_database_itself_refuses_all_but_additions(database: sessionmaker[Session], statement: str) -> None:
    fill(database)
    with pytest.raises(DBAPIError, match="only ever added to"), database.begin() as session:
        session.execute(text(statement))
    assert len(read(database)) == 4


@pytest.mark.parametrize("how", TAMPERING)
def test_what_is_changed_around_the_database_is_found(database: sessionmaker[Session], how: str) -> None:
    fill(database)
    statement, told = TAMPERING[how]
    with database.begin() as session:
        session.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_is_only_added_to"))
        session.execute(text("ALTER TABLE audit DROP CONSTRAINT pk_audit"))
        session.execute(text(statement))
    with pytest.raises(BrokenChain, match=told):
        read(database)


def test_a_log_cut_short_or_written_anew_is_told_from_what_was_exported(database: sessionmaker[Session]) -> None:
    fill(database)
    *_, last = read(database)
    with database.begin() as session:
        assert audit.holds(session, last)
        session.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_is_only_added_to"))
        session.execute(text("DELETE FROM audit WHERE seq = 4"))
        assert not audit.holds(session, last)
        audit.append(session, ALICE, "job.filed", job="another")
    assert len(read(database)) == 4
    with database() as session:
        assert not audit.holds(session, last)


def test_many_at_once_make_one_chain_and_what_is_rolled_back_leaves_no_gap(database: sessionmaker[Session]) -> None:
    def add(number: int) -> None:
        with database() as session:
            audit.append(session, ALICE, "job.filed", job=number)
            end: Callable[[], None] = session.rollback if number % 3 == 0 else session.commit
            end()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(30)))
    assert sorted(int(entry.ids["job"]) for entry in read(database)) == [n for n in range(30) if n % 3]

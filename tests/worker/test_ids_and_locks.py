"""Ids sort by when they were made; locks of different kinds do not meet."""

import time
import uuid
from itertools import combinations

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.worker.database import locks
from udig_recon.worker.database.ids import new_id
from udig_recon.worker.database.locks import Lock


def test_ids_are_of_version_7_and_rise() -> None:
    before = time.time_ns() // 1_000_000
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(type(each) is uuid.UUID and (each.version, each.variant) == (7, uuid.RFC_4122) for each in ids)
    assert before <= ids[0].int >> 80


def test_ids_rise_though_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first, clock = new_id(), time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() - 3_600_000_000_000)
    assert new_id() > first


def test_a_lock_keeps_out_only_who_wants_the_same(owner_database: sessionmaker[Session]) -> None:
    for held, wanted in combinations((Lock.SWEEP, Lock.AUDIT, Lock.YIELD, Lock.DATA_FOLDER), 2):
        with owner_database() as one, owner_database() as other:
            assert locks.try_acquire(one, held)
            assert not locks.try_acquire(other, held)
            assert locks.try_acquire(other, wanted)


def test_the_keys_of_locks_stay(owner_database: sessionmaker[Session]) -> None:
    """A command of an older version, run by mistake beside the service, waits for it."""
    with owner_database() as session:
        for lock in Lock:
            locks.acquire(session, lock)
        locks.acquire_tenant(session, "radiology")
        locks.acquire_machine(session, "gpu-1")
        rows = session.execute(text("SELECT classid, objid, objsubid FROM pg_locks WHERE locktype = 'advisory'"))
        found = {tuple(row) for row in rows}
    service = {(0x75646967, number, 2) for number in (2, 3, 5, 6, 7, 8)} | {
        (0x75646967, number, 1) for number in (3, 4)
    }
    assert service <= found
    assert {first for first, _, _ in found - service} == {0x75646968, 0x7564696A}

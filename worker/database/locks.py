"""Advisory locks of Postgres: every lock that the service takes, in one place.

All but one are held until the transaction ends. Postgres keeps locks of one 64-bit key and locks of two 32-bit keys
apart.
"""

import hashlib
import time
from enum import IntEnum

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

SERVICE, TENANT, MACHINE = 0x75646967, 0x75646968, 0x7564696A
"""First key: locks of the whole service, of a tenant, of the workers of a machine."""


POLL_SECONDS = 0.2


class Lock(IntEnum):
    """A lock of the whole service: its second key beside SERVICE, or its only key where that has 64 bits."""

    SWEEP = 2  # one sweep of expired leases at a time
    AUDIT = 3  # one writer of the audit log at a time, as its chain of hashes has no forks
    YIELD = 5  # one worker at a time asks others to yield
    DATA_FOLDER = 6  # one process at a time gives the data folder its identity
    SLURM = 8  # one process at a time counts the batch jobs and submits what is missing
    COMPARISON = 7  # taken by a trigger: one end of a job of a comparison at a time
    MIGRATION = 0x7564696700000003  # one process migrates, those that start at once with it wait
    GRANT = 0x7564696700000004  # the same for the rights of the service's role

    @property
    def keys(self) -> tuple[int, ...]:
        """As Postgres takes them."""
        return (SERVICE, self.value) if self.value < 1 << 32 else (self.value,)


def acquire(session: Session | Connection, lock: Lock) -> None:
    """Take a lock of the service, waiting for it."""
    session.execute(select(func.pg_advisory_xact_lock(*lock.keys)))


def try_acquire(session: Session, lock: Lock) -> bool:
    """Take a lock of the service if it is free; whether it was."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(*lock.keys))))


def hold_while_connected(connection: Connection, lock: Lock) -> None:
    """Take a lock of the service for as long as the connection lives, over its transactions.

    Asked for again and again: a statement that waited for it would be waited for by who makes an index CONCURRENTLY.
    """
    while not connection.scalar(select(func.pg_try_advisory_lock(*lock.keys))):
        connection.rollback()
        time.sleep(POLL_SECONDS)
    connection.commit()


def acquire_tenant(session: Session, tenant: str) -> None:
    """Take the lock of a tenant, waiting for it."""
    session.execute(select(func.pg_advisory_xact_lock(TENANT, _hash_31_bits(tenant))))


def acquire_machine(session: Session, machine: str) -> None:
    """Take the lock of a machine's workers, waiting for it."""
    session.execute(select(func.pg_advisory_xact_lock(MACHINE, _hash_31_bits(machine))))


def acquire_content(session: Session, tenant: str, sha256: str) -> None:
    """Take the lock of a tenant's stored content, waiting for it."""
    key = hashlib.sha256(f"{tenant}/{sha256}".encode()).digest()[:8]
    session.execute(select(func.pg_advisory_xact_lock(int.from_bytes(key, signed=True))))


def _hash_31_bits(name: str) -> int:
    """Key of a name. Two names with the same key only wait for each other."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) >> 1

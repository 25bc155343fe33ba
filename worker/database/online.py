"""Online schema changes: each statement has a transaction of its own, waits briefly for its locks, and can be repeated.

A change that waits for a table's lock makes everybody wait who comes after it. So it gives up after LOCK_WAIT_SECONDS
and tries again; now and then it waits for long enough that autovacuum gives way. Indexes are made CONCURRENTLY,
constraints NOT VALID and then validated, rows changed in batches: the table is read and written meanwhile. A migration
that was interrupted is run again from its beginning, so each step leaves alone what is there already.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import OperationalError

LOCK_WAIT_SECONDS = 0.3  # that others may have to wait behind a change that waits for its lock
AUTOVACUUM_WAIT_SECONDS = 1.3  # autovacuum gives way to who has waited for deadlock_timeout, 1 s, and not before
PATIENT_EVERY = 10  # so many tries, one waits for autovacuum
PAUSE_SECONDS = 0.5  # between two tries
PATIENCE_SECONDS = 600.0  # until a change is given up: somebody does not end their transaction
BATCH_ROWS = 5000
REPEATED = ("55P03", "40P01")  # SQLSTATE: the lock was not to be had, a deadlock
INVALID = sa.text(
    "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE c.relname = :name AND NOT i.indisvalid AND pg_table_is_visible(c.oid))"
)


def change(step: Callable[..., object], *arguments: Any, **named: Any) -> None:
    """Change tables by an operation of Alembic, such as `op.add_column`, again until it gets its locks at once.

    The operation must take only a moment: it may look at no row. Raises RuntimeError after PATIENCE_SECONDS.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    for number in count(1):
        try:
            with _autocommit(LOCK_WAIT_SECONDS if number % PATIENT_EVERY else AUTOVACUUM_WAIT_SECONDS):
                step(*arguments, **named)
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in REPEATED:
                raise
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"a table could not be changed within {PATIENCE_SECONDS:.0f} s, as another transaction holds it;"
                    " pg_stat_activity shows which one; end it, then migrate again"
                ) from error
        time.sleep(PAUSE_SECONDS)


def execute(statement: str) -> None:
    """The same by a statement."""
    change(op.execute, statement)


def create_index(name: str, table: str, columns: Sequence[Any], **options: Any) -> None:
    """Create an index while the table is written. One that an interrupted run left unfinished is replaced."""
    with _autocommit():
        if not op.get_context().as_sql and op.get_bind().scalar(INVALID, {"name": name}):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.create_index(name, table, columns, postgresql_concurrently=True, if_not_exists=True, **options)


def drop_index(name: str, table: str) -> None:
    """Drop an index while the table is written."""
    with _autocommit():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)


def add_constraint(name: str, table: str, definition: str) -> None:
    """Add a CHECK or FOREIGN KEY constraint for new rows, then look at the old ones while the table is written."""
    execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name}")
    execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition} NOT VALID")
    with _autocommit():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def set_not_null(table: str, column: str) -> None:
    """Forbid nulls: a validated constraint spares the look at every row under the table's lock."""
    name = f"tmp_{table}_{column}_not_null"
    add_constraint(name, table, f"CHECK ({column} IS NOT NULL)")
    execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL")
    execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")


def change_rows(table: str, key: str, statement: str) -> None:
    """Change the rows of a table in batches, in the order of its key, each batch in a transaction of its own.

    `statement` is an UPDATE or DELETE whose condition ends with `{rows}`, in whose place the batch is put.
    """
    with _autocommit():
        if op.get_context().as_sql:
            op.execute(statement.format(rows="true"))
            return
        after = None
        while (last := _last_of_batch(table, key, after)) is not None:
            rows = f"{table}.{key} <= :last" + ("" if after is None else f" AND {table}.{key} > :after")
            bound = {"last": last} | ({} if after is None else {"after": after})
            op.get_bind().execute(sa.text(statement.format(rows=rows)), bound)
            after = last


def _last_of_batch(table: str, key: str, after: Any) -> Any:
    """Key of the last row of the next batch; None: there are no more rows."""
    column: sa.ColumnClause[Any] = sa.column(key)
    batch = sa.select(column).select_from(sa.table(table)).order_by(column).limit(BATCH_ROWS)
    rows = (batch if after is None else batch.where(column > after)).subquery()
    last = sa.select(rows.c[key]).order_by(rows.c[key].desc()).limit(1)
    return op.get_bind().scalar(last)


@contextmanager
def _autocommit(lock_wait_seconds: float = 0.0) -> Iterator[None]:
    """Statements that commit by themselves, and wait so long for locks; 0: without end."""
    with op.get_context().autocommit_block():
        op.execute(f"SET lock_timeout = {int(1000 * lock_wait_seconds)}")
        yield

"""Name tables, columns and stored JSON keys by standard terms."""

from collections.abc import Iterable

import sqlalchemy as sa
from alembic import context, op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SEEN_SECONDS = 30  # a worker that lives renews its row more often than this

TABLES = (("chunks", "job_slices"), ("tallies", "counters"))
COLUMNS = (
    ("job_slices", "leader", "reference_slice"),
    ("job_slices", "rung_at", "enqueued_at"),
    ("job_slices", "yield_asked_at", "yield_requested_at"),
    ("job_slices", "verdict", "prior_check"),
)
CONSTRAINTS = (
    ("job_slices", "pk_chunks", "pk_job_slices"),
    ("job_slices", "fk_chunks_job_id_jobs", "fk_job_slices_job_id_jobs"),
    ("counters", "pk_tallies", "pk_counters"),
)
INDEXES = (("ix_chunks_open", "ix_job_slices_open"), ("ix_chunks_queued", "ix_job_slices_queued"))
SEQUENCE = ("tallies_id_seq", "counters_id_seq")

# The bodies of functions hold names as text, so that they are written anew.
SLICE_MOVED = """
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    spent double precision;
BEGIN
    IF NEW.status = 'queued' THEN
        NEW.queued_at := now();
    ELSIF NEW.status = 'running' THEN
        NEW.claimed_at := now();
    ELSIF NEW.status = 'succeeded' THEN
        INSERT INTO {counters} (kind, amount) VALUES ('slices', 1), ('slice_seconds', NEW.seconds);
    END IF;
    IF NEW.crashes > OLD.crashes THEN
        INSERT INTO {counters} (kind, amount) VALUES ('lease_losses', 1);
    END IF;
    IF OLD.status = 'running' THEN
        spent := greatest(0, extract(epoch FROM now() - coalesce(OLD.claimed_at, now())));
        UPDATE jobs SET seconds = seconds + spent WHERE id = NEW.job_id;
        INSERT INTO compute_usage (tenant, job_id, priority, seconds)
            SELECT tenant, id, priority, spent FROM jobs WHERE id = NEW.job_id;
        NEW.{yield_requested_at} := NULL;
        IF NEW.yielded AND NOT OLD.yielded THEN
            INSERT INTO {counters} (kind, amount) VALUES ('yields', 1);
        END IF;
    END IF;
    RETURN NEW;
END $$
"""
SLICE_TRIGGER = """
CREATE TRIGGER {trigger} BEFORE UPDATE OF status ON {job_slices} FOR EACH ROW
WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION {function}()
"""
JOB_ENDED = """
CREATE OR REPLACE FUNCTION udig_job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    reason text;
BEGIN
    INSERT INTO {counters} (kind, label, amount) VALUES ('jobs', NEW.status, 1);
    IF NEW.status = 'failed' THEN
        reason := substring(NEW.error->>'type' FROM '^urn:udig-recon:problem:([a-z-]{{1,40}})$');
        INSERT INTO {counters} (kind, label, amount) VALUES ('failures', coalesce(reason, 'other'), 1);
    END IF;
    IF NEW.webhook_url IS NOT NULL THEN
        INSERT INTO webhook_deliveries (job_id, url, event) VALUES (NEW.id, NEW.webhook_url, 'job.' || NEW.status);
    END IF;
    RETURN NULL;
END $$
"""
JOB_DELETED = """
CREATE OR REPLACE FUNCTION udig_job_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO compute_usage (tenant, job_id, priority, seconds)
        SELECT OLD.tenant, OLD.id, OLD.priority, greatest(0, extract(epoch FROM now() - coalesce(claimed_at, now())))
        FROM {job_slices} WHERE job_id = OLD.id AND status = 'running';
    RETURN OLD;
END $$
"""
OLD = {
    "counters": "tallies",
    "job_slices": "chunks",
    "yield_requested_at": "yield_asked_at",
    "function": "udig_chunk_moved",
    "trigger": "chunk_moved",
}
NEW = {name: name for name in OLD} | {"function": "udig_slice_moved", "trigger": "slice_moved"}


def upgrade() -> None:
    _refuse_while_workers_run("chunks")
    op.execute("DROP TRIGGER chunk_moved ON chunks")
    op.execute("DROP FUNCTION udig_chunk_moved()")
    for old, new in TABLES:
        op.rename_table(old, new)
    for table, old, new in COLUMNS:
        op.alter_column(table, old, new_column_name=new)
    _rename_parts((table, old, new) for table, old, new in CONSTRAINTS)
    for old, new in INDEXES:
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    op.execute(f"ALTER SEQUENCE {SEQUENCE[0]} RENAME TO {SEQUENCE[1]}")
    _make_functions(NEW)
    # Messages of older versions lie in another queue: the next sweep sends new ones.
    op.execute("UPDATE job_slices SET enqueued_at = NULL WHERE status = 'queued'")


def downgrade() -> None:
    _refuse_while_workers_run("job_slices")
    op.execute("DROP TRIGGER slice_moved ON job_slices")
    op.execute("DROP FUNCTION udig_slice_moved()")
    op.execute(f"ALTER SEQUENCE {SEQUENCE[1]} RENAME TO {SEQUENCE[0]}")
    for old, new in INDEXES:
        op.execute(f"ALTER INDEX {new} RENAME TO {old}")
    _rename_parts((table, new, old) for table, old, new in CONSTRAINTS)
    for table, old, new in COLUMNS:
        op.alter_column(table, new, new_column_name=old)
    for old, new in TABLES:
        op.rename_table(new, old)
    _make_functions(OLD)
    op.execute("UPDATE chunks SET rung_at = NULL WHERE status = 'queued'")


def _rename_parts(constraints: Iterable[tuple[str, str, str]]) -> None:
    for table, old, new in constraints:
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")


def _make_functions(names: dict[str, str]) -> None:
    for statement in (SLICE_MOVED, SLICE_TRIGGER, JOB_ENDED, JOB_DELETED):
        op.execute(statement.format(**names))


def _refuse_while_workers_run(table: str) -> None:
    """Raise RuntimeError while a worker knows the tables by their other names.

    Its database calls would fail, and a slice that it computes would lose its progress. A process that alone uses the
    database has nobody to wait for.
    """
    if context.is_offline_mode() or context.config.attributes.get("alone"):
        return
    alive = sa.text("SELECT name FROM workers WHERE seen_at > now() - make_interval(secs => :seconds) ORDER BY name")
    workers = op.get_bind().scalars(alive, {"seconds": SEEN_SECONDS})
    if names := ", ".join(workers):
        raise RuntimeError(
            f"workers that cannot use the new tables are alive: {names}; stop every worker and API of the installed"
            f" version, wait {SEEN_SECONDS} s for workers that were killed, then migrate"
        )
    slices = sa.text(f"SELECT count(*) FROM {table} WHERE status = 'running' AND lease_until > now()")  # noqa: S608
    if running := op.get_bind().scalar(slices):
        raise RuntimeError(
            f"{running} slices are leased by workers that cannot use the new tables; stop those workers, or wait until"
            " their leases have run out (LEASE_SECONDS), then migrate"
        )

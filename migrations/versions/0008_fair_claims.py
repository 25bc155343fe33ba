"""Claim fairly: priorities, time limits of jobs, what each tenant has had of the workers, slices that give way.

The triggers count for every version of the worker.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CHUNK_MOVED_BEFORE = """
CREATE OR REPLACE FUNCTION udig_chunk_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status = 'queued' THEN
        NEW.queued_at := now();
    ELSIF NEW.status = 'succeeded' THEN
        INSERT INTO tallies (kind, amount) VALUES ('slices', 1), ('slice_seconds', NEW.seconds);
    END IF;
    IF NEW.crashes > OLD.crashes THEN
        INSERT INTO tallies (kind, amount) VALUES ('lease_losses', 1);
    END IF;
    RETURN NEW;
END $$
"""
# Whoever moves a chunk holds its job, so that the update of the job waits for nobody.
CHUNK_MOVED = """
CREATE OR REPLACE FUNCTION udig_chunk_moved() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    spent double precision;
BEGIN
    IF NEW.status = 'queued' THEN
        NEW.queued_at := now();
    ELSIF NEW.status = 'running' THEN
        NEW.claimed_at := now();
    ELSIF NEW.status = 'succeeded' THEN
        INSERT INTO tallies (kind, amount) VALUES ('slices', 1), ('slice_seconds', NEW.seconds);
    END IF;
    IF NEW.crashes > OLD.crashes THEN
        INSERT INTO tallies (kind, amount) VALUES ('lease_losses', 1);
    END IF;
    IF OLD.status = 'running' THEN
        spent := greatest(0, extract(epoch FROM now() - coalesce(OLD.claimed_at, now())));
        UPDATE jobs SET seconds = seconds + spent WHERE id = NEW.job_id;
        INSERT INTO compute_usage (tenant, job_id, priority, seconds)
            SELECT tenant, id, priority, spent FROM jobs WHERE id = NEW.job_id;
        NEW.yield_asked_at := NULL;
        IF NEW.yielded AND NOT OLD.yielded THEN
            INSERT INTO tallies (kind, amount) VALUES ('yields', 1);
        END IF;
    END IF;
    RETURN NEW;
END $$
"""
# What a deleted job's workers did until then is not forgotten with it.
JOB_DELETED = """
CREATE FUNCTION udig_job_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO compute_usage (tenant, job_id, priority, seconds)
        SELECT OLD.tenant, OLD.id, OLD.priority, greatest(0, extract(epoch FROM now() - coalesce(claimed_at, now())))
        FROM chunks WHERE job_id = OLD.id AND status = 'running';
    RETURN OLD;
END $$
"""


def upgrade() -> None:
    zero = sa.text("0")
    op.add_column("keys", sa.Column("max_priority", sa.SmallInteger(), server_default=zero, nullable=False))
    op.add_column("jobs", sa.Column("priority", sa.SmallInteger(), server_default=zero, nullable=False))
    op.add_column("jobs", sa.Column("max_seconds", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("seconds", sa.Float(), server_default=zero, nullable=False))
    for name in ("claimed_at", "yield_asked_at", "protected_until"):
        op.add_column("chunks", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("chunks", sa.Column("yielded", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_chunks_queued", "chunks", ["job_id", "slice"], postgresql_where=sa.text("status = 'queued'"))
    op.create_table(
        "compute_usage",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_compute_usage")),
    )
    op.create_index("ix_compute_usage_at", "compute_usage", ["at"])
    op.execute(CHUNK_MOVED)
    op.execute(JOB_DELETED)
    op.execute("CREATE TRIGGER job_deleted BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION udig_job_deleted()")


def downgrade() -> None:
    op.execute("DROP TRIGGER job_deleted ON jobs")
    op.execute("DROP FUNCTION udig_job_deleted()")
    op.execute(CHUNK_MOVED_BEFORE)
    op.drop_table("compute_usage")
    op.drop_index("ix_chunks_queued", "chunks")
    for name in ("yielded", "protected_until", "yield_asked_at", "claimed_at"):
        op.drop_column("chunks", name)
    for name in ("seconds", "max_seconds", "priority"):
        op.drop_column("jobs", name)
    op.drop_column("keys", "max_priority")

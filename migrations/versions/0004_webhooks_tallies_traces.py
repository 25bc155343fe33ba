"""File webhooks, count ends and lost leases, and keep since when a slice waits, traces and GPU memory.

The triggers see every end of a job or slice, whichever version of the service makes it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

CHUNK_MOVED = """
CREATE FUNCTION udig_chunk_moved() RETURNS trigger LANGUAGE plpgsql AS $$
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
JOB_ENDED = """
CREATE FUNCTION udig_job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    reason text;
BEGIN
    INSERT INTO tallies (kind, label, amount) VALUES ('jobs', NEW.status, 1);
    IF NEW.status = 'failed' THEN
        reason := substring(NEW.error->>'type' FROM '^urn:udig-recon:problem:([a-z-]{1,40})$');
        INSERT INTO tallies (kind, label, amount) VALUES ('failures', coalesce(reason, 'other'), 1);
    END IF;
    IF NEW.webhook_url IS NOT NULL THEN
        INSERT INTO webhook_deliveries (job_id, url, event) VALUES (NEW.id, NEW.webhook_url, 'job.' || NEW.status);
    END IF;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    now = sa.text("now()")
    op.add_column("jobs", sa.Column("traceparent", sa.String(length=55), nullable=True))
    op.add_column("workers", sa.Column("gpu", sa.String(), nullable=True))
    op.add_column("workers", sa.Column("gpu_memory_used_bytes", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("gpu_memory_total_bytes", sa.BigInteger(), nullable=True))
    op.add_column("chunks", sa.Column("queued_at", sa.DateTime(timezone=True), server_default=now, nullable=False))
    op.execute("UPDATE chunks SET queued_at = jobs.created_at FROM jobs WHERE jobs.id = chunks.job_id")
    op.create_table(
        "tallies",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=64), server_default=sa.text("''"), nullable=False),
        sa.Column("amount", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tallies")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("event", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_webhook_deliveries_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    pending, disabled = sa.text("state = 'pending'"), sa.text("state = 'disabled'")
    op.create_index("ix_webhook_deliveries_job_id", "webhook_deliveries", ["job_id"])
    op.create_index("ix_webhook_deliveries_due_at", "webhook_deliveries", ["due_at"], postgresql_where=pending)
    op.create_index("ix_webhook_deliveries_url", "webhook_deliveries", ["url"], postgresql_where=disabled)
    op.execute(CHUNK_MOVED)
    op.execute(
        "CREATE TRIGGER chunk_moved BEFORE UPDATE OF status ON chunks FOR EACH ROW"
        " WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION udig_chunk_moved()"
    )
    op.execute(JOB_ENDED)
    op.execute(
        "CREATE TRIGGER job_ended AFTER UPDATE OF status ON jobs FOR EACH ROW"
        " WHEN (OLD.status <> NEW.status AND NEW.status IN ('succeeded', 'failed', 'cancelled'))"
        " EXECUTE FUNCTION udig_job_ended()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER job_ended ON jobs")
    op.execute("DROP FUNCTION udig_job_ended()")
    op.execute("DROP TRIGGER chunk_moved ON chunks")
    op.execute("DROP FUNCTION udig_chunk_moved()")
    op.drop_table("webhook_deliveries")
    op.drop_table("tallies")
    op.drop_column("chunks", "queued_at")
    for name in ("gpu_memory_total_bytes", "gpu_memory_used_bytes", "gpu"):
        op.drop_column("workers", name)
    op.drop_column("jobs", "traceparent")

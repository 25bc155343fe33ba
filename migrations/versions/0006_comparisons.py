"""Keep comparisons, and which of them a job is filed for.

The trigger wakes who waits for a comparison, whichever version of the service moves its jobs.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COMPARISON_MOVED = """
CREATE FUNCTION udig_comparison_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('udig_jobs', NEW.comparison_id::text);
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "comparisons",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("request_sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_comparisons_key_id_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
        sa.UniqueConstraint("tenant", "idempotency_key", name="uq_comparisons_tenant_idempotency_key"),
    )
    op.create_index("ix_comparisons_expires_at", "comparisons", ["expires_at"])
    op.add_column("jobs", sa.Column("comparison_id", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("compared", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.create_foreign_key(
        op.f("fk_jobs_comparison_id_comparisons"),
        "jobs",
        "comparisons",
        ["comparison_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.create_index("ix_jobs_comparison_id", "jobs", ["comparison_id"])
    op.execute(COMPARISON_MOVED)
    op.execute(
        "CREATE TRIGGER udig_comparison_moved AFTER UPDATE OF status ON jobs FOR EACH ROW"
        " WHEN (NEW.comparison_id IS NOT NULL AND OLD.status <> NEW.status)"
        " EXECUTE FUNCTION udig_comparison_moved()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER udig_comparison_moved ON jobs")
    op.execute("DROP FUNCTION udig_comparison_moved()")
    op.drop_index("ix_jobs_comparison_id", "jobs")
    op.drop_constraint(op.f("fk_jobs_comparison_id_comparisons"), "jobs")
    op.drop_column("jobs", "compared")
    op.drop_column("jobs", "comparison_id")
    op.drop_table("comparisons")

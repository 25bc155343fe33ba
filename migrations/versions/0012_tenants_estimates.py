"""Limits of tenants, and what jobs are estimated to need."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

COUNTS = ("max_open_jobs", "max_open_slices", "max_jobs_per_day", "max_keys", "max_uploads", "max_waits")
COUNTS += ("max_requests_per_minute", "retention_days")
LARGE = ("max_compute_seconds_per_day", "max_job_seconds", "max_job_memory_bytes", "max_stored_bytes")
OPEN = sa.text("status IN ('queued', 'running')")
UNCOUNTED = sa.text("stored_bytes IS NULL AND NOT expired")
FILED = sa.text("action = 'job.filed'")


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("name", sa.String(length=63), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=True) for name in COUNTS),
        *(sa.Column(name, sa.BigInteger(), nullable=True) for name in LARGE),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
    )
    for name in ("estimated_seconds", "basis_seconds"):
        op.add_column("jobs", sa.Column(name, sa.Float(), nullable=True))
    for name in ("memory_bytes", "result_bytes", "stored_bytes"):
        op.add_column("jobs", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.create_index("ix_jobs_open", "jobs", ["tenant"], postgresql_where=OPEN)
    op.create_index("ix_jobs_uncounted", "jobs", ["finished_at"], postgresql_where=UNCOUNTED)
    op.create_index("ix_audit_filed", "audit", ["tenant", "at"], postgresql_where=FILED)


def downgrade() -> None:
    op.drop_index("ix_audit_filed", "audit")
    op.drop_index("ix_jobs_uncounted", "jobs")
    op.drop_index("ix_jobs_open", "jobs")
    for name in ("stored_bytes", "result_bytes", "memory_bytes", "basis_seconds", "estimated_seconds"):
        op.drop_column("jobs", name)
    op.drop_column("workers", "memory_bytes")
    op.drop_table("tenants")

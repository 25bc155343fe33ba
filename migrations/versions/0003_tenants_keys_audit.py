"""Give scans and jobs tenants, keys and ends; keep API keys and the audit log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OWNED = ("scans", "jobs")
ONLY_ADDED = """
CREATE FUNCTION audit_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only ever added to';
END
$$;
CREATE TRIGGER audit_is_only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_is_only_added_to();
"""


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("scopes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("previous_sha256", sa.String(length=64), nullable=True),
        sa.Column("previous_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("max_open_jobs", sa.Integer(), nullable=True),
        sa.Column("max_jobs_per_day", sa.Integer(), nullable=True),
        sa.Column("max_stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("retention_days", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_keys_sha256")),
        sa.UniqueConstraint("previous_sha256", name=op.f("uq_keys_previous_sha256")),
    )
    op.create_index("ix_keys_tenant", "keys", ["tenant"])
    for table in OWNED:
        # The default lets a process of the version before go on writing while the new one starts.
        op.add_column(table, sa.Column("tenant", sa.String(length=63), server_default="default", nullable=False))
        op.add_column(table, sa.Column("key_id", sa.Uuid(), nullable=True))
        op.add_column(table, sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
        op.create_foreign_key(op.f(f"fk_{table}_key_id_keys"), table, "keys", ["key_id"], ["id"])
        op.create_index(f"ix_{table}_expires_at", table, ["expires_at"])
    op.add_column("jobs", sa.Column("expired", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("ix_scans_key_id", "scans", ["key_id"])
    op.create_index("ix_jobs_key_id", "jobs", ["key_id", "created_at"])
    op.drop_constraint("uq_scans_sha256", "scans")
    op.create_unique_constraint("uq_scans_tenant_sha256", "scans", ["tenant", "sha256"])
    op.drop_constraint("uq_jobs_idempotency_key", "jobs")
    op.create_unique_constraint("uq_jobs_tenant_idempotency_key", "jobs", ["tenant", "idempotency_key"])
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("ids", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_actor", "audit", ["actor", "at"])
    op.execute(ONLY_ADDED)


def downgrade() -> None:
    _refuse_other_tenants()
    op.drop_table("audit")
    op.execute("DROP FUNCTION audit_is_only_added_to()")
    op.drop_constraint("uq_jobs_tenant_idempotency_key", "jobs")
    op.create_unique_constraint("uq_jobs_idempotency_key", "jobs", ["idempotency_key"])
    op.drop_constraint("uq_scans_tenant_sha256", "scans")
    op.create_unique_constraint("uq_scans_sha256", "scans", ["sha256"])
    op.drop_index("ix_jobs_key_id", "jobs")
    op.drop_index("ix_scans_key_id", "scans")
    op.drop_column("jobs", "expired")
    for table in OWNED:
        op.drop_index(f"ix_{table}_expires_at", table)
        op.drop_constraint(f"fk_{table}_key_id_keys", table)
        for column in ("expires_at", "key_id", "tenant"):
            op.drop_column(table, column)
    op.drop_table("keys")


def _refuse_other_tenants() -> None:
    """The version before would show everything to everybody."""
    tenant = sa.column("tenant")
    theirs = sa.union(*(sa.select(tenant).select_from(sa.table(name)).where(tenant != "default") for name in OWNED))
    if op.get_bind().execute(theirs).first() is not None:
        raise RuntimeError("tenants beside `default` have scans or jobs, which the version before cannot keep apart")

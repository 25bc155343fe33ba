"""Resumable uploads, and how many of them a tenant may have."""

import sqlalchemy as sa
from alembic import op

from udig_recon.worker.database import online

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

INDEXED = ("tenant", "key_id", "scan_id", "expires_at")


def upgrade() -> None:
    online.change(
        op.create_table,
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.String(length=63), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expired", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("scan_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["key_id"], ["keys.id"], name=op.f("fk_uploads_key_id_keys")),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_uploads_scan_id_scans"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        if_not_exists=True,
    )
    for name in INDEXED:
        online.create_index(f"ix_uploads_{name}", "uploads", [name])
    most = sa.Column("max_unfinished_uploads", sa.Integer(), nullable=True)
    online.change(op.add_column, "tenants", most, if_not_exists=True)


def downgrade() -> None:
    online.change(op.drop_column, "tenants", "max_unfinished_uploads", if_exists=True)
    online.change(op.drop_table, "uploads", if_exists=True)

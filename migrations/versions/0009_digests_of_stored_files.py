"""Keep the digests of what is stored, what was found damaged, and which data folder belongs to the tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "service_state",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_service_state")),
    )
    op.add_column("scans", sa.Column("damaged_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("jobs", sa.Column("result_files", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("jobs", sa.Column("damaged", postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column("chunks", sa.Column("result_sha256", sa.String(length=64), nullable=True))
    op.add_column("chunks", sa.Column("recomputed", sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    op.drop_column("chunks", "recomputed")
    op.drop_column("chunks", "result_sha256")
    op.drop_column("jobs", "damaged")
    op.drop_column("jobs", "result_files")
    op.drop_column("scans", "damaged_at")
    op.drop_table("service_state")

"""Reconstruct from several seeds, and keep what each slice is worth."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("seeds", sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("chunks", sa.Column("quality", postgresql.JSONB(astext_type=sa.Text()), nullable=True))


def downgrade() -> None:
    op.drop_column("chunks", "quality")
    op.drop_column("jobs", "seeds")

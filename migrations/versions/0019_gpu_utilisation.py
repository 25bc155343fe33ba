"""Utilisation of the GPU of a worker. A column without a default: no row is rewritten."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("gpu_utilisation_percent", sa.SmallInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "gpu_utilisation_percent")

"""Utilisation of the GPU of a worker. A column without a default: no row is rewritten."""

import sqlalchemy as sa
from alembic import op

from udig_recon.worker.database import online

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    percent = sa.Column("gpu_utilisation_percent", sa.SmallInteger(), nullable=True)
    online.change(op.add_column, "workers", percent, if_not_exists=True)


def downgrade() -> None:
    online.change(op.drop_column, "workers", "gpu_utilisation_percent", if_exists=True)

"""Let slices follow a neighbour."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chunks", sa.Column("leader", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("chunks", "leader")

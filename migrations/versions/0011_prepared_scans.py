"""Keep how large a scan's prepared form is."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("scans", sa.Column("prepared_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("scans", "prepared_bytes")

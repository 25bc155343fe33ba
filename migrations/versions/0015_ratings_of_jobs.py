"""Keep the rating of a job in its row, so that lists can be filtered by it. Workers rate the jobs of before."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

RATED = sa.text("rating IS NOT NULL")
UNRATED = sa.text("status = 'succeeded' AND rating IS NULL")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rating", sa.String(length=16), nullable=True))
    # Partial, so that lists without this filter, in the order of ids, are not read by it.
    op.create_index("ix_jobs_rating", "jobs", ["tenant", "rating", "id"], postgresql_where=RATED)
    op.create_index("ix_jobs_to_rate", "jobs", ["id"], postgresql_where=UNRATED)


def downgrade() -> None:
    op.drop_index("ix_jobs_to_rate", "jobs")
    op.drop_index("ix_jobs_rating", "jobs")
    op.drop_column("jobs", "rating")

"""Keep the rating of a job in its row, so that lists can be filtered by it. Workers rate the jobs of before."""

import sqlalchemy as sa
from alembic import op

from udig_recon.worker.database import online

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

RATED = sa.text("rating IS NOT NULL")
UNRATED = sa.text("status = 'succeeded' AND rating IS NULL")


def upgrade() -> None:
    online.change(op.add_column, "jobs", sa.Column("rating", sa.String(length=16), nullable=True), if_not_exists=True)
    # Partial, so that lists without this filter, in the order of ids, are not read by it.
    online.create_index("ix_jobs_rating", "jobs", ["tenant", "rating", "id"], postgresql_where=RATED)
    online.create_index("ix_jobs_to_rate", "jobs", ["id"], postgresql_where=UNRATED)


def downgrade() -> None:
    online.drop_index("ix_jobs_to_rate", "jobs")
    online.drop_index("ix_jobs_rating", "jobs")
    online.change(op.drop_column, "jobs", "rating", if_exists=True)

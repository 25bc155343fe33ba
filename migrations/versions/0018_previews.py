"""Services on a bucket: previews of running slices, and uploads whose parts go straight to the bucket."""

import sqlalchemy as sa
from alembic import op

from udig_recon.worker.database import online

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.change(
        op.create_table,
        "previews",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("slice", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_previews_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "slice", name=op.f("pk_previews")),
        prefixes=["UNLOGGED"],
        if_not_exists=True,
    )
    online.change(op.add_column, "uploads", sa.Column("part_bytes", sa.BigInteger(), nullable=True), if_not_exists=True)
    # They are compressed already.
    online.execute("ALTER TABLE previews ALTER COLUMN content SET STORAGE EXTERNAL")


def downgrade() -> None:
    online.change(op.drop_column, "uploads", "part_bytes", if_exists=True)
    online.change(op.drop_table, "previews", if_exists=True)

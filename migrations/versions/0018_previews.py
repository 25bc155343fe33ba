"""Services on a bucket: previews of running slices, and uploads whose parts go straight to the bucket."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "previews",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("slice", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_previews_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "slice", name=op.f("pk_previews")),
        prefixes=["UNLOGGED"],
    )
    op.add_column("uploads", sa.Column("part_bytes", sa.BigInteger(), nullable=True))
    # They are compressed already.
    op.execute("ALTER TABLE previews ALTER COLUMN content SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_column("uploads", "part_bytes")
    op.drop_table("previews")

"""Login sessions of browsers."""

import sqlalchemy as sa
from alembic import op

from udig_recon.worker.database import online

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    online.change(
        op.create_table,
        "login_sessions",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("key_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"], ["keys.id"], name=op.f("fk_login_sessions_key_id_keys"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_login_sessions")),
        if_not_exists=True,
    )
    online.create_index("ix_login_sessions_key_id", "login_sessions", ["key_id"])
    online.create_index("ix_login_sessions_expires_at", "login_sessions", ["expires_at"])


def downgrade() -> None:
    online.change(op.drop_table, "login_sessions", if_exists=True)

"""Indexes and storage for millions of jobs: lists of each tenant in their order, leases without index entries."""

import sqlalchemy as sa

from udig_recon.worker.database import online

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

# Of rows that are changed all the time a fixed number is waited for, not a share of millions of old ones.
HOT = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000"
ANALYZED = "autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05"
STORED = {
    # Room in each page for the row versions of its heartbeats, which then need no index entry.
    "job_slices": f"fillfactor = 85, {HOT}, {ANALYZED}",
    "jobs": f"fillfactor = 90, {HOT}, {ANALYZED}",
    "workers": "fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000",
    "counters": "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000",
    "compute_usage": "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000",
    "webhook_deliveries": "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000",
    "destination_deliveries": "autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000",
}
TAGS_SAMPLED = 1000  # tags of one job in a thousand are still told from rarer ones


def upgrade() -> None:
    online.create_index("ix_jobs_tenant", "jobs", ["tenant", "id"])
    online.create_index("ix_jobs_tenant_status", "jobs", ["tenant", "status", "id"])
    online.create_index("ix_jobs_method", "jobs", ["tenant", sa.text("(parameters ->> 'method')"), "id"])
    online.create_index("ix_jobs_scan", "jobs", ["scan_id", "id"])
    online.create_index("ix_jobs_to_expire", "jobs", ["expires_at"], postgresql_where=sa.text("NOT expired"))
    online.create_index("ix_jobs_expired", "jobs", ["expires_at"], postgresql_where=sa.text("expired"))
    online.create_index("ix_jobs_damaged", "jobs", ["id"], postgresql_where=sa.text("damaged IS NOT NULL"))
    running = sa.text("status = 'running'")
    online.create_index("ix_job_slices_running", "job_slices", ["job_id", "slice"], postgresql_where=running)
    for name in ("ix_jobs_status", "ix_jobs_scan_id", "ix_jobs_expires_at"):
        online.drop_index(name, "jobs")
    online.drop_index("ix_job_slices_open", "job_slices")
    for table, parameters in STORED.items():
        online.execute(f"ALTER TABLE {table} SET ({parameters})")
    online.execute(f"ALTER TABLE jobs ALTER COLUMN tags SET STATISTICS {TAGS_SAMPLED}")


def downgrade() -> None:
    online.execute("ALTER TABLE jobs ALTER COLUMN tags SET STATISTICS -1")
    for table, parameters in STORED.items():
        names = ", ".join(each.partition(" = ")[0] for each in parameters.split(", "))
        online.execute(f"ALTER TABLE {table} RESET ({names})")
    online.create_index("ix_job_slices_open", "job_slices", ["status", "lease_until"])
    online.create_index("ix_jobs_status", "jobs", ["status"])
    online.create_index("ix_jobs_scan_id", "jobs", ["scan_id"])
    online.create_index("ix_jobs_expires_at", "jobs", ["expires_at"])
    online.drop_index("ix_job_slices_running", "job_slices")
    for name in ("damaged", "expired", "to_expire", "scan", "method", "tenant_status", "tenant"):
        online.drop_index(f"ix_jobs_{name}", "jobs")

"""Destinations of jobs with their outbox; webhooks of comparisons and of the start of a job, and what they tell.

What a webhook tells of its job or comparison is kept as it was at that moment, so that each attempt has the same body.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from udig_recon.worker.database import online

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

JOB_ENDED = """
CREATE OR REPLACE FUNCTION udig_job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    reason text;
BEGIN
    INSERT INTO counters (kind, label, amount) VALUES ('jobs', NEW.status, 1);
    IF NEW.status = 'failed' THEN
        reason := substring(NEW.error->>'type' FROM '^urn:udig-recon:problem:([a-z-]{1,40})$');
        INSERT INTO counters (kind, label, amount) VALUES ('failures', coalesce(reason, 'other'), 1);
    END IF;
    IF NEW.status = 'succeeded' THEN
        INSERT INTO destination_deliveries (job_id, destination, tenant, traceparent)
            SELECT NEW.id, name, NEW.tenant, NEW.traceparent FROM jsonb_array_elements_text(NEW.destinations) AS name;
    END IF;
    IF NEW.webhook_url IS NOT NULL
        AND (NEW.webhook_events IS NULL OR jsonb_exists(NEW.webhook_events, 'job.' || NEW.status)) THEN
        INSERT INTO webhook_deliveries (job_id, tenant, traceparent, url, event, data)
            VALUES (NEW.id, NEW.tenant, NEW.traceparent, NEW.webhook_url, 'job.' || NEW.status,
                jsonb_build_object('scan_id', NEW.scan_id, 'tags', NEW.tags,
                    'rating', CASE WHEN NEW.status = 'succeeded' THEN NEW.rating END));
    END IF;
    RETURN NULL;
END $$
"""
JOB_STARTED = """
CREATE OR REPLACE FUNCTION udig_job_started() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_deliveries (job_id, tenant, traceparent, url, event, data)
        VALUES (NEW.id, NEW.tenant, NEW.traceparent, NEW.webhook_url, 'job.started',
            jsonb_build_object('scan_id', NEW.scan_id, 'tags', NEW.tags, 'rating', NULL));
    RETURN NULL;
END $$
"""
JOB_STARTED_TRIGGER = """
CREATE OR REPLACE TRIGGER job_started AFTER UPDATE OF started_at ON jobs FOR EACH ROW
WHEN (OLD.started_at IS NULL AND NEW.started_at IS NOT NULL AND NEW.webhook_url IS NOT NULL
    AND jsonb_exists(NEW.webhook_events, 'job.started'))
EXECUTE FUNCTION udig_job_started()
"""
# Asked for when the transaction commits, one at a time (`worker.database.locks.Lock.COMPARISON`): of two jobs that end
# at once neither would see the other's end. Several that end in one transaction are one end of the comparison.
COMPARISON_ENDED = """
CREATE OR REPLACE FUNCTION udig_comparison_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended record;
    open_jobs bigint;
    result text;
BEGIN
    SELECT * INTO ended FROM comparisons WHERE id = OLD.comparison_id AND webhook_url IS NOT NULL;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(1969514855, 7);
    SELECT count(*) FILTER (WHERE status IN ('queued', 'running')),
        CASE WHEN bool_or(status = 'failed') THEN 'failed'
            WHEN bool_and(status = 'succeeded') THEN 'succeeded' ELSE 'cancelled' END
        INTO open_jobs, result FROM jobs WHERE comparison_id = ended.id;
    IF open_jobs = 0 AND NOT EXISTS (
        SELECT FROM webhook_deliveries WHERE comparison_id = ended.id AND created_at = now()
    ) THEN
        INSERT INTO webhook_deliveries (comparison_id, tenant, traceparent, url, event, data)
            VALUES (ended.id, ended.tenant, OLD.traceparent, ended.webhook_url, 'comparison.' || result,
                jsonb_build_object('tags', ended.request->'tags'));
    END IF;
    RETURN NULL;
END $$
"""
COMPARISON_TRIGGERS = (
    """
CREATE CONSTRAINT TRIGGER comparison_ended AFTER UPDATE OF status ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
WHEN (OLD.comparison_id IS NOT NULL AND OLD.status <> NEW.status
    AND NEW.status IN ('succeeded', 'failed', 'cancelled'))
EXECUTE FUNCTION udig_comparison_ended()
""",
    """
CREATE CONSTRAINT TRIGGER comparison_left AFTER DELETE ON jobs DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
WHEN (OLD.comparison_id IS NOT NULL AND OLD.status IN ('queued', 'running'))
EXECUTE FUNCTION udig_comparison_ended()
""",
)
JOB_ENDED_BEFORE = """
CREATE OR REPLACE FUNCTION udig_job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    reason text;
BEGIN
    INSERT INTO counters (kind, label, amount) VALUES ('jobs', NEW.status, 1);
    IF NEW.status = 'failed' THEN
        reason := substring(NEW.error->>'type' FROM '^urn:udig-recon:problem:([a-z-]{1,40})$');
        INSERT INTO counters (kind, label, amount) VALUES ('failures', coalesce(reason, 'other'), 1);
    END IF;
    IF NEW.webhook_url IS NOT NULL THEN
        INSERT INTO webhook_deliveries (job_id, url, event) VALUES (NEW.id, NEW.webhook_url, 'job.' || NEW.status);
    END IF;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    now, default_tenant = sa.text("now()"), sa.text("'default'")
    add_column("jobs", sa.Column("destinations", JSONB(), server_default=sa.text("'[]'"), nullable=False))
    add_column("jobs", sa.Column("webhook_events", JSONB(), nullable=True))
    add_column("comparisons", sa.Column("webhook_url", sa.String(), nullable=True))
    online.change(op.alter_column, "webhook_deliveries", "job_id", nullable=True)
    tenant = sa.Column("tenant", sa.String(length=63), server_default=default_tenant, nullable=False)
    add_column("webhook_deliveries", tenant)
    add_column("webhook_deliveries", sa.Column("traceparent", sa.String(length=55), nullable=True))
    add_column("webhook_deliveries", sa.Column("data", JSONB(), nullable=True))
    add_column("webhook_deliveries", sa.Column("comparison_id", sa.Uuid(), nullable=True))
    online.add_constraint(
        "fk_webhook_deliveries_comparison_id_comparisons",
        "webhook_deliveries",
        "FOREIGN KEY (comparison_id) REFERENCES comparisons (id) ON DELETE CASCADE",
    )
    online.create_index("ix_webhook_deliveries_comparison_id", "webhook_deliveries", ["comparison_id"])
    online.change(
        op.create_table,
        "destination_deliveries",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("destination", sa.String(length=63), nullable=False),
        sa.Column("tenant", sa.String(length=63), server_default=default_tenant, nullable=False),
        sa.Column("traceparent", sa.String(length=55), nullable=True),
        sa.Column("state", sa.String(length=16), server_default=sa.text("'pending'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_destination_deliveries_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_destination_deliveries")),
        if_not_exists=True,
    )
    pending = sa.text("state = 'pending'")
    online.create_index("ix_destination_deliveries_job_id", "destination_deliveries", ["job_id"])
    online.create_index(
        "ix_destination_deliveries_due_at", "destination_deliveries", ["due_at"], postgresql_where=pending
    )
    # A constraint trigger cannot be replaced.
    for name in ("comparison_left", "comparison_ended"):
        online.execute(f"DROP TRIGGER IF EXISTS {name} ON jobs")
    for statement in (JOB_ENDED, JOB_STARTED, JOB_STARTED_TRIGGER, COMPARISON_ENDED, *COMPARISON_TRIGGERS):
        online.execute(statement)
    # After the trigger's function, which fills both columns from now on.
    online.change_rows(
        "webhook_deliveries",
        "id",
        "UPDATE webhook_deliveries SET tenant = jobs.tenant, traceparent = jobs.traceparent"
        " FROM jobs WHERE jobs.id = webhook_deliveries.job_id AND {rows}",
    )


def downgrade() -> None:
    for name in ("comparison_left", "comparison_ended", "job_started"):
        online.execute(f"DROP TRIGGER IF EXISTS {name} ON jobs")
    online.execute("DROP FUNCTION IF EXISTS udig_comparison_ended()")
    online.execute("DROP FUNCTION IF EXISTS udig_job_started()")
    online.execute(JOB_ENDED_BEFORE)
    online.change(op.drop_table, "destination_deliveries", if_exists=True)
    # The version before reads the status of a job in the name of the event.
    online.change_rows(
        "webhook_deliveries",
        "id",
        "DELETE FROM webhook_deliveries WHERE (job_id IS NULL OR event = 'job.started') AND {rows}",
    )
    online.drop_index("ix_webhook_deliveries_comparison_id", "webhook_deliveries")
    for name in ("comparison_id", "data", "traceparent", "tenant"):
        online.change(op.drop_column, "webhook_deliveries", name, if_exists=True)
    online.set_not_null("webhook_deliveries", "job_id")
    online.change(op.drop_column, "comparisons", "webhook_url", if_exists=True)
    online.change(op.drop_column, "jobs", "webhook_events", if_exists=True)
    online.change(op.drop_column, "jobs", "destinations", if_exists=True)


def add_column(table: str, column: sa.Column[Any]) -> None:
    online.change(op.add_column, table, column, if_not_exists=True)

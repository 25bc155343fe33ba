"""Name tables, columns, keys and values of stored JSON by standard terms.

Texts that were stored for people stay as they were written: reasons of ratings, warnings, details of problems.
"""

import json
from collections.abc import Iterable

import sqlalchemy as sa
from alembic import context, op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

SEEN_SECONDS = 30  # a worker that lives renews its row more often than this

TABLES = (("chunks", "job_slices"), ("tallies", "counters"))
COLUMNS = (
    ("job_slices", "leader", "reference_slice"),
    ("job_slices", "rung_at", "enqueued_at"),
    ("job_slices", "yield_asked_at", "yield_requested_at"),
    ("job_slices", "verdict", "prior_check"),
)
CONSTRAINTS = (
    ("job_slices", "pk_chunks", "pk_job_slices"),
    ("job_slices", "fk_chunks_job_id_jobs", "fk_job_slices_job_id_jobs"),
    ("counters", "pk_tallies", "pk_counters"),
)
INDEXES = (("ix_chunks_open", "ix_job_slices_open"), ("ix_chunks_queued", "ix_job_slices_queued"))
SEQUENCE = ("tallies_id_seq", "counters_id_seq")

# The bodies of functions hold names as text, so that they are written anew.
SLICE_MOVED = """
CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    spent double precision;
BEGIN
    IF NEW.status = 'queued' THEN
        NEW.queued_at := now();
    ELSIF NEW.status = 'running' THEN
        NEW.claimed_at := now();
    ELSIF NEW.status = 'succeeded' THEN
        INSERT INTO {counters} (kind, amount) VALUES ('slices', 1), ('slice_seconds', NEW.seconds);
    END IF;
    IF NEW.crashes > OLD.crashes THEN
        INSERT INTO {counters} (kind, amount) VALUES ('lease_losses', 1);
    END IF;
    IF OLD.status = 'running' THEN
        spent := greatest(0, extract(epoch FROM now() - coalesce(OLD.claimed_at, now())));
        UPDATE jobs SET seconds = seconds + spent WHERE id = NEW.job_id;
        INSERT INTO compute_usage (tenant, job_id, priority, seconds)
            SELECT tenant, id, priority, spent FROM jobs WHERE id = NEW.job_id;
        NEW.{yield_requested_at} := NULL;
        IF NEW.yielded AND NOT OLD.yielded THEN
            INSERT INTO {counters} (kind, amount) VALUES ('yields', 1);
        END IF;
    END IF;
    RETURN NEW;
END $$
"""
SLICE_TRIGGER = """
CREATE TRIGGER {trigger} BEFORE UPDATE OF status ON {job_slices} FOR EACH ROW
WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION {function}()
"""
JOB_ENDED = """
CREATE OR REPLACE FUNCTION udig_job_ended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    reason text;
BEGIN
    INSERT INTO {counters} (kind, label, amount) VALUES ('jobs', NEW.status, 1);
    IF NEW.status = 'failed' THEN
        reason := substring(NEW.error->>'type' FROM '^urn:udig-recon:problem:([a-z-]{{1,40}})$');
        INSERT INTO {counters} (kind, label, amount) VALUES ('failures', coalesce(reason, 'other'), 1);
    END IF;
    IF NEW.webhook_url IS NOT NULL THEN
        INSERT INTO webhook_deliveries (job_id, url, event) VALUES (NEW.id, NEW.webhook_url, 'job.' || NEW.status);
    END IF;
    RETURN NULL;
END $$
"""
JOB_DELETED = """
CREATE OR REPLACE FUNCTION udig_job_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO compute_usage (tenant, job_id, priority, seconds)
        SELECT OLD.tenant, OLD.id, OLD.priority, greatest(0, extract(epoch FROM now() - coalesce(claimed_at, now())))
        FROM {job_slices} WHERE job_id = OLD.id AND status = 'running';
    RETURN OLD;
END $$
"""
OLD = {
    "counters": "tallies",
    "job_slices": "chunks",
    "yield_requested_at": "yield_asked_at",
    "function": "udig_chunk_moved",
    "trigger": "chunk_moved",
}
NEW = {name: name for name in OLD} | {"function": "udig_slice_moved", "trigger": "slice_moved"}

# Keys of JSON objects, old -> new.
PARAMETERS = {
    "held_out": "holdout",
    "held_out_share": "holdout_share",
    "earliest_share": "min_progress",
    "patience_share": "patience",
    "fresh_noise": "stochasticity",
    "last_noisy_level": "noise_until",
}
PARAMETERS_OF_ES_DIP = PARAMETERS | {"patience": "variance_patience"}
METRICS = {
    "spread": "seed_std",
    "updates": "optimizer_steps",
    "prior_calls": "prior_evaluations",
    "output_variance": "iterate_variance",
}
PRIOR_CHECK = {
    "chosen": "selected",
    "prior_share": "prior_weight",
    "strangeness": "ood_score",
    "leader": "reference_slice",
}
QUALITY = {"verdict": "rating"}
# Values of one key, old -> new.
SELECTED = {"mixed": "blend"}
RATING = {"unjudged": "unrated"}
TITLE = {
    "The input is wrong": "Unprocessable Content",
    "Disk full": "Insufficient Storage",
    "The worker was lost": "Worker lost",
    "The time limit was reached": "Time limit reached",
    "The scan's file is missing": "Scan file missing",
    "A stored file is damaged": "Stored file damaged",
    "The service failed": "Internal Server Error",
}
RENAME_KEYS = """
CREATE FUNCTION udig_rename_keys(object jsonb, names jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(coalesce(names ->> key, key), value), '{}') FROM jsonb_each(object)
$$
"""
RENAME_PARAMETERS = """
CREATE FUNCTION udig_rename_parameters(parameters jsonb, names jsonb, of_es_dip jsonb)
RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT udig_rename_keys(parameters, CASE parameters ->> 'method' WHEN 'es_dip' THEN of_es_dip ELSE names END)
$$
"""


def upgrade() -> None:
    _refuse_while_workers_run("chunks")
    op.execute("DROP TRIGGER chunk_moved ON chunks")
    op.execute("DROP FUNCTION udig_chunk_moved()")
    for old, new in TABLES:
        op.rename_table(old, new)
    for table, old, new in COLUMNS:
        op.alter_column(table, old, new_column_name=new)
    _rename_parts((table, old, new) for table, old, new in CONSTRAINTS)
    for old, new in INDEXES:
        op.execute(f"ALTER INDEX {old} RENAME TO {new}")
    op.execute(f"ALTER SEQUENCE {SEQUENCE[0]} RENAME TO {SEQUENCE[1]}")
    _make_functions(NEW)
    _rename_stored_json(backwards=False)
    # Messages of older versions lie in another queue: the next sweep sends new ones.
    op.execute("UPDATE job_slices SET enqueued_at = NULL WHERE status = 'queued'")


def downgrade() -> None:
    _refuse_while_workers_run("job_slices")
    op.execute("DROP TRIGGER slice_moved ON job_slices")
    op.execute("DROP FUNCTION udig_slice_moved()")
    op.execute(f"ALTER SEQUENCE {SEQUENCE[1]} RENAME TO {SEQUENCE[0]}")
    for old, new in INDEXES:
        op.execute(f"ALTER INDEX {new} RENAME TO {old}")
    _rename_parts((table, new, old) for table, old, new in CONSTRAINTS)
    for table, old, new in COLUMNS:
        op.alter_column(table, new, new_column_name=old)
    for old, new in TABLES:
        op.rename_table(new, old)
    _make_functions(OLD)
    _rename_stored_json(backwards=True)
    op.execute("UPDATE chunks SET rung_at = NULL WHERE status = 'queued'")


def _rename_parts(constraints: Iterable[tuple[str, str, str]]) -> None:
    for table, old, new in constraints:
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {old} TO {new}")


def _make_functions(names: dict[str, str]) -> None:
    for statement in (SLICE_MOVED, SLICE_TRIGGER, JOB_ENDED, JOB_DELETED):
        op.execute(statement.format(**names))


def _rename_stored_json(*, backwards: bool) -> None:
    if backwards:
        slices, prior_check, selected, rating = "chunks", "verdict", "selected", "rating"
    else:
        slices, prior_check, selected, rating = "job_slices", "prior_check", "chosen", "verdict"
    op.execute(RENAME_KEYS)
    op.execute(RENAME_PARAMETERS)
    names, of_es_dip = _as_json(PARAMETERS, backwards), _as_json(PARAMETERS_OF_ES_DIP, backwards)
    op.execute(f"UPDATE jobs SET parameters = udig_rename_parameters(parameters, {names}, {of_es_dip})")  # noqa: S608
    renamed = f"udig_rename_parameters(method -> 'parameters', {names}, {of_es_dip})"
    op.execute(f"""
        UPDATE comparisons SET request = jsonb_set(request, '{{methods}}', (
            SELECT coalesce(jsonb_agg(jsonb_set(method, '{{parameters}}', {renamed}) ORDER BY place), '[]')
            FROM jsonb_array_elements(request -> 'methods') WITH ORDINALITY AS each (method, place)
        )) WHERE jsonb_typeof(request -> 'methods') = 'array'
    """)  # noqa: S608
    # Values come first, while their keys have the names of before.
    _rename_values(slices, prior_check, selected, SELECTED, backwards)
    _rename_values(slices, "quality", rating, RATING, backwards)
    _rename_values("jobs", "error", "title", TITLE, backwards)
    _rename_keys(slices, prior_check, PRIOR_CHECK, backwards)
    _rename_keys(slices, "quality", QUALITY, backwards)
    _rename_keys(slices, "metrics", METRICS, backwards)
    _rename_keys("jobs", "metrics", METRICS, backwards)
    op.execute("DROP FUNCTION udig_rename_parameters(jsonb, jsonb, jsonb)")
    op.execute("DROP FUNCTION udig_rename_keys(jsonb, jsonb)")


def _rename_keys(table: str, column: str, names: dict[str, str], backwards: bool) -> None:
    """Rename keys of the objects in a JSON column."""
    renamed = f"udig_rename_keys({column}, {_as_json(names, backwards)})"
    op.execute(f"UPDATE {table} SET {column} = {renamed} WHERE jsonb_typeof({column}) = 'object'")  # noqa: S608


def _rename_values(table: str, column: str, key: str, values: dict[str, str], backwards: bool) -> None:
    """Rename values of one key of the objects in a JSON column."""
    names, value = _as_json(values, backwards), f"{column} ->> '{key}'"
    renamed = f"jsonb_set({column}, '{{{key}}}', {names} -> ({value}))"
    op.execute(f"UPDATE {table} SET {column} = {renamed} WHERE jsonb_exists({names}, {value})")  # noqa: S608


def _as_json(names: dict[str, str], backwards: bool) -> str:
    """The names as an SQL expression of type jsonb; `backwards`: new -> old."""
    pairs = {new: old for old, new in names.items()} if backwards else names
    literal = json.dumps(pairs).replace("'", "''")
    return f"CAST('{literal}' AS jsonb)"


def _refuse_while_workers_run(table: str) -> None:
    """Raise RuntimeError while a worker knows the tables by their other names.

    Its database calls would fail, and a slice that it computes would lose its progress. A process that alone uses the
    database has nobody to wait for.
    """
    if context.is_offline_mode() or context.config.attributes.get("alone"):
        return
    alive = sa.text("SELECT name FROM workers WHERE seen_at > now() - make_interval(secs => :seconds) ORDER BY name")
    workers = op.get_bind().scalars(alive, {"seconds": SEEN_SECONDS})
    if names := ", ".join(workers):
        raise RuntimeError(
            f"workers that cannot use the new tables are alive: {names}; stop every worker and API of the installed"
            f" version, wait {SEEN_SECONDS} s for workers that were killed, then migrate"
        )
    slices = sa.text(f"SELECT count(*) FROM {table} WHERE status = 'running' AND lease_until > now()")  # noqa: S608
    if running := op.get_bind().scalar(slices):
        raise RuntimeError(
            f"{running} slices are leased by workers that cannot use the new tables; stop those workers, or wait until"
            " their leases have run out (LEASE_SECONDS), then migrate"
        )

"""Tables of a service that has run for a year: so many jobs, with their slices, webhooks, audit log and usage.

Rows are made by Postgres itself, in the proportions that a service has: 96 of 100 jobs succeeded, one tenant owns half
of them, the newest 5,000 wait. Foreign keys and triggers are left out meanwhile: each row is as they would have it.
"""

import re
import time

from sqlalchemy import Engine, text

from benchmarks.scale.servers import superuser_engine

OPEN_JOBS = 5000
PART = 250_000
SCANS = 20_000
TENANT = """
CASE WHEN n % 20 < 10 THEN 'large' WHEN n % 20 < 14 THEN 'second' WHEN n % 20 < 16 THEN 'third'
WHEN n % 20 < 18 THEN 'leaving' WHEN n % 20 < 19 THEN 'fifth' ELSE 'small-' || n / 20 % 50 END
"""
# UUIDv7: 48 bits of milliseconds, then the number.
ID = """
(lpad(to_hex((extract(epoch FROM {at}) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex({n} % 4096), 3, '0') || '8' ||
lpad(to_hex({n}), 15, '0'))::uuid
"""
AT = "now() - interval '365 days' * (1 - {n}::float8 / {jobs})"
STATUS = """
CASE WHEN n >= {jobs} - {open} THEN 'queued' WHEN n % 100 < 96 THEN 'succeeded' WHEN n % 100 < 99 THEN 'failed'
ELSE 'cancelled' END
"""
PARAMETERS = """
CASE n % 10 WHEN 0 THEN '{"method": "fbp", "filter": "ramp"}'::jsonb WHEN 1 THEN '{"method": "cg_sense"}'::jsonb ELSE
'{"method": "udig_dip", "preset": "standard", "outer_iterations": 100, "holdout_share": 0.02}'::jsonb
END
"""
JOBS = """
INSERT INTO jobs (id, tenant, scan_id, status, parameters, outputs, slices, seed, tags, metrics, rating, versions,
    result, estimated_seconds, basis_seconds, memory_bytes, result_bytes, stored_bytes, seconds, created_at, started_at,
    finished_at, expires_at, expired)
SELECT id, tenant, scan, status, parameters, '["h5"]', CASE WHEN n % 50 = 0 THEN '[0, 1, 2, 3, 4, 5]'::jsonb
    ELSE '[0]'::jsonb END, n, tags,
    CASE WHEN done THEN '{"data_residual": 0.0123, "psnr": null, "ssim": null}'::jsonb END,
    CASE WHEN done THEN (ARRAY['good', 'good', 'check', 'poor', 'unrated'])[1 + n % 5] END,
    CASE WHEN done THEN '{"software": "udig-recon 0.4.0", "torch": "2.7.0", "device": "NVIDIA H200"}'::jsonb END,
    CASE WHEN done THEN 'jobs/' || id || '/result-1' END, 30, 300, 4000000000, 2000000,
    CASE WHEN status <> 'queued' THEN 1500000 END, 25, at, CASE WHEN status <> 'queued' THEN at END,
    CASE WHEN status <> 'queued' THEN at + interval '30 s' END,
    CASE WHEN tenant = 'leaving' THEN now() - interval '31 days' ELSE now() + interval '400 days' END,
    tenant = 'leaving' AND status <> 'queued'
FROM (
    SELECT n, {at} AS at, {id} AS id, {tenant} AS tenant, {status} AS status, {status} = 'succeeded' AS done,
        {scan} AS scan, {parameters} AS parameters,
        jsonb_build_object('site', (n % 8)::text, 'study', (n / 300)::text)
        || CASE WHEN n % 1000000 = 7 THEN '{"rare": "1"}'::jsonb ELSE '{}'::jsonb END AS tags
    FROM generate_series({first}, {last}) AS n
) AS each
"""
SLICES = """
INSERT INTO job_slices (job_id, slice, status, attempt, queued_at, enqueued_at, claimed_at, worker, iteration,
    iterations, seconds, metrics, prior_check, quality, started_at, finished_at)
SELECT id, slice::int, status, CASE WHEN status = 'queued' THEN 0 ELSE 1 END, created_at, created_at,
    CASE WHEN status <> 'queued' THEN created_at END, CASE WHEN status <> 'queued' THEN 'node-7:123:abcdef01' END,
    CASE WHEN status <> 'queued' THEN 100 ELSE 0 END, 100, seconds, metrics,
    CASE WHEN rating IS NOT NULL THEN '{"selected": "udig_dip", "out_of_distribution": false}'::jsonb
    END, CASE WHEN rating IS NOT NULL THEN jsonb_build_object('rating', rating, 'reasons', '[]'::jsonb) END,
    started_at, finished_at
FROM jobs, jsonb_array_elements(slices) AS slice WHERE seed BETWEEN {first} AND {last} AND id BETWEEN {low} AND {high}
"""
WEBHOOKS = """
INSERT INTO webhook_deliveries (job_id, tenant, url, event, state, attempts, created_at, delivered_at)
SELECT id, tenant, 'https://ris.example.org/hook', 'job.' || status, 'delivered', 1, finished_at, finished_at
FROM jobs WHERE id BETWEEN {low} AND {high} AND seed % 10 = 0 AND finished_at IS NOT NULL
"""
SNAPSHOTS = """
INSERT INTO snapshots (job_id, seq, slice, iteration, iterations, data_residual, seconds, created_at)
SELECT id, step, 0, step * 10, 100, 0.1 / step, step * 2.5, created_at
FROM jobs, generate_series(1, 10) AS step WHERE id BETWEEN {low} AND {high} AND seed % 20 = 0
    AND finished_at IS NOT NULL
"""
AUDIT = """
INSERT INTO audit (seq, at, actor, tenant, action, ids, hash)
SELECT seed + 1, created_at, 'open', tenant, 'job.filed', jsonb_build_object('job', id), repeat('0', 64)
FROM jobs WHERE id BETWEEN {low} AND {high}
"""
SCANS_ROWS = """
INSERT INTO scans (id, tenant, sha256, filename, size_bytes, header, created_at)
SELECT {id}, {tenant}, lpad(to_hex(n), 64, '0'), 'scan.h5', 5000000, '{"modality": "mri", "slices": 6}', now()
FROM generate_series(0, {scans} - 1) AS n
"""


def fill(url: str, jobs: int) -> list[str]:
    """Fill the tables of a migrated database; lines of a Markdown table of how long it took."""
    engine = superuser_engine(url)
    lines = ["| step | s |", "|---|---|"]
    began = time.monotonic()
    try:
        indexes = _drop_indexes(engine)
        epoch = "'2020-01-01'::timestamptz"
        scan = _sql(ID, at=epoch, n=f"(n % {SCANS})")
        of_scan = _sql(ID, at=epoch, n="n")
        _run(engine, _sql(SCANS_ROWS, id=of_scan, tenant=TENANT, scans=SCANS))
        for first in range(0, jobs, PART):
            last = min(first + PART, jobs) - 1
            known = {"jobs": jobs, "open": OPEN_JOBS}
            at = _sql(AT, n="n", **known)
            low, high = (_sql(ID, at=_sql(AT, n=n, jobs=jobs), n=n) for n in (first, last))
            parts = {
                "first": first,
                "last": last,
                "at": at,
                "id": _sql(ID, at=at, n="n"),
                "tenant": TENANT,
                "status": _sql(STATUS, **known),
                "scan": scan,
                "parameters": PARAMETERS,
                "low": low,
                "high": high,
            }
            # In one transaction, so that now() is the same in all ids.
            _run(engine, *(_sql(each, **parts) for each in (JOBS, SLICES, WEBHOOKS, SNAPSHOTS, AUDIT)))
        lines.append(f"| rows of {jobs:,} jobs | {time.monotonic() - began:.0f} |")
        began = time.monotonic()
        for index in indexes:
            _run(engine, index)
        lines.append(f"| indexes | {time.monotonic() - began:.0f} |")
        began = time.monotonic()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE)"))
            connection.execute(text("CHECKPOINT"))
        lines.append(f"| VACUUM ANALYZE | {time.monotonic() - began:.0f} |")
    finally:
        engine.dispose()
    return lines


def _drop_indexes(engine: Engine) -> list[str]:
    """Drop the indexes of the large tables that are no keys; the statements that make them again."""
    asked = text(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename IN"
        " ('jobs', 'job_slices', 'webhook_deliveries', 'audit') AND indexname LIKE 'ix%'"
    )
    with engine.begin() as connection:
        found = connection.execute(asked).all()
        for name, _ in found:
            connection.execute(text(f"DROP INDEX {name}"))
    return [definition for _, definition in found]


def _run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("SET LOCAL synchronous_commit = off"))
        connection.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
        for statement in statements:
            connection.execute(text(statement))


def _sql(template: str, **parts: object) -> str:
    """The template with `{name}` replaced; other braces are JSON."""
    return re.sub(r"\{(\w+)\}", lambda found: str(parts[found[1]]), template)

"""Independent witness: database triggers that record every claim, accepted result and snapshot."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

TRIGGERS = """
CREATE SCHEMA witness;
CREATE TABLE witness.claims (job_id uuid, slice int, attempt int, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE witness.slices (job_id uuid, slice int, attempt int, file text);
CREATE TABLE witness.results (job_id uuid, folder text);
CREATE TABLE witness.snapshots (job_id uuid, seq bigint, slice int, iteration int, seconds float, attempt int);

CREATE FUNCTION witness.claimed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
  INSERT INTO witness.claims VALUES (NEW.job_id, NEW.slice, NEW.attempt); RETURN NULL; END $$;
CREATE TRIGGER claimed AFTER UPDATE OF attempt ON job_slices FOR EACH ROW
  WHEN (NEW.attempt > OLD.attempt) EXECUTE FUNCTION witness.claimed();

CREATE FUNCTION witness.stored() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
  INSERT INTO witness.slices VALUES (NEW.job_id, NEW.slice, NEW.attempt, NEW.result); RETURN NULL; END $$;
CREATE TRIGGER stored AFTER UPDATE OF result ON job_slices FOR EACH ROW
  WHEN (NEW.result IS NOT NULL AND NEW.result IS DISTINCT FROM OLD.result) EXECUTE FUNCTION witness.stored();

CREATE FUNCTION witness.succeeded() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
  INSERT INTO witness.results VALUES (NEW.id, NEW.result); RETURN NULL; END $$;
CREATE TRIGGER succeeded AFTER UPDATE OF result ON jobs FOR EACH ROW
  WHEN (NEW.result IS DISTINCT FROM OLD.result) EXECUTE FUNCTION witness.succeeded();

CREATE FUNCTION witness.told() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
  INSERT INTO witness.snapshots SELECT NEW.job_id, NEW.seq, NEW.slice, NEW.iteration, NEW.seconds, attempt
    FROM job_slices WHERE job_id = NEW.job_id AND slice = NEW.slice; RETURN NULL; END $$;
CREATE TRIGGER told AFTER INSERT ON snapshots FOR EACH ROW EXECUTE FUNCTION witness.told();
"""
# The file of a slice is called `<slice>.<attempt>.npz`.
STALE_SLICES = """
SELECT count(*) FROM witness.slices
WHERE split_part(regexp_replace(file, '.*/', ''), '.', 2)::int <> attempt
"""
DOUBLED_SLICES = "SELECT count(*) FROM (SELECT FROM witness.slices GROUP BY job_id, slice HAVING count(*) > 1) AS found"
ACCEPTED = "SELECT job_id::text, count(*) FROM witness.results GROUP BY job_id"
# Within one attempt a slice only goes on, and what was told once is not told again.
DOUBLED_SNAPSHOTS = """
SELECT count(*) - count(DISTINCT (job_id, slice, attempt, iteration)) FROM witness.snapshots
"""
GAPS = """
SELECT count(*) FROM (
  SELECT FROM snapshots JOIN jobs ON jobs.id = snapshots.job_id GROUP BY jobs.id, last_seq
  HAVING count(*) <> last_seq OR min(seq) <> 1 OR max(seq) <> last_seq
) AS found
"""
LATER_CLAIM = """
SELECT min(at) FROM witness.claims WHERE job_id = CAST(:job_id AS uuid) AND slice = :slice AND attempt > :attempt
"""


class Account(NamedTuple):
    """What the witness saw."""

    accepted: dict[str, int]  # results by job
    stale_slices: int
    doubled_slices: int
    doubled_snapshots: int
    snapshot_gaps: int
    claims: int


def install(engine: Engine) -> None:
    """Watch from now on."""
    with engine.begin() as connection:
        connection.exec_driver_sql(TRIGGERS)


def account(session: Session) -> Account:
    """All that was seen so far."""
    counts = (STALE_SLICES, DOUBLED_SLICES, DOUBLED_SNAPSHOTS, GAPS, "SELECT count(*) FROM witness.claims")
    accepted = {str(job): int(count) for job, count in session.execute(text(ACCEPTED))}
    return Account(accepted, *(int(session.scalar(text(query)) or 0) for query in counts))


def claimed_again(session: Session, job_id: str, slice_: int, attempt: int) -> datetime | None:
    """When the slice was claimed after this attempt."""
    found: datetime | None = session.scalar(text(LATER_CLAIM), {"job_id": job_id, "slice": slice_, "attempt": attempt})
    return found

"""Submission of a job for a scan, whichever door both came by."""

import hashlib
import json
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from udig_recon.api.access.authentication import Caller
from udig_recon.api.dependencies import Context
from udig_recon.api.destinations.validation import FORMAT, check_destinations
from udig_recon.api.http.problems import Forbidden
from udig_recon.api.jobs import queries
from udig_recon.api.jobs.schemas import JobOptions, JobOut
from udig_recon.api.jobs.validation import estimate_job, slices_of, time_limit
from udig_recon.api.webhooks import delivery
from udig_recon.worker.access.keys import priority_name, priority_value
from udig_recon.worker.access.limits import PriorityName
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.database.tables import Priority, Scan
from udig_recon.worker.jobs.lifecycle import JobRequest
from udig_recon.worker.jobs.service import Submitted
from udig_recon.worker.telemetry import tracing


def submit(
    context: Context, caller: Caller, session: Session, scan: Scan, asked: JobOptions, key: str | None, *, brought: bool
) -> Submitted[JobOut]:
    """Check a job against scan, limits and priors, and submit it; `brought`: its scan came with it.

    Raises problems, errors of the engine and those of `lifecycle.submit`.
    """
    delivery.check_webhook_url(context.settings, asked.webhook_url)
    check_destinations(context, caller.tenant, asked.destinations)
    limits = limits_of(session, caller.tenant, context.settings)
    outputs = list(dict.fromkeys([*asked.outputs, *([FORMAT] if asked.destinations else [])]))
    task = estimate_job(context, session, scan, asked, outputs, limits)
    job = JobRequest(
        scan=scan,
        method=task.method,
        outputs=outputs,
        slices=slices_of(scan, asked.slices),
        seed=asked.seed,
        seeds=asked.seeds,
        priority=_priority(caller, asked.priority),
        max_seconds=time_limit(limits, asked.max_seconds),
        tags=asked.tags,
        webhook_url=asked.webhook_url,
        webhook_events=asked.webhook_events,
        destinations=asked.destinations,
        traceparent=tracing.current(),
        idempotency_key=key,
        request_sha256=_fingerprint(scan, asked),
        task=task,
    )
    read = partial(queries.read_job, session, caller.tenant)
    return context.jobs.submit(session, job, caller.submitter(context, limits), read, scan_uploaded=brought)


def _priority(caller: Caller, asked: PriorityName) -> Priority:
    """The requested priority, up to the one that the key allows. Raises Forbidden."""
    priority = priority_value(asked)
    if caller.key is not None and priority > caller.key.max_priority:
        most = priority_name(caller.key.max_priority)
        raise Forbidden(f"priority: jobs of this key may be {most} (max_priority), not {asked}")
    return priority


def _fingerprint(scan: Scan, asked: JobOptions) -> str:
    """Hash of the request, for its idempotency key; the spelling of the JSON does not matter."""
    asked_for: dict[str, Any] = asked.model_dump(mode="json", exclude={"scan_id"})
    asked_for |= {"scan": scan.sha256, "parameters": asked.parameters.model_dump(mode="json", exclude_unset=True)}
    # Left out where they are what they were before there were such: keys of then find their jobs.
    later: dict[str, Any] = {"priority": "routine", "max_seconds": None, "destinations": [], "webhook_events": None}
    for name, default in later.items():
        if asked_for[name] == default:
            del asked_for[name]
    return hashlib.sha256(json.dumps(asked_for, sort_keys=True).encode()).hexdigest()

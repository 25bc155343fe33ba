"""`udig keys`: create, list, rotate and revoke API keys."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_jsonable_python
from sqlalchemy.orm import Session

from udig_recon.worker.access import audit, quotas
from udig_recon.worker.access import keys as stored_keys
from udig_recon.worker.access.limits import TENANT, NewKey
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.cli.session import (
    Refused,
    operator,
    option_name,
    refused_option,
)
from udig_recon.worker.database.tables import Key
from udig_recon.worker.jobs import lifecycle
from udig_recon.worker.settings import Settings

HIDDEN = ("sha256", "previous_sha256")


def create_key(
    session: Session, settings: Settings, tenant: str, name: str, scopes: Sequence[str], **limits: Any
) -> tuple[Key, str]:
    """A new key and its secret, committed. `limits` are the fields of `NewKey`. Raises Refused."""
    if not stored_keys.is_tenant(tenant):
        raise Refused(f"--tenant: {tenant!r} does not match {TENANT}")
    try:
        wanted = NewKey.model_validate({"name": name, "scopes": list(scopes), **limits})
    except ValidationError as error:
        raise refused_option(error) from None
    of_tenant = limits_of(session, tenant, settings)
    if (beyond := stored_keys.beyond(wanted, of_tenant)) is not None:
        field, _, most = beyond
        raise Refused(f"{option_name(field)}: tenant {tenant} has {most}, and a key of it no more")
    try:
        quotas.check_keys(session, tenant, of_tenant)
    except quotas.QuotaReached as error:
        raise Refused(str(error)) from None
    key, secret = stored_keys.make(session, tenant, wanted)
    _record(session, key, "key.created")
    return key, secret


def list_keys(session: Session, tenant: str | None = None) -> list[dict[str, Any]]:
    """All keys, or those of a tenant, as JSON without their hashes."""
    columns = [column.key for column in Key.__table__.columns if column.key not in HIDDEN]
    return [
        to_jsonable_python({column: getattr(key, column) for column in columns})
        for key in stored_keys.of_tenant(session, tenant)
    ]


def rotate_key(session: Session, key_id: uuid.UUID, overlap: timedelta) -> tuple[Key, str]:
    """The key with a new secret, committed; the old secret is accepted for `overlap` longer. Raises Refused."""
    key = _existing(session, key_id)
    try:
        secret = stored_keys.rotate(session, key, overlap)
    except stored_keys.KeyNotUsable as error:
        raise Refused(str(error)) from None
    _record(session, key, "key.rotated")
    return key, secret


def revoke_key(session: Session, key_id: uuid.UUID, *, cancel_jobs: bool = False) -> Key:
    """The key, refused from now on; its open jobs go on unless they are cancelled. Committed. Raises Refused."""
    key = _existing(session, key_id)
    stored_keys.revoke(session, key)
    cancelled = lifecycle.cancel_of_key(session, key.id) if cancel_jobs else []
    audit.extend(session, operator(key.tenant), "job.cancelled", [{"job": job_id} for job_id in cancelled])
    _record(session, key, "key.revoked")
    return key


def _existing(session: Session, key_id: uuid.UUID) -> Key:
    key = stored_keys.one(session, key_id)
    if key is None:
        raise Refused(f"there is no key {key_id}")
    return key


def _record(session: Session, key: Key, action: str) -> None:
    """Append the action to the audit log and commit both: a secret is shown only once it is valid."""
    audit.append(session, operator(key.tenant), action, key=key.id)
    session.commit()

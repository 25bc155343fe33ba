"""API keys: creation, lookup by SHA-256, rotation and revocation. A secret is shown once and never stored."""

import hashlib
import re
import secrets
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from udig_recon.worker.access.limits import KEPT_LIMITS, TENANT, KeyLimits, NewKey, PriorityName, TenantLimits
from udig_recon.worker.access.tenants import AT_THE_DOOR
from udig_recon.worker.database.engine import notify_key
from udig_recon.worker.database.tables import Key, LoginSession, Priority, Tenant

PREFIX = "udig_"  # secret scanners recognise leaked keys by it
USE_IS_TOLD_AGAIN = timedelta(minutes=1)


def priority_name(stored: int) -> str:
    """The name of a stored priority."""
    return Priority(stored).name.lower()


def priority_value(name: PriorityName) -> Priority:
    """The stored value of a priority."""
    return Priority[name.upper()]


class KeyNotUsable(Exception):
    """The key was revoked or has expired."""


def make(session: Session, tenant: str, wanted: NewKey, maker: Key | None = None) -> tuple[Key, str]:
    """Create a key: its row and its secret. It expires no later than the key `maker`."""
    secret = _fresh()
    row = wanted.model_dump(exclude={"scopes", "expires_days", "max_priority"})
    row["max_priority"] = priority_value(wanted.max_priority)
    own_end = None if wanted.expires_days is None else func.now() + timedelta(days=wanted.expires_days)
    ends = [end for end in (own_end, None if maker is None else maker.expires_at) if end is not None]
    scopes = list(dict.fromkeys(scope.value for scope in wanted.scopes))
    key = Key(
        tenant=tenant, sha256=hash_secret(secret), scopes=scopes, expires_at=func.least(*ends) if ends else None, **row
    )
    session.add(key)
    session.flush()
    session.refresh(key)
    return key, secret


def beyond(wanted: KeyLimits, limits: TenantLimits) -> tuple[str, int, int] | None:
    """The first limit of a wanted key above its tenant's: its name, what is wanted and what may be; None: none is."""
    for name in KEPT_LIMITS:
        asked, most = getattr(wanted, name), getattr(limits, name)
        # What is kept for longer than the tenant's goes when that says.
        if name != "retention_days" and asked is not None and most is not None and asked > most:
            return name, asked, most
    return None


def laxer(key: Key, than: Key) -> str | None:
    """The first limit in which a key may have more than another, or live longer; None: in none."""
    for name in (*KEPT_LIMITS, "max_priority", "expires_at"):
        its, most = getattr(key, name), getattr(than, name)
        if most is not None and (its is None or its > most):
            return name
    return None


class Recognised(NamedTuple):
    """A valid key, what was set for its tenant, and whether its last use was noted so long ago that this should be."""

    key: Key
    tenants: dict[str, int | None]  # limits of AT_THE_DOOR; None: the default
    use_is_due: bool


def remember_use(session: Session, key_id: uuid.UUID) -> None:
    """Note that the key was used now, unless another did within the last minute."""
    session.execute(update(Key).where(Key.id == key_id, _use_is_due()).values(last_used_at=func.now()))


def _use_is_due() -> ColumnElement[bool]:
    return or_(Key.last_used_at.is_(None), Key.last_used_at < func.now() - USE_IS_TOLD_AGAIN)


def _opens(digest: ColumnElement[str]) -> ColumnElement[bool]:
    return or_(Key.sha256 == digest, (Key.previous_sha256 == digest) & (Key.previous_until > func.now()))


def _usable() -> ColumnElement[bool]:
    return Key.revoked_at.is_(None) & or_(Key.expires_at.is_(None), Key.expires_at > func.now())


_OF_TENANT = "tenants_"
_KEY = select(
    *Key.__table__.c,
    *(getattr(Tenant, name).label(_OF_TENANT + name) for name in AT_THE_DOOR),
    _use_is_due().label("use_is_due"),
).outerjoin(Tenant, Tenant.name == Key.tenant)
VALID = _KEY.where(_opens(bindparam("sha256")), _usable())
"""Query for the valid key whose secret has this hash; its time reveals nothing about stored keys."""
VALID_LOGIN = _KEY.join(LoginSession, LoginSession.key_id == Key.id).where(
    LoginSession.sha256 == bindparam("sha256"),
    LoginSession.expires_at > func.now(),
    _opens(LoginSession.__table__.c.key_sha256),
    _usable(),
)
"""Query for the valid key of the login whose cookie has this hash. It ends when the secret that opened it does."""


def recognise_key(row: Any) -> Recognised:
    """A row of VALID or VALID_LOGIN as objects."""
    columns = row._asdict()
    tenants = {name: columns.pop(_OF_TENANT + name) for name in AT_THE_DOOR}
    return Recognised(use_is_due=columns.pop("use_is_due"), tenants=tenants, key=Key(**columns))


def of_tenant(
    session: Session, tenant: str | None, after: uuid.UUID | None = None, limit: int | None = None
) -> Sequence[Key]:
    """The keys of a tenant, or of all, oldest first; so many `after` one."""
    query = select(Key).order_by(Key.id).limit(limit)
    query = query if after is None else query.where(Key.id > after)
    return session.scalars(query if tenant is None else query.where(Key.tenant == tenant)).all()


def one(session: Session, key_id: uuid.UUID, tenant: str | None = None) -> Key | None:
    """A key by its id, for a change; of this tenant, where one is named."""
    query = select(Key).where(Key.id == key_id).with_for_update()
    return session.scalars(query if tenant is None else query.where(Key.tenant == tenant)).one_or_none()


def rotate(session: Session, key: Key, overlap: timedelta) -> str:
    """A new secret for the key; the one before is taken for `overlap` longer. Everything else stays.

    Raises KeyNotUsable for a revoked or expired key, whose new secret would be refused.
    """
    if not session.scalar(select(Key.id).where(Key.id == key.id, _usable())):
        state = "expired" if key.revoked_at is None else "revoked"
        raise KeyNotUsable(f"key {key.id} is {state}, and a new secret would not change that; create a new key")
    secret = _fresh()
    key.previous_sha256, key.previous_until = (key.sha256, func.now() + overlap) if overlap else (None, None)
    key.sha256 = hash_secret(secret)
    session.flush()
    notify_key(session, key.id)
    return secret


def revoke(session: Session, key: Key) -> None:
    """Refuse the key from now on; what goes on for it ends within seconds. Its row stays: the audit log names it."""
    key.revoked_at = key.revoked_at or func.now()
    session.flush()
    notify_key(session, key.id)


def is_tenant(name: str) -> bool:
    """Whether this is a valid name of a tenant; it also names folders."""
    return re.fullmatch(TENANT, name) is not None


def hash_secret(secret: str) -> str:
    """The stored hash of a secret. A secret has 256 random bits, so a fast hash is as safe as a slow one."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _fresh() -> str:
    return PREFIX + secrets.token_urlsafe(32)

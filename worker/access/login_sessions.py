"""Login sessions of browsers: a key opens one, and a cookie with a random secret stands for it until it ends."""

import secrets
import uuid
from datetime import timedelta

from sqlalchemy import delete, func
from sqlalchemy.orm import Session

from udig_recon.worker.access.keys import hash_secret
from udig_recon.worker.database.engine import notify_key
from udig_recon.worker.database.tables import LoginSession

LIFETIME = timedelta(hours=12)


def open_login(session: Session, key_id: uuid.UUID, key_sha256: str) -> str:
    """Add a session of the key whose secret has this hash; gives the secret of its cookie, which is stored nowhere."""
    secret = secrets.token_urlsafe(32)
    row = LoginSession(
        sha256=hash_secret(secret), key_id=key_id, key_sha256=key_sha256, expires_at=func.now() + LIFETIME
    )
    session.add(row)
    session.flush()
    return secret


def close_login(session: Session, sha256: str) -> uuid.UUID | None:
    """End the session whose cookie has this hash, and what goes on for it; gives its key, None where there is none."""
    ended = delete(LoginSession).where(LoginSession.sha256 == sha256).returning(LoginSession.key_id)
    key_id = session.scalars(ended).one_or_none()
    if key_id is not None:
        notify_key(session, key_id)
    return key_id


def delete_expired(session: Session) -> None:
    """Delete the rows of sessions that have ended by themselves."""
    session.execute(delete(LoginSession).where(LoginSession.expires_at < func.now()))

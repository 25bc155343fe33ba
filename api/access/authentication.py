"""Authentication by API key, or by the cookie of a login: the caller of a request with its tenant, scopes and limits.

Another tenant's resource answers exactly as one that does not exist.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from udig_recon.api.database.async_queries import AsyncQuery
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.problems import Forbidden, QuotaExceeded, Unauthenticated
from udig_recon.worker.access import keys, quotas
from udig_recon.worker.access.audit import Who
from udig_recon.worker.access.limits import Scope, TenantLimits
from udig_recon.worker.access.tenants import effective
from udig_recon.worker.database.tables import DEFAULT_TENANT, Key
from udig_recon.worker.jobs.lifecycle import Submitter
from udig_recon.worker.settings import Settings

OPEN = "open"  # actor in the audit log while authentication is off
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_VALID = AsyncQuery(keys.VALID)
_VALID_LOGIN = AsyncQuery(keys.VALID_LOGIN)
_BEARER = HTTPBearer(auto_error=False, scheme_name="key", description="an API key, `udig_...`")


@dataclass(frozen=True)
class Caller:
    """The caller of a request. Without authentication it belongs to the default tenant and may do everything."""

    tenant: str = DEFAULT_TENANT
    key: Key | None = None
    secret_sha256: str = ""  # of the key, or of the cookie of its login
    by_cookie: bool = False
    tenants: Mapping[str, int | None] = field(default_factory=dict)  # its limits of AT_THE_DOOR; None: the default

    @property
    def who(self) -> Who:
        """As the audit log names it."""
        return Who(self.tenant, OPEN if self.key is None else quotas.actor(self.key))

    def retention_days(self, context: Context) -> int | None:
        """How long what it makes is kept; None: until it is deleted."""
        own = None if self.key is None else self.key.retention_days
        if own is None:
            return self.limits(context.settings).retention_days or None
        return min(own, self.tenants.get("retention_days") or own)

    def submitter(self, context: Context, limits: TenantLimits) -> Submitter:
        """Who submits jobs, with the limits of the tenant as they are now."""
        return Submitter(
            who=self.who,
            max_open_jobs=context.settings.max_open_jobs,
            key=self.key,
            limits=limits,
            retention_days=self.retention_days(context),
        )

    def limits(self, settings: Settings) -> TenantLimits:
        """What its tenant may do, as far as the API process looks at it by itself."""
        return effective(settings, self.tenants)


async def _caller(
    request: Request,
    context: ContextDep,
    needed: SecurityScopes,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Caller:
    if not context.settings.authenticates:
        _refuse_other_sites(request, context.settings)
        caller = Caller()
    else:
        caller = await _recognise_request(context, request, given)
        request.state.client = f"tenant:{caller.tenant}"  # see api/http/concurrency.py
        _check_rates(context, caller)
    request.state.caller = caller
    if caller.key is not None and (missing := set(needed.scopes) - set(caller.key.scopes)):
        scope = " ".join(sorted(missing))
        challenge = {"WWW-Authenticate": f'Bearer realm="udig-recon", error="insufficient_scope", scope="{scope}"'}
        raise Forbidden(f"this key lacks the scope {scope}", headers=challenge)
    return caller


def _refuse_other_sites(request: Request, settings: Settings) -> None:
    """Without keys any page in a browser of this machine could post here; those of CORS_ORIGINS may."""
    origin = request.headers.get("origin")
    if (
        origin is not None
        and origin.lower() not in settings.origins
        and not _is_of(origin, request.headers.get("host", ""))
    ):
        raise Forbidden("a page of another site may not use this service without a key")


def check_same_origin(request: Request) -> None:
    """Refuse a change by cookie unless a browser says that a page of this service asks for it (CSRF).

    Every browser sends `Origin` with a change, and `Sec-Fetch-Site` where the connection is encrypted or loopback.
    """
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own_site = site in (None, "same-origin")
    own_origin = origin is None or _is_of(origin, request.headers.get("host", ""))
    if not (own_site and own_origin) or (site is None and origin is None):
        raise Forbidden("only a page of this service may change something by the cookie of a login; send an API key")


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def cookie_name(request: HTTPConnection) -> str:
    """The name of the login's cookie; over TLS no other host of the domain can set one of that name."""
    return "__Host-udig_login" if request.url.scheme == "https" else "udig_login"


async def _recognise_request(context: Context, request: Request, given: HTTPAuthorizationCredentials | None) -> Caller:
    """The caller by the key that came with the request, or else by its cookie. Raises Unauthenticated and Forbidden."""
    if given is not None:
        return await recognise(context, given.credentials)
    cookie = request.cookies.get(cookie_name(request))
    if cookie is None:
        challenge = {"WWW-Authenticate": 'Bearer realm="udig-recon"'}
        raise Unauthenticated("send an API key as `Authorization: Bearer udig_...`", headers=challenge)
    check_same_origin(request)
    return await _recognise(context, cookie, by_cookie=True)


async def recognise(context: Context, secret: str) -> Caller:
    """The caller who shows this secret, with its valid key and what was set for its tenant. Raises Unauthenticated."""
    return await _recognise(context, secret, by_cookie=False)


async def _recognise(context: Context, secret: str, *, by_cookie: bool) -> Caller:
    digest = keys.hash_secret(secret)
    row = await context.queries.one(_VALID_LOGIN if by_cookie else _VALID, sha256=digest)
    if row is None:
        raise ended_login() if by_cookie else invalid_key()
    found = keys.recognise_key(row)
    if found.use_is_due:
        await run_in_threadpool(_remember_use, context, found.key)
    return Caller(found.key.tenant, found.key, digest, by_cookie, found.tenants)


def ended_login() -> Unauthenticated:
    """The problem of a cookie whose login has ended."""
    challenge = {"WWW-Authenticate": 'Bearer realm="udig-recon", error="invalid_token"'}
    return Unauthenticated("this login has ended; log in again", headers=challenge)


def invalid_key() -> Unauthenticated:
    """The problem of an unknown, revoked or expired key."""
    challenge = {"WWW-Authenticate": 'Bearer realm="udig-recon", error="invalid_token"'}
    return Unauthenticated("this API key is unknown, revoked or expired", headers=challenge)


def _remember_use(context: Context, key: Key) -> None:
    with context.sessions.begin() as session:
        keys.remember_use(session, key.id)


def _check_rates(context: Context, caller: Caller) -> None:
    of_tenant = caller.limits(context.settings).max_requests_per_minute
    of_key = None if caller.key is None else (caller.key.id, caller.key.max_requests_per_minute)
    for who, whose in (("key", of_key), ("tenant", (caller.tenant, of_tenant))):
        if whose is None or (most := whose[1]) is None:
            continue
        if seconds := context.rate_limiter.wait(whose[0], most):
            headers = {"Retry-After": str(math.ceil(seconds))}
            text = f"this {who} may make {most} requests a minute (max_requests_per_minute)"
            raise QuotaExceeded(text, headers=headers)


async def key_is_valid(context: Context, caller: Caller) -> bool:
    """Whether the key or the login of a long-lived request is still valid."""
    query = _VALID_LOGIN if caller.by_cookie else _VALID
    return caller.key is None or await context.queries.one(query, sha256=caller.secret_sha256) is not None


Visitor = Annotated[Caller, Security(_caller, scopes=[])]
Reader = Annotated[Caller, Security(_caller, scopes=[Scope.READ.value])]
Writer = Annotated[Caller, Security(_caller, scopes=[Scope.WRITE.value])]
Admin = Annotated[Caller, Security(_caller, scopes=[Scope.ADMIN.value])]


def record_access(context: Context, caller: Caller, action: str, **ids: object) -> None:
    """Write an entry of the audit log for a read."""
    context.audit.note(caller.who, action, **ids)

"""Login by API key and logout: a cookie stands for the key for 12 hours, or until the key or the login ends."""

import math
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.authentication import (
    Caller,
    check_same_origin,
    cookie_name,
    recognise,
)
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.concurrency import client_of
from udig_recon.api.http.json_body import check_content_type, read_limited
from udig_recon.api.http.problems import Invalid, Unauthenticated
from udig_recon.api.pages.rendering import LOGIN, PageRoute, page, safe_path
from udig_recon.worker.access import audit, keys
from udig_recon.worker.access.login_sessions import LIFETIME, close_login, open_login

router = APIRouter(include_in_schema=False, route_class=PageRoute)
FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 8
ATTEMPTS_PER_MINUTE = 20
"""Logins that one address may try, right or wrong; each API process counts by itself."""


@router.get(LOGIN)
async def show_login(
    request: Request, context: ContextDep, next_: Annotated[str, Query(alias="next")] = "/"
) -> Response:
    """The login; without authentication, and after it, there is none."""
    back = safe_path(next_)
    if not context.settings.authenticates:
        return RedirectResponse(back, 303)
    return page(request, "login.html", back=back, wrong=None)


@router.post(LOGIN)
async def log_in(request: Request, context: ContextDep) -> Response:
    """Open a session for the key of the form, and go on to where the form says."""
    check_same_origin(request)
    check_content_type(request, "a login", FORM)
    form = _parse_form(await read_limited(request, "a login"))
    back = safe_path(form.get("next", ["/"])[0])
    if not context.settings.authenticates:
        return RedirectResponse(back, 303)
    if seconds := context.rate_limiter.wait(f"login:{client_of(request)}", ATTEMPTS_PER_MINUTE):
        wait = math.ceil(seconds)
        wrong = f"too many logins were tried from here; try again in {wait} s"
        return page(request, "login.html", status=429, headers={"Retry-After": str(wait)}, back=back, wrong=wrong)
    try:
        caller = await recognise(context, form.get("key", [""])[0].strip())
    except Unauthenticated as problem:
        return page(request, "login.html", status=401, headers=problem.headers, back=back, wrong=str(problem))
    secret = await run_in_threadpool(_open, context, caller, request.cookies.get(cookie_name(request)))
    answer = RedirectResponse(back, 303, {"Cache-Control": "no-store"})
    answer.set_cookie(
        cookie_name(request),
        secret,
        max_age=int(LIFETIME.total_seconds()),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def _parse_form(body: bytes) -> dict[str, list[str]]:
    """Values of the form by field. Raises Invalid where it has too many: nobody has shown a key yet."""
    try:
        return parse_qs(body.decode("utf-8", "replace"), max_num_fields=MOST_FIELDS)
    except ValueError:
        expected = "key and next"
        raise Invalid.at(
            "body", "a login has two fields", found=f"more than {MOST_FIELDS}", expected=expected
        ) from None


def _open(context: Context, caller: Caller, earlier: str | None) -> str:
    """The secret of a new session; one that the browser had before ends."""
    assert caller.key is not None  # noqa: S101  # it was recognised by its secret
    with context.sessions.begin() as session:
        if earlier is not None:
            close_login(session, keys.hash_secret(earlier))
        secret = open_login(session, caller.key.id, caller.secret_sha256)
        audit.append(session, caller.who, "login.opened", key=caller.key.id)
    return secret


@router.post("/logout")
async def log_out(request: Request, context: ContextDep) -> Response:
    """End the session of the cookie, whatever went on for it, and show the login."""
    check_same_origin(request)
    cookie = request.cookies.get(cookie_name(request))
    if cookie is not None:
        await run_in_threadpool(_close, context, cookie)
    answer = RedirectResponse(LOGIN if context.settings.authenticates else "/", 303, {"Cache-Control": "no-store"})
    answer.delete_cookie(cookie_name(request), secure=request.url.scheme == "https", httponly=True, samesite="strict")
    return answer


def _close(context: Context, cookie: str) -> None:
    with context.sessions.begin() as session:
        key_id = close_login(session, keys.hash_secret(cookie))
        if key_id is not None:
            key = keys.one(session, key_id)
            tenant = "" if key is None else key.tenant
            audit.append(session, audit.Who(tenant, f"key:{key_id}"), "login.closed", key=key_id)

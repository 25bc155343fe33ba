"""Endpoints of API keys of the caller's tenant: create, list, rotate, revoke. `udig keys` creates a first key."""

import uuid
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from udig_recon.api.access.authentication import Admin, Caller
from udig_recon.api.access.schemas import KeyMade, KeyOut
from udig_recon.api.dependencies import Context, ContextDep
from udig_recon.api.http.json_body import json_body, request_body
from udig_recon.api.http.pagination import Page, PageDep, page_response
from udig_recon.api.http.problems import Conflict, Forbidden, Invalid, NotFound
from udig_recon.api.openapi.responses import responses
from udig_recon.worker.access import audit, keys, quotas
from udig_recon.worker.access.keys import KeyNotUsable, priority_name, priority_value
from udig_recon.worker.access.limits import KEPT_LIMITS, NewKey
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.database.tables import Key

router = APIRouter(tags=["keys"])
NEVER_STORED = {"Cache-Control": "no-store"}


@router.post(
    "/v1/keys",
    status_code=201,
    summary="Create an API key",
    response_model=KeyMade,
    responses=responses({201: KeyMade}, 413, 415, 422, 503),
    openapi_extra=request_body(NewKey),
)
async def create_key(
    context: ContextDep, caller: Admin, wanted: Annotated[NewKey, json_body(NewKey, "a key")]
) -> Response:
    """The key is in this answer and nowhere else. Its limits are at most those of the key that makes it."""
    return await run_in_threadpool(_make, context, caller, wanted)


def _make(context: Context, caller: Caller, wanted: NewKey) -> Response:
    if caller.key is not None:
        wanted = _within(caller.key, wanted)
    with context.sessions.begin() as session:
        limits = limits_of(session, caller.tenant, context.settings)
        if (beyond := keys.beyond(wanted, limits)) is not None:
            name, asked, most = beyond
            detail = f"this tenant has {most}, and a key of it may have no more"
            raise Invalid.at(name, detail, found=str(asked), expected=f"at most {most}")
        quotas.check_keys(session, caller.tenant, limits)
        key, secret = keys.make(session, caller.tenant, wanted, caller.key)
        audit.append(session, caller.who, "key.created", key=key.id)
    return _key_response(key, secret, 201)


def _within(maker: Key, wanted: NewKey) -> NewKey:
    """What is wanted, with the maker's limits where it names none. Raises Invalid where it wants more."""
    mine = {name: getattr(maker, name) for name in KEPT_LIMITS}
    for name, most in mine.items():
        asked = getattr(wanted, name)
        if most is not None and asked is not None and asked > most:
            raise Invalid.at(name, f"this key has {most} itself", found=str(asked), expected=f"at most {most}")
    if priority_value(wanted.max_priority) > maker.max_priority:
        most_urgent = priority_name(maker.max_priority)
        detail = f"this key has {most_urgent} itself"
        raise Invalid.at("max_priority", detail, found=wanted.max_priority, expected=f"at most {most_urgent}")
    return wanted.model_copy(update={name: getattr(wanted, name) or most for name, most in mine.items()})


@router.get(
    "/v1/keys",
    summary="List API keys",
    response_model=Page[KeyOut],
    responses=responses({200: Page[KeyOut]}, 304, 422, 503),
)
def list_keys(
    request: Request,
    context: ContextDep,
    caller: Admin,
    page: PageDep,
) -> Response:
    """All keys that the tenant ever had, oldest first, without the keys themselves."""
    with context.sessions() as session:
        found, next_cursor = page.split(keys.of_tenant(session, caller.tenant, page.after, page.limit + 1))
    return page_response(request, Page(items=[KeyOut.model_validate(key) for key in found], next_cursor=next_cursor))


@router.post(
    "/v1/keys/{key_id}/rotate",
    summary="Rotate an API key",
    response_model=KeyMade,
    responses=responses({200: KeyMade}, 404, 409, 422, 503),
)
def rotate_key(
    context: ContextDep,
    caller: Admin,
    key_id: uuid.UUID,
    overlap_minutes: Annotated[int, Query(ge=0, le=10_080, description="how long the old one is taken too")] = 0,
) -> Response:
    """A new secret for the same key; id, scopes, limits and what it has made stay. It may have no more than yours."""
    with context.sessions.begin() as session:
        key = _one(session, caller, key_id)
        if caller.key is not None and (laxer := keys.laxer(key, caller.key)):
            raise Forbidden(f"key {key_id} may have more than this one ({laxer}), which would get that by its secret")
        try:
            secret = keys.rotate(session, key, timedelta(minutes=overlap_minutes))
        except KeyNotUsable as error:
            raise Conflict(str(error)) from error
        audit.append(session, caller.who, "key.rotated", key=key_id)
    return _key_response(key, secret, 200)


@router.delete(
    "/v1/keys/{key_id}", status_code=204, summary="Revoke an API key", responses=responses({}, 204, 404, 422, 503)
)
def revoke_key(context: ContextDep, caller: Admin, key_id: uuid.UUID) -> Response:
    """From now on it is refused; what it has made stays."""
    with context.sessions.begin() as session:
        keys.revoke(session, _one(session, caller, key_id))
        audit.append(session, caller.who, "key.revoked", key=key_id)
    return Response(status_code=204)


def _one(session: Session, caller: Caller, key_id: uuid.UUID) -> Key:
    key = keys.one(session, key_id, caller.tenant)
    if key is None:
        raise NotFound(f"there is no key {key_id}; GET /v1/keys lists those there are")
    return key


def _key_response(key: Key, secret: str, status: int) -> Response:
    body = KeyMade.model_validate({**KeyOut.model_validate(key).model_dump(), "key": secret})
    return Response(body.model_dump_json(), status, NEVER_STORED, "application/json")

"""Endpoint of the caller's tenant: its limits and usage. Operators set the limits."""

from fastapi import APIRouter, Request, Response

from udig_recon.api.access.authentication import Reader
from udig_recon.api.access.schemas import TenantOut, UsageOut
from udig_recon.api.dependencies import ContextDep
from udig_recon.api.http.concurrency import client_of
from udig_recon.api.http.conditional import json_with_etag
from udig_recon.api.openapi.responses import responses
from udig_recon.worker.access import quotas
from udig_recon.worker.access.tenants import limits_of

router = APIRouter(tags=["tenants"])


@router.get(
    "/v1/tenant",
    summary="Your tenant's limits and usage",
    response_model=TenantOut,
    responses=responses({200: TenantOut}, 304, 503),
)
def get_tenant(request: Request, context: ContextDep, caller: Reader) -> Response:
    """Over all its keys; a key may have tighter limits of its own."""
    with context.sessions() as session:
        limits = limits_of(session, caller.tenant, context.settings)
        used = quotas.usage(session, caller.tenant)
    client, room = client_of(request), context.concurrency
    here = {
        "uploads": room.uploads.count_held(client),
        "waits": room.streams.count_held(client) + room.polls.count_held(client),
    }
    usage = UsageOut.model_validate({**used, **here})
    return json_with_etag(request, TenantOut(tenant=caller.tenant, limits=limits, usage=usage))

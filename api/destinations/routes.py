"""GET /v1/destinations: the archives that the caller's jobs may name."""

from fastapi import APIRouter, Request, Response

from udig_recon.api.access.authentication import Reader
from udig_recon.api.dependencies import ContextDep
from udig_recon.api.destinations.schemas import DestinationOut
from udig_recon.api.http.conditional import json_with_etag
from udig_recon.api.http.pagination import Page
from udig_recon.api.openapi.responses import responses

router = APIRouter(tags=["destinations"])


@router.get(
    "/v1/destinations",
    summary="Archives that jobs may name",
    response_model=Page[DestinationOut],
    responses=responses({200: Page[DestinationOut]}, 304),
)
def list_destinations(request: Request, context: ContextDep, caller: Reader) -> Response:
    """Names for `destinations` of a job. What they mean stands in the operator's file and is not told."""
    allowed = [
        DestinationOut(name=name, kind=each.kind, identifiers=each.identifiers)
        for name, each in context.destinations.items()
        if each.allows(caller.tenant)
    ]
    return json_with_etag(request, Page(items=allowed))

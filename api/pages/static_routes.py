"""The route of the pages' static files."""

from fastapi import APIRouter, Request, Response

from udig_recon.api.http.conditional import etag_of, not_modified
from udig_recon.api.http.problems import NotFound
from udig_recon.api.pages.rendering import assets

router = APIRouter(include_in_schema=False)
FOREVER = "public, max-age=31536000, immutable"


@router.get("/static/{version}/{name:path}")
def get_asset(request: Request, version: str, name: str) -> Response:
    """A static file; it may be kept for ever where the address has the version of its content."""
    known = assets()
    if name not in known:
        raise NotFound(f"there is no file {name}")
    asset = known[name]
    etag = etag_of(asset.content)
    headers = {
        "ETag": etag,
        "Vary": "Accept-Encoding",
        "Cache-Control": FOREVER if version == known.version else "no-cache",
    }
    if not_modified(request, etag):
        return Response(status_code=304, headers=headers)
    accepted = {each.partition(";")[0].strip() for each in request.headers.get("accept-encoding", "").split(",")}
    if "gzip" in accepted and (smaller := asset.compressed) is not None:
        return Response(smaller, 200, {**headers, "Content-Encoding": "gzip"}, asset.media_type)
    return Response(asset.content, 200, headers, asset.media_type)

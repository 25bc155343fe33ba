"""Cross-origin requests (CORS): pages of the origins that CORS_ORIGINS names may use the API with a key of theirs.

Cookies are never taken from them: no answer allows credentials.
"""

from collections.abc import Collection
from typing import Any

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-Modified-Since",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Range",
    "Repr-Digest",
    "Traceparent",
    "Tus-Resumable",
    "Upload-Checksum",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "X-Filename",
)
ANSWER_HEADERS = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Last-Modified",
    "Link",
    "Location",
    "Repr-Digest",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "WWW-Authenticate",
)
"""What a page may read of an answer, beside what every page may."""
PREFLIGHT_SECONDS = 600


def options(origins: Collection[str]) -> dict[str, Any]:
    """Arguments of Starlette's CORSMiddleware for these origins."""
    return {
        "allow_origins": sorted(origins),
        "allow_methods": METHODS,
        "allow_headers": REQUEST_HEADERS,
        "expose_headers": ANSWER_HEADERS,
        "allow_credentials": False,
        "max_age": PREFLIGHT_SECONDS,
    }

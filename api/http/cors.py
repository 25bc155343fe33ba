"""Cross-origin requests (CORS): pages of the origins that CORS_ORIGINS names may use the API with a key of theirs.

Cookies are never taken from them: no answer allows credentials.
"""

from collections.abc import Collection
from typing import Any

from udig_recon.api.uploads import protocol

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")
REQUEST_HEADERS = (
    *protocol.REQUEST_HEADERS,
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
    "X-Filename",
)
ANSWER_HEADERS = (
    *protocol.RESPONSE_HEADERS,
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Last-Modified",
    "Link",
    "Repr-Digest",
    "Retry-After",
    "WWW-Authenticate",
    "Window-Levels",
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

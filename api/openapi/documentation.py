"""The interactive page of the API, `/docs` (Swagger UI), from files that a package brings along.

It loads nothing from other hosts and runs under the policy of all pages: no inline script, no inline style.
Redoc cannot do that, for it writes its styles into the page; `/redoc` leads to the same page.
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from udig_recon.api.webhooks.events import ComparisonWebhookEvent, WebhookEvent

ASSETS_URL = "/docs/assets"
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>uDiG Recon: API</title>
<link rel="icon" href="{ASSETS_URL}/favicon.png">
<link rel="stylesheet" href="{ASSETS_URL}/swagger-ui.css">
</head>
<body>
<noscript>This page needs JavaScript; <a href="/openapi.json">the OpenAPI document</a> does not.</noscript>
<div id="page"></div>
<script src="{ASSETS_URL}/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null
});
"""
OPTIONS: Mapping[str, Any] = {
    "docs_url": None,
    "redoc_url": None,
    "generate_unique_id_function": lambda route: route.name,  # what generated clients call the operations
}
"""Arguments of the application: its own pages load from other hosts."""

router = APIRouter(include_in_schema=False)


@router.get("/redoc")
async def redirect_to_page() -> RedirectResponse:
    """Lead to the page."""
    return RedirectResponse("/docs")


@router.get("/docs")
async def get_page() -> HTMLResponse:
    """Every operation, to be read and tried."""
    return HTMLResponse(_PAGE)


@router.get("/docs/start.js")
async def get_start_script() -> Response:
    """What starts Swagger UI."""
    return Response(_START, media_type="text/javascript")


_Id = Annotated[str, Header(description="of this event: the same in every attempt")]
_Timestamp = Annotated[str, Header(description="seconds since 1970, of this attempt")]
_Signature = Annotated[str, Header(description="`v1,<base64>`, one for each secret, separated by blanks")]


def job_ended(
    event: WebhookEvent, webhook_id: _Id, webhook_timestamp: _Timestamp, webhook_signature: _Signature
) -> None:
    """Sent to a job's `webhook_url` when it has ended, signed as Standard Webhooks say.

    2xx is an answer, 410 ends all webhooks to this URL, and anything else is tried again for a day.
    """


def job_started(
    event: WebhookEvent, webhook_id: _Id, webhook_timestamp: _Timestamp, webhook_signature: _Signature
) -> None:
    """Sent when a worker begins the first slice of a job that has `job.started` among its `webhook_events`.

    It is sent once, however often the job is begun anew. It may arrive after the webhook of the end.
    """


def comparison_ended(
    event: ComparisonWebhookEvent, webhook_id: _Id, webhook_timestamp: _Timestamp, webhook_signature: _Signature
) -> None:
    """Sent to a comparison's `webhook_url` when its last job has ended.

    It is sent again after the next end where a failed job is retried.
    """


def install(app: FastAPI) -> None:
    """Add the page, the files that it loads and the description of webhooks."""
    app.include_router(router)
    for event, summary, tag, operation in (
        ("job.started", "A job has started", "jobs", job_started),
        ("job.ended", "A job has ended", "jobs", job_ended),
        ("comparison.ended", "A comparison has ended", "comparisons", comparison_ended),
    ):
        app.webhooks.post(
            event,
            operation_id=event.replace(".", "_"),
            summary=summary,
            tags=[tag],
            responses={
                200: {"description": "Heard; so is any other 2xx"},
                410: {"description": "Nothing more is to be sent to this URL"},
                "default": {"description": "Not heard: it is sent again for a day"},
            },
        )(operation)
    folder = Path(str(files("fastapi_offline") / "static"))
    app.mount(ASSETS_URL, StaticFiles(directory=folder), name="documentation")

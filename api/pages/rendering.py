"""Pages from Jinja templates, errors as pages, and the class of routes that answer with pages."""

from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from udig_recon.api.access.authentication import Caller
from udig_recon.api.error_handlers import problem_of
from udig_recon.api.http.conditional import negotiate_format
from udig_recon.api.http.problems import Problem, Unauthenticated
from udig_recon.api.pages.assets import Assets
from udig_recon.worker.access.limits import Scope

TEMPLATES = Path(__file__).parent / "templates"
LOGIN = "/login"
_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept, Cookie, HX-Request"}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _Html:
    media_type = "text/html"


@lru_cache(maxsize=1)
def assets() -> Assets:
    """The static files, read once by a process."""
    return Assets()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["asset"] = assets().url
    made.filters |= {"moment": _moment, "duration": duration, "size": size}
    return made


def page(
    request: Request, template: str, *, status: int = 200, headers: dict[str, str] | None = None, **shown: Any
) -> HTMLResponse:
    """A template with what it shows, and with `visitor`, who asks."""
    caller: Caller | None = getattr(request.state, "caller", None)
    text = (
        _environment()
        .get_template(template)
        .render(visitor=Visitor(caller), path=request.url.path, settings=request.app.state.context.settings, **shown)
    )
    return HTMLResponse(text, status, {**_HEADERS, **(headers or {})})


class Visitor:
    """Who looks at a page, as templates ask."""

    def __init__(self, caller: Caller | None) -> None:
        self._caller = caller

    @property
    def is_known(self) -> bool:
        """Whether somebody was admitted, by a key or without authentication."""
        return self._caller is not None

    @property
    def key_name(self) -> str | None:
        """Name of the key; None without authentication."""
        return self._caller.key.name if self._caller is not None and self._caller.key is not None else None

    @property
    def tenant(self) -> str:
        """The tenant; empty for somebody who was not admitted."""
        return "" if self._caller is None else self._caller.tenant

    def may(self, scope: str) -> bool:
        """Whether the key has the scope."""
        if self._caller is None:
            return False
        return self._caller.key is None or Scope(scope).value in self._caller.key.scopes


class PageRoute(APIRoute):
    """A route that answers people: errors are pages, and who is not logged in is led to the login and back again."""

    def get_route_handler(self) -> Handler:
        """The handler of FastAPI, with every error as a page."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                negotiate_format(
                    request.headers.get("accept", ""), _Html(), [_Html()], "a page; below /v1 there is JSON"
                )
                return await handle(request)
            except Unauthenticated as error:
                return _to_login(request, error)
            except (HTTPException, ClientDisconnect):
                raise
            except Exception as error:
                problem = problem_of(error)
                if type(problem) is Problem:  # nobody foresaw it: the handler of all requests answers, and it is logged
                    raise
                return error_page(request, problem)

        return answer


def error_page(request: Request, problem: Problem) -> Response:
    """A problem as a page, with its status and headers; as a problem document for those who take no HTML."""
    document = problem.response(request.url.path)
    if document.status_code == 406:
        return document
    headers = {name: value for name, value in document.headers.items() if name == "retry-after"}
    template = "problem_fragment.html" if "hx-request" in request.headers else "problem.html"
    return page(request, template, status=document.status_code, headers=headers, problem=problem)


def _to_login(request: Request, problem: Unauthenticated) -> Response:
    """Lead to the login, and from there back to the page; a part of a page has its whole page go there."""
    if "hx-request" in request.headers:
        back = urlencode({"next": _path_of(request.headers.get("hx-current-url", ""))})
        return Response(status_code=401, headers={**problem.headers, "HX-Redirect": f"{LOGIN}?{back}", **_HEADERS})
    if request.method != "GET":
        return error_page(request, problem)
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"{LOGIN}?{urlencode({'next': path})}", 303, _HEADERS)


def _path_of(url: str) -> str:
    """Path and query of a page of this service; `/` where that is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "/"
    return safe_path(f"{parts.path}?{parts.query}".rstrip("?"))


def safe_path(path: str) -> str:
    """A path of this service to go on to, whatever was given; `/` where it is of another host or strange."""
    plain = path.startswith("/") and not path.startswith(("//", LOGIN)) and path.isprintable() and "\\" not in path
    return path if plain else "/"


def _moment(at: datetime | None) -> str:
    """A time in UTC, to the second, for people."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def duration(seconds: float | None) -> str:
    """Seconds in the largest two units."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes in a unit that leaves one to three digits before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

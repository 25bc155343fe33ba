"""A service that clients talk to, and the clients with a record of what they ask."""

import asyncio
import inspect
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.api_server import Served, serving
from tests.support.worker_processes import working
from udig_client import AsyncClient, Client
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.database.engine import make_engine, make_sessions
from udig_recon.worker.settings import Settings


@dataclass(frozen=True)
class Service:
    """A service that runs, and a key for it with every scope."""

    settings: Settings
    served: Served
    key: str

    @property
    def url(self) -> str:
        return self.served.url


@contextmanager
def running_service(settings: Settings, workers: int = 1) -> Iterator[Service]:
    """API and workers with these settings and authentication on."""
    settings = settings.model_copy(update={"authentication": "on"})
    engine = make_engine(str(settings.database_url))
    with make_sessions(engine).begin() as session:
        _, key = keys.make(session, "default", NewKey(name="test", scopes=list(Scope)))
    engine.dispose()
    with serving(settings) as served, working(settings, workers):
        yield Service(settings, served, key)


class Recorder:
    """Requests that went out, by the operations of an OpenAPI document that they are."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.asked: set[str] = set()
        self._operations = [
            (method.upper(), re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), operation["operationId"])
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]

    @property
    def operations(self) -> set[str]:
        """Every operation of the document."""
        return {name for _, _, name in self._operations}

    def record(self, request: httpx.Request) -> None:
        path = request.url.path
        fitting = [
            name for method, pattern, name in self._operations if method == request.method if pattern.fullmatch(path)
        ]
        assert fitting, f"no operation is {request.method} {path}"
        self.asked.add(fitting[0])


class RecordingTransport(httpx.HTTPTransport):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.recorder.record(request)
        return super().handle_request(request)


class AsyncRecordingTransport(httpx.AsyncHTTPTransport):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.recorder.record(request)
        return await super().handle_async_request(request)


class Blocking:
    """An async object whose methods block: what is awaited or iterated runs in an event loop of a thread."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target, self._loop = target, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            made = found(*arguments, **options)
            if inspect.isasyncgen(made):
                return self._iterate(made)
            if not inspect.isawaitable(made):
                return made
            result = self._run(made)
            return Blocking(result, self._loop) if hasattr(result, "client") else result

        return call

    def _run(self, awaitable: Any) -> Any:
        async def awaited() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(120)

    def _iterate(self, generator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._run(anext(generator))
                except StopAsyncIteration:
                    return
        finally:
            self._run(generator.aclose())


@contextmanager
def client_of(kind: str, service: Service, recorder: Recorder) -> Iterator[Any]:
    """A sync client, or an async one that is used as if it were sync."""
    if kind == "sync":
        with Client(service.url, service.key, transport=RecordingTransport(recorder)) as client:
            yield client
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    client = AsyncClient(service.url, service.key, transport=AsyncRecordingTransport(recorder))
    try:
        yield Blocking(client, loop)
        asyncio.run_coroutine_threadsafe(client.close(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

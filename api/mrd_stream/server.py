"""The server of the MRD stream: who may connect, how many at once, and how it goes down."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from functools import partial

from starlette.concurrency import run_in_threadpool

from udig_recon.api.access.authentication import Caller, recognise
from udig_recon.api.dependencies import Context
from udig_recon.api.http.problems import Unauthenticated
from udig_recon.api.mrd_stream.connection import Connection
from udig_recon.api.mrd_stream.messages import CLOSE_MESSAGE, READ_BYTES, text_message
from udig_recon.worker.database import counters
from udig_recon.worker.database.engine import AWAY

log = logging.getLogger(__name__)
DRAIN_SECONDS = 6.0  # that a scan may still come in once the server goes down; the process is gone within ten
TELL_SECONDS = 1.0


class MRDServer:
    """Accepts connections at a listening socket, and serves each in a task of its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._networks = [ipaddress.ip_network(each) for each in context.settings.mrd_allowed.split()]
        self._tasks: dict[asyncio.Task[None], Connection] = {}
        self._open = 0

    async def run(self, listener: socket.socket, ending: asyncio.Event) -> None:
        """Serve until `ending` is set: then scans that are coming in have a few seconds, and all clients are told."""
        server = await asyncio.start_server(self._accept, sock=listener, limit=READ_BYTES)
        async with server:
            await ending.wait()
            server.close()
            await self._drain()

    async def _drain(self) -> None:
        coming_in = [task for task, connection in self._tasks.items() if not connection.is_submitted]
        if coming_in:
            await asyncio.wait(coming_in, timeout=DRAIN_SECONDS)
        left = set(self._tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if (refusal := self._refusal(writer)) is not None:
                writer.write(text_message(f"error: {refusal}") + CLOSE_MESSAGE)
                await writer.drain()
                return
            self._open += 1
            try:
                await self._serve(reader, writer)
            finally:
                self._open -= 1
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _refusal(self, writer: asyncio.StreamWriter) -> str | None:
        """Why a client is turned away at once; None: it is not."""
        peer = writer.get_extra_info("peername")
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0]) if peer else None
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address is None or not any(address in network for network in self._networks):
            if address is None or not address.is_loopback:  # `udig serve` asks from there whether the process answers
                log.warning("mrd.address_refused", extra={"address": str(address)})
            return f"{address} may not connect (MRD_ALLOWED)"
        if self._open >= (most := self._context.settings.mrd_connections):
            return f"{most} scanners are connected, which is the most at once (MRD_CONNECTIONS); try again later"
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            caller = await self._caller()
        except (Unauthenticated, *AWAY) as error:
            why = str(error) if isinstance(error, Unauthenticated) else "the database does not answer; try again later"
            writer.write(text_message(f"error: {why} (MRD_KEY)") + CLOSE_MESSAGE)
            await writer.drain()
            return
        connection = Connection(self._context, caller, reader, writer)
        task = asyncio.create_task(self._end_of(connection))
        self._tasks[task] = connection
        try:
            await asyncio.wait({task})
        finally:
            del self._tasks[task]

    async def _end_of(self, connection: Connection) -> None:
        try:
            ended = await connection.serve()
        except asyncio.CancelledError:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_SECONDS):
                    await connection.stop()
            raise
        if ended.outcome == "unused":  # opened and closed without a byte, as checks of a port do
            return
        extra = {} if ended.job_id is None else {"job_id": str(ended.job_id)}
        log.info("mrd.connection_ended", extra={"outcome": ended.outcome, "lines": connection.line_count, **extra})
        with contextlib.suppress(*AWAY):
            await run_in_threadpool(partial(self._count, ended.outcome))

    def _count(self, outcome: str) -> None:
        with self._context.sessions.begin() as session:
            counters.add(session, "mrd_connections", outcome)

    async def _caller(self) -> Caller:
        """Whoever the listener's key is: asked for each connection, for it may be revoked. Raises Unauthenticated."""
        if (key := self._context.settings.mrd_key) is None:
            return Caller()
        return await recognise(self._context, key.get_secret_value())

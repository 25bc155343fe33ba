"""Proxy between the service and Postgres that cuts connections between a commit and its answer."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SOCKET = ".s.PGSQL.5432"
WEIGHTY = (b" result=$", b"INSERT INTO snapshots", b"INSERT INTO jobs")
"""What stands in transactions whose answer is worth losing: a result accepted, a snapshot told, a job filed."""


class Wire(threading.Thread):
    """Passes on what each side says, on a socket of its own."""

    def __init__(self, folder: Path, server: Path) -> None:
        super().__init__(name="wire", daemon=True)
        folder.mkdir(mode=0o700)
        self._socket, self._server = folder / SOCKET, server / SOCKET
        self._open = threading.Event()
        self._end: Callable[[], object]
        self.to_cut = 0  # commits whose answer is still to be lost
        self.weight = WEIGHTY[-1]  # of what kind
        self.cut: Counter[bytes] = Counter()

    def run(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        closing = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._end = lambda: loop.call_soon_threadsafe(closing.set)
        server = await asyncio.start_unix_server(self._connected, self._socket)
        self._open.set()
        await closing.wait()
        server.close()

    def open(self) -> None:
        """Begin to listen."""
        self.start()
        self._open.wait()

    def close(self) -> None:
        """Pass nothing on any more."""
        if self.is_alive():
            self._end()
            self.join()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            upstream, to_server = await asyncio.open_unix_connection(self._server)
            writers.append(to_server)
            deaf = asyncio.Event()
            ways = [self._ask(reader, to_server, deaf), self._answer(upstream, writer, deaf)]
            ended, left = await asyncio.wait(map(asyncio.ensure_future, ways), return_when=asyncio.FIRST_COMPLETED)
            for way in left:
                way.cancel()
            await asyncio.gather(*ended, *left, return_exceptions=True)
        except OSError:
            pass  # the server is away, and so will this connection be
        finally:
            for each in writers:
                each.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        weighty = False
        while said := await reader.read(1 << 16):
            weighty = weighty or self.weight in said
            if b"COMMIT" in said or b"ROLLBACK" in said:
                if weighty and self.to_cut > 0 and b"COMMIT" in said:
                    self.to_cut -= 1
                    self.cut[self.weight] += 1
                    deaf.set()
                weighty = False
            writer.write(said)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, deaf: asyncio.Event) -> None:
        # A commit has been done when it is answered: then, and unheard, the connection goes.
        while (said := await reader.read(1 << 16)) and not deaf.is_set():
            writer.write(said)
            await writer.drain()

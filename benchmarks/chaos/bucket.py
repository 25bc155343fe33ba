"""A bucket that fails: moto's S3 server, and a proxy before it that refuses, delays, answers 503 and loses answers.

moto keeps objects in its memory, so that killing it would lose what no store may lose. What dies is the proxy: its port
is closed and every connection is reset, as clients see it when the store's front end is killed. A pause stops moto's
own process.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Literal

from udig_recon.worker.standalone import processes

BUCKET, PREFIX = "chaos", "some/where"
START_SECONDS, STOP_SECONDS = 60.0, 5.0
SLOW_SECONDS = 0.7  # before each piece of an answer
RESET = pack("ii", 1, 0)
REFUSAL = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
Mode = Literal["well", "down", "slow", "refusing"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class BucketServer(threading.Thread):
    """moto and the proxy, which listens until `stop`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="bucket", daemon=True)
        self._log, self._moto_port, self._port = folder / "moto.log", free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._open = threading.Event()
        self._end: Callable[[], object] = lambda: None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.mode: Mode = "well"
        self.answers_to_lose = 0  # of puts
        self.counts: Counter[str] = Counter()

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which the service finds it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "chaos",
            "AWS_REGION": "us-east-1",
        }

    @property
    def url(self) -> str:
        """DATA_STORE."""
        return f"s3://{BUCKET}/{PREFIX}"

    def open(self) -> None:
        """Start both."""
        command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._moto_port)]
        self._process = processes.start(command, log=self._log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._moto_port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        made = urllib.request.Request(f"http://127.0.0.1:{self._moto_port}/{BUCKET}", method="PUT")
        urllib.request.urlopen(made, timeout=10).close()
        self.start()
        self._open.wait()

    def stop(self) -> None:
        """End both."""
        if self.is_alive():
            self._end()
            self.join()
        if self._process is not None:
            self.pause(False)
            processes.stop([self._process], signal.SIGKILL, STOP_SECONDS)

    def pause(self, paused: bool) -> None:
        """Stop moto's process, or have it go on."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGSTOP if paused else signal.SIGCONT)

    def set_mode(self, mode: Mode) -> None:
        """Behave so from now on; `down` resets every connection."""
        self.mode = mode
        if mode == "down" and self._loop is not None:
            self._loop.call_soon_threadsafe(self._reset_all)

    def _reset_all(self) -> None:
        for writer in self._writers:
            _reset(writer)

    def run(self) -> None:
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        closing = asyncio.Event()
        self._loop = loop = asyncio.get_running_loop()
        self._end = lambda: loop.call_soon_threadsafe(closing.set)
        server = await asyncio.start_server(self._connected, "127.0.0.1", self._port)
        self._open.set()
        await closing.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "down":
            self.counts["connections refused"] += 1
            _reset(writer)
            return
        self._writers.add(writer)
        writers = [writer]
        try:
            upstream, to_server = await asyncio.open_connection("127.0.0.1", self._moto_port)
            writers.append(to_server)
            exchange = _Exchange(self, writer, to_server)
            ways = [exchange.ask(reader), exchange.answer(upstream)]
            ended, left = await asyncio.wait(map(asyncio.ensure_future, ways), return_when=asyncio.FIRST_COMPLETED)
            for way in left:
                way.cancel()
            await asyncio.gather(*ended, *left, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            for each in writers:
                each.close()


class _Exchange:
    """One connection of a client, on which requests follow their answers."""

    def __init__(self, bucket: BucketServer, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._bucket, self._client, self._server = bucket, client, server
        self._between = True  # the next bytes of the client begin a request
        self._loses = False  # the answer that comes

    async def ask(self, reader: asyncio.StreamReader) -> None:
        while said := await reader.read(1 << 16):
            if self._between:
                self._between = False
                if self._bucket.mode == "refusing":
                    self._bucket.counts["answers 503"] += 1
                    self._client.write(REFUSAL)
                    await self._client.drain()
                    return
                if self._bucket.answers_to_lose > 0 and said.startswith(b"PUT "):
                    self._bucket.answers_to_lose -= 1
                    self._loses = True
            self._server.write(said)
            await self._server.drain()

    async def answer(self, upstream: asyncio.StreamReader) -> None:
        while said := await upstream.read(1 << 16):
            self._between = True
            if self._loses:
                # The put is done, and nobody hears of it.
                self._bucket.counts["answers of puts lost"] += 1
                _reset(self._client)
                return
            if self._bucket.mode == "slow":
                self._bucket.counts["slow answers"] += 1
                await asyncio.sleep(SLOW_SECONDS)
            self._client.write(said)
            await self._client.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    taken = writer.get_extra_info("socket")
    if taken is not None:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()

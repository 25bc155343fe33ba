"""A TCP proxy that cuts connections after some bytes, and may spoil what it hands on."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

Spoil = Callable[[bytes], bytes]


class CuttingProxy:
    """`cut_next(n)`: the connection on which client and server have exchanged n bytes from now on is cut."""

    def __init__(self, target: tuple[str, int], spoil: Spoil | None = None) -> None:
        self.target, self.spoil, self.cuts = target, spoil, 0
        self._left: list[int] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut_after(self, *sizes: int) -> None:
        """Cut connections after so many bytes each, counted one after the other."""
        with self._lock:
            self._left = list(sizes)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            for a, b, spoil in ((client, server, None), (server, client, self.spoil)):
                thread = threading.Thread(target=self._hand_on, args=(a, b, spoil))
                self._threads.append(thread)
                thread.start()

    def _hand_on(self, source: socket.socket, sink: socket.socket, spoil: Spoil | None) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                allowed = self._allowed(len(block))
                sink.sendall((spoil(block) if spoil else block)[:allowed])
                if allowed < len(block):
                    break
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _allowed(self, size: int) -> int:
        with self._lock:
            if not self._left:
                return size
            if self._left[0] > size:
                self._left[0] -= size
                return size
            self.cuts += 1
            return self._left.pop(0) - 1

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def proxy_to(url: str, spoil: Spoil | None = None) -> Iterator[CuttingProxy]:
    """A proxy before the server at a URL; close its clients before the block ends."""
    parts = urlsplit(url)
    proxy = CuttingProxy((str(parts.hostname), int(parts.port or 80)), spoil)
    try:
        yield proxy
    finally:
        proxy.close()

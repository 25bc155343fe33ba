"""Seconds in which the MRD stream takes lines: `python -m benchmarks.speed.mrd_stream [MiB ...]`.

Lines of 8 coils and 144 samples come over a loopback connection, are read, and lie in an MRD file at the end, as in
`udig mrd-stream`; the best of five runs. Prints a Markdown row for each size.
"""

import asyncio
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from udig_recon.api.mrd_stream.messages import CLOSE_MESSAGE, READ_BYTES, MessageReader
from udig_recon.api.mrd_stream.recording import BLOCK_LINES, HEAD, Recording
from udig_recon.core.formats.readouts.mrd_protocol import MESSAGE_ID, MessageId

COILS, SAMPLES, RUNS = 8, 144, 5
LINE_BYTES = HEAD.itemsize + 8 * COILS * SAMPLES


def sent(lines: int) -> bytes:
    """The messages of so many lines, and the last."""
    head = np.zeros((), HEAD)
    head["version"], head["number_of_samples"], head["active_channels"] = 1, SAMPLES, COILS
    samples = np.random.default_rng(0).standard_normal(2 * COILS * SAMPLES).astype("<f4").tobytes()
    line = MESSAGE_ID.pack(MessageId.ACQUISITION) + head.tobytes() + samples
    return line * lines + CLOSE_MESSAGE


async def receive(listener: socket.socket, path: Path) -> float:
    """Take one connection's lines; seconds from its first byte to the whole file."""
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def serve(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        messages = MessageReader(stream, seconds=30, most_bytes=1 << 40)
        path.touch()
        recording = Recording(path)
        recording.add_header(b"<ismrmrdHeader/>")
        lines = []
        kind = await messages.message_id()
        began = time.perf_counter()
        while kind == MessageId.ACQUISITION:
            lines.append(await messages.acquisition())
            if len(lines) == BLOCK_LINES:
                await asyncio.to_thread(recording.add_lines, lines)
                lines = []
            kind = await messages.message_id()
        await asyncio.to_thread(recording.add_lines, lines)
        await asyncio.to_thread(recording.close)
        done.set_result(time.perf_counter() - began)
        writer.close()

    async with await asyncio.start_server(serve, sock=listener, limit=READ_BYTES):
        return await done


def run(mebibytes: int) -> float:
    """Seconds for lines of so many MiB."""
    content = sent((mebibytes << 20) // LINE_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.create_server(("127.0.0.1", 0))
        with socket.create_connection(listener.getsockname()) as client:
            thread = threading.Thread(target=client.sendall, args=(content,))
            thread.start()
            seconds = asyncio.run(receive(listener, Path(folder) / "scan.h5"))
            thread.join()
    return seconds


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [12, 256]
    sys.stdout.write("| MiB of lines | lines | s | MiB/s |\n|---:|---:|---:|---:|\n")
    for size in sizes:
        best = min(run(size) for _ in range(RUNS))
        sys.stdout.write(f"| {size} | {(size << 20) // LINE_BYTES} | {best:.3f} | {size / best:.0f} |\n")


if __name__ == "__main__":
    main()

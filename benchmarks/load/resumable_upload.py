"""A large upload that is cut three times (tus): `python -m benchmarks.load.resumable_upload [MiB]`."""

import hashlib
import json
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import BinaryIO

from benchmarks.load.upload_memory import LIMIT_MIB, MEBIBYTE, api_process, memory_mib, scan_of, upload
from udig_recon.api.uploads.protocol import MEDIA_TYPE
from udig_recon.worker.storage import keys

CUTS = 3
BLOCK_BYTES = MEBIBYTE


def begin(port: int, size: int) -> str:
    """The path of a new upload."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/uploads", headers={"Upload-Length": str(size)})
    return str(json.loads(connection.getresponse().read())["id"])


def offset(port: int, upload_id: str) -> int:
    """Bytes that the upload has."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("HEAD", f"/v1/uploads/{upload_id}")
    return int(connection.getresponse().headers["upload-offset"])


def append(port: int, upload_id: str, file: BinaryIO, at: int, size: int, until: int) -> int:
    """Send the file from `at` on; cut the connection at `until`, short of the end. The status, 0 where it was cut."""
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.putrequest("PATCH", f"/v1/uploads/{upload_id}")
    for name, value in (("Content-Type", MEDIA_TYPE), ("Upload-Offset", at), ("Content-Length", size - at)):
        connection.putheader(name, str(value))
    connection.endheaders()
    file.seek(at)
    while at < until:
        at += len(block := file.read(min(BLOCK_BYTES, until - at)))
        connection.send(block)
    if until < size:
        connection.close()
        return 0
    return connection.getresponse().status


def main(mebibytes: int) -> int:
    """Print a row of a Markdown table; 1 when the upload did not arrive whole, or the memory grew too much."""
    with tempfile.TemporaryDirectory(prefix="udig-upload-") as folder:
        small, large, data = (Path(folder) / name for name in ("small.npy", "large.npy", "data"))
        scan_of(small, 8)
        scan_of(large, mebibytes)
        size = large.stat().st_size
        with api_process(data) as api, large.open("rb") as file:
            upload(api.port, small)
            before, started, sent = memory_mib(api.pid, "VmRSS"), time.perf_counter(), 0
            upload_id = begin(api.port, size)
            for cut in range(1, CUTS + 2):
                at, until = offset(api.port, upload_id), size * cut // (CUTS + 1)
                while (status := append(api.port, upload_id, file, at, size, until)) == 409:
                    at = offset(api.port, upload_id)
                sent += until - at
                time.sleep(0.5)
            arrived = time.perf_counter()
            connection = HTTPConnection("127.0.0.1", api.port, timeout=600)
            body = json.dumps({"upload_id": upload_id})
            connection.request("POST", "/v1/scans", body, {"Content-Type": "application/json"})
            scan = json.loads(connection.getresponse().read())
            ended = time.perf_counter()
            grown = memory_mib(api.pid, "VmHWM") - before
            file.seek(0)
            whole = status == 204 and scan.get("sha256") == hashlib.file_digest(file, "sha256").hexdigest()
            whole &= not list((data / "uploads").iterdir()) and (data / keys.scan(scan["sha256"])).stat().st_nlink == 1
    print("| MiB | whole | sent again (MiB) | upload (s) | MiB/s | to a scan (s) | growth (MiB) | limit (MiB) |")
    print("|---|---|---|---|---|---|---|---|")
    again, seconds = (sent - size) / MEBIBYTE, arrived - started
    cells = (mebibytes, whole, f"{again:.1f}", f"{seconds:.1f}", f"{mebibytes / seconds:.0f}")
    print("| " + " | ".join(map(str, (*cells, f"{ended - arrived:.1f}", f"{grown:.1f}", LIMIT_MIB))) + " |")
    return int(not whole or grown >= LIMIT_MIB)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4096))

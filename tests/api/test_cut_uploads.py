"""Resumable uploads through real sockets and processes: cut off, killed, at several API processes at once."""

import hashlib
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.api_server import ROOT, Served, serving
from udig_recon.api.uploads.appending import SYNC_BYTES
from udig_recon.api.uploads.protocol import MEDIA_TYPE
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys, uploads
from udig_recon.worker.storage.local import LocalStorage

MIB = 1 << 20
UNREAD = MIB // 4  # of a connection that is cut, at most: what the server's buffer held is sent again
NAME, NAME_IN_BASE64 = "Mustermann.h5", "TXVzdGVybWFubi5oNQ=="
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture(scope="module")
def large() -> bytes:
    """A scan of 12 MiB of noise."""
    samples = os.urandom(12 * MIB)
    kspace = bytearray(samples)
    # Exponents of moderate size, so that every number is finite.
    kspace[3::4] = bytes(63 + byte % 2 for byte in samples[3::4])
    head = b"\x93NUMPY\x01\x00"
    form = f"{{'descr': '<c8', 'fortran_order': False, 'shape': ({12 * MIB // (8 * 256 * 256)}, 256, 256), }}"
    padded = form.ljust(117) + "\n"
    return head + struct.pack("<H", len(padded)) + padded.encode() + bytes(kspace)


def begin(url: str, size: int) -> str:
    headers = TUS | {"Upload-Length": str(size), "Upload-Metadata": f"filename {NAME_IN_BASE64}"}
    answer = httpx2.post(f"{url}/v1/uploads", headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def offset(url: str, path: str) -> int:
    return int(httpx2.head(f"{url}{path}", headers=TUS, timeout=30).headers["upload-offset"])


def append(url: str, path: str, at: int, data: bytes) -> httpx2.Response:
    headers = TUS | {"Upload-Offset": str(at), "Content-Type": MEDIA_TYPE}
    return httpx2.patch(f"{url}{path}", content=data, headers=headers, timeout=60)


def scanned(url: str, path: str) -> str:
    """SHA-256 of the scan that the upload becomes."""
    answer = httpx2.post(f"{url}/v1/scans", json={"upload_id": path.rpartition("/")[2]}, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["sha256"])


def patching(url: str, path: str, at: int, size: int) -> socket.socket:
    """A connection that has begun to send so many bytes."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=30)
    head = f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {at}\r\n"
    connection.sendall(f"{head}Content-Type: {MEDIA_TYPE}\r\nContent-Length: {size}\r\n\r\n".encode())
    return connection


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def patches_ended(served: Served) -> int:
    """Requests to append that the server is done with, those that were cut off among them."""
    return served.log.read_text().count('"PATCH"')


def test_an_upload_that_is_cut_reset_and_left_hanging_arrives_whole(
    settings: Settings, storage: LocalStorage, large: bytes
) -> None:
    with serving(settings) as served:
        url, path, at = served.url, begin(served.url, len(large)), 0
        for number, cut in enumerate((MIB + 1000, 2 * MIB, MIB)):
            with closing(patching(url, path, at, len(large) - at)) as connection:
                connection.sendall(large[at : at + cut])
                if number == 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            until(lambda number=number: patches_ended(served) > number)
            before, at = at, offset(url, path)
            assert before + (0 if number == 2 else cut - UNREAD) <= at <= before + cut
        # This one goes on to hang there, as behind a network that is gone, while the client comes back by another one.
        with closing(patching(url, path, at, len(large) - at)) as silent:
            silent.sendall(large[at : at + SYNC_BYTES + MIB + MIB // 2])
            until(lambda: offset(url, path) > at)
            at = offset(url, path)
            assert append(url, path, at, large[at:]).status_code == 204
            silent.sendall(bytes(MIB))  # what was on its way all the time
            assert b" 409 " in silent.recv(4096).split(b"\r\n")[0]
        assert scanned(url, path) == hashlib.sha256(large).hexdigest()
        log = served.log.read_text()
    assert storage.read(keys.scan(hashlib.sha256(large).hexdigest())) == large
    statuses = [json.loads(line)["status"] for line in log.splitlines() if '"PATCH"' in line]
    assert statuses == [408, 408, 408, 204, 409]
    assert NAME not in log
    assert NAME_IN_BASE64 not in log


def test_of_two_processes_that_take_turns_at_one_upload_one_is_killed(
    settings: Settings, storage: LocalStorage, large: bytes
) -> None:
    """Both are sent the same bytes from wherever the upload is: nothing is lost or mixed."""
    refused: list[int] = []

    def send(url: str, path: str) -> None:
        while (at := offset(url, path)) < len(large) // 3:
            answer = append(url, path, at, large[at : at + MIB])
            if answer.status_code != 204:
                refused.append(answer.status_code)

    with serving(settings) as first, serving(settings) as second:
        path = begin(first.url, len(large))
        threads = [threading.Thread(target=send, args=(each.url, path)) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(refused) <= {409, 423}
        before = offset(second.url, path)
        with closing(patching(first.url, path, before, len(large) - before)) as connection:
            connection.sendall(large[before : before + SYNC_BYTES + 2 * MIB])
            until(lambda: offset(second.url, path) > before)
            first.process.kill()
            first.process.wait()
        at = offset(second.url, path)
        assert before + SYNC_BYTES <= at <= before + SYNC_BYTES + 2 * MIB
        assert append(second.url, path, at, large[at:]).status_code == 204
        assert uploads.path_of(storage, uuid.UUID(path.rpartition("/")[2])).read_bytes() == large


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed (Debian: nodejs)")
def test_tus_js_client_uploads_though_requests_and_answers_are_lost(
    server: str, mri_file: bytes, tmp_path: Path
) -> None:
    (tmp_path / "scan.h5").write_bytes(mri_file)
    script, library = Path(__file__).with_name("tus_client.js"), ROOT / "api/pages/static/vendor/tus.min.js"
    piece = str(len(mri_file) // 5 + 1)
    command = ["node", script, library, tmp_path / "scan.h5", f"{server}/v1/uploads", piece]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["patches"] == 6  # five pieces, one of them twice: the answer that was lost is not asked for again
    path = urlsplit(told["url"]).path
    answer = httpx2.post(f"{server}/v1/scans", json={"upload_id": path.rpartition("/")[2]})
    assert (answer.json()["sha256"], answer.json()["filename"]) == (hashlib.sha256(mri_file).hexdigest(), "brain.h5")

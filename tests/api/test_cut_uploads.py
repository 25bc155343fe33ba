"""Resumable uploads through real sockets and processes: cut off, killed, at several API processes at once."""

import hashlib
import json
import os
import socket
import struct
import threading
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.api_server import serving
from udig_recon.api.uploads.appending import SYNC_BYTES
from udig_recon.api.uploads.protocol import MEDIA_TYPE
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

MIB = 1 << 20
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture(scope="module")
def large() -> bytes:
    """A scan of 24 MiB of noise."""
    samples = os.urandom(24 * MIB)
    kspace = bytearray(samples)
    # Exponents of moderate size, so that every number is finite.
    kspace[3::4] = bytes(63 + byte % 2 for byte in samples[3::4])
    head = b"\x93NUMPY\x01\x00"
    form = f"{{'descr': '<c8', 'fortran_order': False, 'shape': ({24 * MIB // (8 * 256 * 256)}, 256, 256), }}"
    padded = form.ljust(117) + "\n"
    return head + struct.pack("<H", len(padded)) + padded.encode() + bytes(kspace)


def begin(url: str, size: int) -> str:
    answer = httpx2.post(f"{url}/v1/uploads", headers=TUS | {"Upload-Length": str(size)})
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


def until_at_least(url: str, path: str, least: int) -> int:
    deadline = time.monotonic() + 20
    while (found := offset(url, path)) < least:
        assert time.monotonic() < deadline, (found, least)
        time.sleep(0.02)
    return found


def test_an_upload_that_is_cut_three_times_arrives_whole(server: str, storage: LocalStorage, large: bytes) -> None:
    path, at = begin(server, len(large)), 0
    for cut in (1000, 7 * MIB + 1, 3 * MIB):
        with closing(patching(server, path, at, len(large) - at)) as connection:
            connection.sendall(large[at : at + cut])
        at = until_at_least(server, path, at + cut)  # every byte that came counts
    assert at == 1000 + 10 * MIB + 1
    assert append(server, path, at, large[at:]).status_code == 204
    assert scanned(server, path) == hashlib.sha256(large).hexdigest()
    assert storage.read(keys.scan(hashlib.sha256(large).hexdigest())) == large


def test_a_reset_and_a_silent_connection_keep_nobody_waiting(server: str, large: bytes) -> None:
    path = begin(server, len(large))
    with closing(patching(server, path, 0, len(large))) as connection:
        connection.sendall(large[: 2 * MIB])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    at = until_at_least(server, path, 0)
    # This one goes on to hang there, as behind a network that is gone, while the client comes back by another one.
    with closing(patching(server, path, at, len(large) - at)) as silent:
        silent.sendall(large[at : at + 5 * MIB])
        at = until_at_least(server, path, at + 4 * MIB)
        assert append(server, path, at, large[at:]).status_code == 204
        silent.sendall(bytes(2 * MIB))  # what was on its way all the time
        assert b" 409 " in silent.recv(4096).split(b"\r\n")[0]
    assert scanned(server, path) == hashlib.sha256(large).hexdigest()


def test_a_killed_process_loses_no_more_than_what_was_not_synced(
    settings: Settings, storage: LocalStorage, large: bytes
) -> None:
    path, at = "", 0
    for sent in (5 * MIB, 9 * MIB, len(large)):
        with serving(settings) as served:
            path = path or begin(served.url, len(large))
            assert offset(served.url, path) == at
            with closing(patching(served.url, path, at, len(large) - at)) as connection:
                connection.sendall(large[at:sent])
                at = until_at_least(served.url, path, sent - SYNC_BYTES)
                served.process.kill()
    with serving(settings) as served:
        at = offset(served.url, path)
        assert len(large) - SYNC_BYTES <= at <= len(large)
        append(served.url, path, at, large[at:])
        assert scanned(served.url, path) == hashlib.sha256(large).hexdigest()
    assert [each.name for each in storage.uploads_folder().iterdir()] == []


def test_processes_on_one_folder_take_turns_at_one_upload(
    settings: Settings, storage: LocalStorage, large: bytes
) -> None:
    """Both are sent the same bytes from wherever the upload is, until it is complete: nothing is lost or mixed."""
    refused: list[int] = []

    def send(url: str, path: str) -> None:
        while (at := offset(url, path)) < len(large):
            answer = append(url, path, at, large[at : at + 3 * MIB])
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
        assert scanned(second.url, path) == hashlib.sha256(large).hexdigest()
    assert storage.read(keys.scan(hashlib.sha256(large).hexdigest())) == large


def test_logs_hold_neither_the_name_nor_the_metadata_of_an_upload(settings: Settings, mri_file: bytes) -> None:
    name = "Mustermann.h5"
    encoded = "TXVzdGVybWFubi5oNQ=="
    with serving(settings) as served:
        headers = TUS | {"Upload-Length": str(len(mri_file)), "Upload-Metadata": f"filename {encoded}"}
        path = httpx2.post(f"{served.url}/v1/uploads", headers=headers).headers["location"]
        append(served.url, path, 0, mri_file)
        append(served.url, path, 0, mri_file)
        scanned(served.url, path)
        log = Path(served.log).read_text()
    assert [json.loads(line)["status"] for line in log.splitlines() if '"PATCH"' in line] == [204, 409]
    assert name not in log
    assert encoded not in log

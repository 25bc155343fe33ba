"""The C libraries inside wheels are found, and looked up where there is an index of advisories."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from benchmarks import audit_libraries as libraries
from benchmarks.audit_libraries import Library

pytestmark = pytest.mark.long

HDF5 = "https://github.com/HDFGroup/hdf5"


class _Index(BaseHTTPRequestHandler):
    """Knows a weakness of HDF5 2.0.0."""

    asked: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(question)
        weak = question["package"]["name"] == HDF5 and question["version"] == "2.0.0"
        body = json.dumps({"vulns": [{"id": "CVE-2025-44904"}]} if weak else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_libraries_that_read_strangers_bytes_are_found_with_their_versions() -> None:
    found = {each.name: each.version for each in libraries.inventory()}
    assert found["hdf5"] == "2.2.0"
    for name in ("zlib", "expat", "openssl", "libpq", "libjpeg-turbo", "libpng", "openblas"):
        assert found[name], name
    assert set(found) <= set(libraries.KNOWN)


def test_a_weakness_fails_the_audit_and_names_it(index: str, capsys: pytest.CaptureFixture[str]) -> None:
    brought = [Library("hdf5", "2.0.0", "h5py"), Library("zlib", "1.3.1", "python"), Library("libpq", "", "x")]
    assert libraries.looked_up(brought, lambda each: libraries.ask(index, each)) == 1
    weak, sound, untold = capsys.readouterr().out.splitlines()
    assert weak.split() == ["hdf5", "2.0.0", "h5py", "CVE-2025-44904"]
    assert sound.endswith("nothing known")
    assert untold.endswith("not looked up")


def test_without_a_weakness_the_audit_is_clean_and_asks_by_release_tags(index: str) -> None:
    _Index.asked.clear()
    assert libraries.main(["--index", index]) == 0
    tags = {question["version"] for question in _Index.asked}
    assert "2.2.0" in tags
    assert any(tag.startswith("openssl-3.") for tag in tags)
    assert any(tag.startswith("REL_1") and "." not in tag for tag in tags)


def test_an_index_that_cannot_be_reached_is_told_and_no_clean_bill(capsys: pytest.CaptureFixture[str]) -> None:
    assert libraries.main(["--index", "http://127.0.0.1:9"]) == 2
    assert "were not looked up" in capsys.readouterr().out
    assert libraries.main([]) == 0
    assert "hdf5" in capsys.readouterr().out

"""`udig view`: the page's viewer on a local file."""

import gzip
import http.client
import io
import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from email.message import Message
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest
from PIL import Image

from tests.support import scans
from tests.support.browser import Html, await_on, chromium, tab
from udig_recon.api.pages.local_viewer import ShownVolume, ViewerServer
from udig_recon.core import open_scan, reconstruct_volume
from udig_recon.core.cli import UDIG
from udig_recon.core.cli.main import main
from udig_recon.core.volume_files import open_volume


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of three slices with a reference."""
    folder = tmp_path_factory.mktemp("local")
    scans.write_hdf5(folder / "scan.h5", **scans.mri(3))
    with open_scan(folder / "scan.h5") as scan:
        reconstruct_volume(scan, {"method": "zero_filled"}).save(folder / "brain.h5")
    return folder / "brain.h5"


@pytest.fixture(scope="module")
def server(result: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerServer]:
    """The server of that result."""
    with open_volume(result) as volume:
        shown = ShownVolume(result.name, volume, tmp_path_factory.mktemp("nifti"))
        with ViewerServer(shown) as made:
            thread = threading.Thread(target=made.serve_forever)
            thread.start()
            yield made
            made.shutdown()
            thread.join()


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: Message
    content: bytes


def get(server: ViewerServer, path: str, host: str | None = None) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    with closing(connection):
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def test_the_page_has_the_viewer_and_nothing_of_other_hosts_or_inline(server: ViewerServer) -> None:
    answer = get(server, urlsplit(server.url).path)
    page = Html(answer.content.decode())
    assert answer.status == 200
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert page.faults() == []
    views = [each.attributes["data-view"] for each in page.all("button") if "data-view" in each.attributes]
    assert views == ["magnitude", "direct", "reference", "error", "direct_error"]
    for each in page.all("script", "link"):
        asset = get(server, each.attributes.get("src") or each.attributes["href"])
        assert asset.status == 200
        assert asset.content


def test_pictures_and_volume_are_those_of_the_file(server: ViewerServer, result: Path) -> None:
    root = urlsplit(server.url).path
    for view in ("magnitude", "error"):
        answer = get(server, f"{root}preview.png?view={view}&slice=2")
        assert Image.open(io.BytesIO(answer.content)).size == (32, 32)
        low, high = map(float, answer.headers["Window-Levels"].split(","))
        assert low < high
    bright, dark = (
        np.asarray(Image.open(io.BytesIO(get(server, f"{root}preview.png?slice=1&window=0,{white}").content))).mean()
        for white in (high / 2, high * 2)
    )
    assert bright > 2 * dark
    volume = nibabel.Nifti1Image.from_bytes(gzip.decompress(get(server, f"{root}volume.nii.gz").content))
    with open_volume(result) as opened:
        images = np.stack([each.image for each in opened.slices])
    np.testing.assert_array_equal(volume.get_fdata(dtype=np.float32).transpose(2, 1, 0), images)


def test_nobody_else_reads_it(server: ViewerServer) -> None:
    parts = urlsplit(server.url)
    assert parts.hostname == "127.0.0.1"
    assert get(server, parts.path, "rebound.example").status == 421
    assert get(server, parts.path, f"localhost:{parts.port}").status == 200
    for path in ("/", "/preview.png", "/wrong/volume.nii.gz", "/static/0/../local_viewer.py", "/static/0/%2e%2e/x"):
        assert get(server, path).status == 404, path
    root = parts.path
    for query in ("slice=3", "slice=-1", "slice=a", "view=none", "window=2,1", "window=nan,1", "window=1"):
        assert get(server, f"{root}preview.png?{query}").status == 422, query
    assert get(server, f"{root}preview.png?view=deviation").status == 404


def test_the_command_needs_no_settings_and_ends_by_ctrl_c(result: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    command = [*UDIG, "view", str(result), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        url = run.stdout.readline().strip()
        with urllib.request.urlopen(url) as answer:
            assert b"brain.h5" in answer.read()
        run.send_signal(signal.SIGINT)
        assert run.wait(30) == 0


def test_what_cannot_be_shown_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no volume")
    for name, words in (("notes.txt", "a volume that ends in one of .h5"), ("none.h5", "No such file")):
        assert main(["view", str(tmp_path / name), "--no-browser"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


@pytest.mark.long
def test_a_browser_shows_slices_and_windows_them(server: ViewerServer) -> None:
    parts = urlsplit(server.url)
    with chromium() as browser, tab(browser, f"http://{parts.netloc}") as opened:
        page = opened.open(parts.path)
        picture = page.locator("#picture")
        picture.wait_for(state="visible")
        assert page.evaluate("document.getElementById('picture').naturalWidth") == 32
        before = picture.get_attribute("src")
        page.locator("#panes").press("End")
        await_on(page, lambda: picture.get_attribute("src") != before)
        assert page.locator("#slice-name").inner_text() == "2 (3 of 3)"
        page.locator("[data-view=error]").click()
        await_on(page, lambda: page.locator("#caption").inner_text() == "Error ×5")

"""Viewer of a local volume, `udig view`: the pages' viewer behind a small HTTP server on the loopback interface.

It needs no settings and no other part of the service. The address holds a secret, so that other users of the machine
see nothing, and requests with another host name are refused, so that pages of the web cannot reach it.
"""

import math
import re
import secrets
import sys
import tempfile
import threading
import webbrowser
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from udig_recon.api.pages.assets import Assets
from udig_recon.core.acquisition import frame_labels
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.results import nifti, png
from udig_recon.core.results.outputs import write_result
from udig_recon.core.results.views import VIEWS, draw_view, views_of
from udig_recon.core.volume_files import OpenedVolume, open_volume

TEMPLATES = Path(__file__).parent / "templates"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NAMES = {
    "magnitude": "Image",
    "reference": "Reference",
    "error": "Error ×5",
    "deviation": "Deviation ×5",
    "hallucination": "Hallucination map",
}


def view(path: Path, *, open_browser: bool) -> int:
    """Show a volume until Ctrl-C; 0 afterwards, 2 where the file cannot be shown."""
    try:
        with ExitStack() as stack:
            volume = stack.enter_context(open_volume(path))
            shown = ShownVolume(path.name, volume, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            server = stack.enter_context(ViewerServer(shown))
            for note in volume.notes:
                sys.stderr.write(f"{path.name}: {note}\n")
            sys.stdout.write(f"{server.url}\n")
            sys.stdout.flush()
            sys.stderr.write("Ctrl-C ends it\n")
            if open_browser:
                threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
            with suppress(KeyboardInterrupt):
                server.serve_forever()
    except ReconstructionError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or path}: {error.strerror or error}\n")
        return 2
    return 0


@dataclass(frozen=True, eq=False)
class ShownVolume:
    """A volume, drawn slice by slice and as NIfTI. Only one thread reads it at a time."""

    name: str
    volume: OpenedVolume
    folder: Path  # for the NIfTI file

    @cached_property
    def _lock(self) -> threading.RLock:
        return threading.RLock()

    @property
    def labels(self) -> list[str]:
        """Each slice in words: its frame, or its number."""
        info = self.volume.info
        return frame_labels(info.frames) or [str(number) for number in info.slice_numbers]

    @cached_property
    def views(self) -> list[tuple[str, str]]:
        """The views that the first slice has, and their names."""
        names = dict(NAMES)
        if self.direct_name:
            names["direct"] = self.direct_name[0].upper() + self.direct_name[1:]
            names["direct_error"] = f"Error of {self.direct_name} ×5"
        return [(view, names[view]) for view in views_of(self.volume.slices[0]) if view in names]

    @property
    def direct_name(self) -> str:
        """What the image without a method is called; empty where the file has none."""
        attributes = self.volume.info.attributes
        if "parameters" not in attributes:
            return ""
        return "FBP" if attributes.get("modality") == "ct" else "zero-filled"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the file says of the volume, in words."""
        info = self.volume.info
        rows, columns = self.volume.slices[0].image.shape
        spacing = [f"{each:.3g}" for each in info.pixel_spacing_mm]
        across = info.slice_spacing_mm
        facts = [("Size", f"{columns} x {rows} x {len(self.volume.slices)}")]
        if "pixel_spacing_mm" in info.attributes:
            facts.append(("Spacing", f"{spacing[1]} x {spacing[0]} x {'?' if across is None else f'{across:.3g}'} mm"))
        parameters = info.attributes.get("parameters")
        if isinstance(parameters, dict):
            facts.append(("Method", str(parameters.get("method"))))
        ratings = [each.rating for each in self.volume.slices]
        known = [rating.level for rating in ratings if rating is not None]
        if known:
            facts.append(("Rating", ", ".join(f"{known.count(each)} {each}" for each in dict.fromkeys(known))))
        return facts

    def picture(self, view: Any, index: int, levels: png.Window | None) -> tuple[bytes | None, png.Window]:
        """PNG of a view of slice number `index` of the volume, and its window; None: it has no such view."""
        with self._lock:
            result = self.volume.slices[index]
            window = levels or png.display_window(result.image)
            return draw_view(view, result, levels, self.volume.info.pixel_spacing_mm), window

    def nifti(self) -> bytes:
        """The volume as a gzipped NIfTI file, written when it is first asked for."""
        path = self.folder / "volume.nii.gz"
        with self._lock:
            if not path.is_file():
                write_result(self.volume.slices, self.volume.info, {path: nifti.FORMAT})
            return path.read_bytes()


class ViewerServer(ThreadingHTTPServer):
    """Serves one volume on a free port of the loopback interface."""

    daemon_threads = True

    def __init__(self, shown: ShownVolume) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shown = shown
        self.secret = secrets.token_urlsafe(16)
        self.assets = Assets()

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.secret}/"

    def page(self) -> bytes:
        """The page of the viewer."""
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        environment.globals["asset"] = self.assets.url
        shown = self.shown
        text = environment.get_template("local_viewer.html").render(
            name=shown.name,
            address=f"/{self.secret}",
            labels=shown.labels,
            views=[(view, name, True) for view, name in shown.views],
            direct_name=shown.direct_name,
            facts=shown.facts,
        )
        return text.encode()


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    server_version = "udig-view"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request for the page, a static file, a picture or the volume."""
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self._answer(421, "text/plain", b"this server answers to 127.0.0.1 alone\n")
            return
        address = urlsplit(self.path)
        static = re.fullmatch(r"/static/[0-9a-f]+/(.+)", address.path)
        if static is not None and static[1] in self.server.assets:
            asset = self.server.assets[static[1]]
            self._answer(200, asset.media_type, asset.content)
            return
        secret, _, name = address.path.removeprefix("/").partition("/")
        if not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            self._answer(404, "text/plain", b"no such page\n")
            return
        match name:
            case "":
                self._answer(200, "text/html; charset=utf-8", self.server.page())
            case "preview.png":
                self._picture(parse_qs(address.query))
            case "volume.nii.gz":
                self._answer(200, "application/gzip", self.server.shown.nifti())
            case _:
                self._answer(404, "text/plain", b"no such page\n")

    def _picture(self, asked: dict[str, list[str]]) -> None:
        shown = self.server.shown
        try:
            view, index = asked.get("view", ["magnitude"])[0], int(asked.get("slice", ["0"])[0])
            levels = _levels(asked["window"][0]) if "window" in asked else None
        except ValueError:
            view, index, levels = "", -1, None
        if view not in VIEWS or not 0 <= index < len(shown.volume.slices):
            self._answer(422, "text/plain", b"no such view or slice\n")
            return
        picture, window = shown.picture(view, index, levels)
        if picture is None:
            self._answer(404, "text/plain", b"the slice has no such view\n")
            return
        self._answer(200, "image/png", picture, {"Window-Levels": f"{window[0]:.6g},{window[1]:.6g}"})

    def _answer(self, status: int, media_type: str, content: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(more or {}), "Content-Type": media_type}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Write no log: the terminal is the user's."""


def _levels(text: str) -> png.Window:
    low, high = map(float, text.split(","))
    if not -math.inf < low < high < math.inf:
        raise ValueError(text)
    return low, high

"""Static files of the pages, at addresses that change with their content."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".txt": "text/plain"}


@dataclass(frozen=True)
class Asset:
    """A static file."""

    content: bytes
    media_type: str

    @cached_property
    def compressed(self) -> bytes | None:
        """The content by gzip; None where that is no shorter."""
        smaller = gzip.compress(self.content, 9, mtime=0)
        return smaller if len(smaller) < 0.9 * len(self.content) else None


class Assets:
    """All static files, in memory: 3 MB. A name outside them is of no file."""

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self._assets = {path.relative_to(folder).as_posix(): _load(path) for path in paths}
        digest = hashlib.sha256()
        for name, asset in self._assets.items():
            digest.update(f"{name}\0{len(asset.content)}\0".encode())
            digest.update(asset.content)
        self.version = digest.hexdigest()[:12]

    def __contains__(self, name: str) -> bool:
        return name in self._assets

    def __getitem__(self, name: str) -> Asset:
        return self._assets[name]

    def url(self, name: str) -> str:
        """The address of a file. Modules that it imports by relative addresses bear the same version."""
        if name not in self._assets:
            raise KeyError(name)
        return f"/static/{self.version}/{name}"


def _load(path: Path) -> Asset:
    kind = _MEDIA_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Asset(path.read_bytes(), kind)

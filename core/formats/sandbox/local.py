"""Opens scan files without the service, but as the service does: the sandbox reads each into its prepared form."""

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.errors import UnknownFormat
from udig_recon.core.formats.containers.scan_file import ScanFile, open_scan_file
from udig_recon.core.formats.limits import DEFAULT_LIMITS, Limits
from udig_recon.core.formats.prepared import NotWritten, PreparedScan
from udig_recon.core.formats.reading import prepare, probe
from udig_recon.core.formats.sandbox.client import Prober
from udig_recon.core.formats.template import read_template
from udig_recon.core.formats.unsupported import by_file_name
from udig_recon.core.identity import TEMPLATE_BYTES, Identity

BART_PAIR = (".hdr", ".cfl")
"""Suffixes of the two files of a BART scan, which lie beside each other."""


@contextmanager
def open_scan(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> Iterator[PreparedScan]:
    """Open a scan file: its `header`, and its slices by `read`, from a temporary file that holds its prepared form.

    BART's .cfl is read with the .hdr that lies beside it.

    Where a system cannot fork, the file is read in this process. Raises what `udig_recon.core.formats.probe` raises,
    and OSError.
    """
    with ScanReader(limits) as reader, reader.open(Path(path)) as scan:
        yield scan


class ScanReader:
    """A sandbox that probes and opens one scan file after the other, as `open_scan` does."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._prober = Prober() if _can_fork() else None

    def __enter__(self) -> "ScanReader":
        return self

    def __exit__(self, *_: object) -> None:
        if self._prober is not None:
            self._prober.close()

    def probe(self, path: Path) -> tuple[ScanHeader, str]:
        """Header and SHA-256 of a scan file, without its prepared form. Raises as `open_scan` does."""
        with _whole_scan(path) as whole:
            if self._prober is None:
                return probe(whole, self._limits), _sha256(whole)
            return self._prober.probe(whole, self._limits), _sha256(whole)

    @contextmanager
    def open(self, path: Path) -> Iterator[PreparedScan]:
        """Open a scan file. Raises as `open_scan` does."""
        with _whole_scan(path) as whole, tempfile.TemporaryFile() as output:
            self._prepare(whole, output.fileno(), _sha256(whole))
            yield PreparedScan(ScanFile(output.fileno()))

    def _prepare(self, path: Path, output: int, sha256: str) -> None:
        if self._prober is not None:
            self._prober.prepare_scan(path, output, sha256, self._limits)
            return
        try:
            with open_scan_file(path) as file:
                prepare(file, self._limits, sha256, output)
        except NotWritten as error:
            raise OSError(error.args[0], os.strerror(error.args[0])) from None


@contextmanager
def _whole_scan(path: Path) -> Iterator[Path]:
    """The file; of a .cfl with its .hdr beside it, a temporary one with the bytes of both.

    Where it is of no known format the error says what its name says.
    """
    parts = [path.with_suffix(suffix) for suffix in BART_PAIR]
    if path.suffix not in BART_PAIR or not all(part.is_file() for part in parts):
        try:
            yield path
        except UnknownFormat as error:
            raise by_file_name(error, path.name) from None
        return
    with tempfile.NamedTemporaryFile() as both:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, both)
        both.flush()
        yield Path(both.name)


def open_template(path: Path) -> Identity:
    """The identity in a template DICOM, read in the sandbox as a scan is. Raises UnreadableScan and OSError."""
    with path.open("rb") as file:
        content = file.read(TEMPLATE_BYTES)
    if not _can_fork():
        with tempfile.TemporaryFile() as beginning:
            beginning.write(content)
            beginning.flush()
            return read_template(ScanFile(beginning.fileno()))
    prober = Prober()
    try:
        return prober.read_template(content)
    finally:
        prober.close()


def _can_fork() -> bool:
    return hasattr(os, "fork") and hasattr(socket, "send_fds")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_scan_file(path) as file, file.stream() as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

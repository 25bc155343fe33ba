"""Opens a scan file without the service, but as the service does: the sandbox reads it once into its prepared form."""

import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from udig_recon.core.formats.containers.scan_file import ScanFile, open_scan_file
from udig_recon.core.formats.limits import DEFAULT_LIMITS, Limits
from udig_recon.core.formats.prepared import NotWritten, PreparedScan
from udig_recon.core.formats.reading import prepare
from udig_recon.core.formats.sandbox.client import Prober


@contextmanager
def open_scan(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> Iterator[PreparedScan]:
    """Open a scan file: its `header`, and its slices by `read`, from a temporary file that holds its prepared form.

    BART's .cfl is read with the .hdr that lies beside it.

    Where a system cannot fork, the file is read in this process. Raises what `udig_recon.core.formats.probe` raises,
    and OSError.
    """
    with _whole_scan(Path(path)) as whole, tempfile.TemporaryFile() as output:
        _prepare(whole, output.fileno(), _sha256(whole), limits)
        yield PreparedScan(ScanFile(output.fileno()))


@contextmanager
def _whole_scan(path: Path) -> Iterator[Path]:
    """The file; of a .cfl with its .hdr beside it, a temporary one with the bytes of both."""
    parts = [path.with_suffix(".hdr"), path.with_suffix(".cfl")]
    if path.suffix not in (".cfl", ".hdr") or not all(part.is_file() for part in parts):
        yield path
        return
    with tempfile.NamedTemporaryFile() as both:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, both)
        both.flush()
        yield Path(both.name)


def _prepare(path: Path, output: int, sha256: str, limits: Limits) -> None:
    if hasattr(os, "fork") and hasattr(socket, "send_fds"):
        prober = Prober()
        try:
            prober.prepare_scan(path, output, sha256, limits)
        finally:
            prober.close()
        return
    try:
        with open_scan_file(path) as file:
            prepare(file, limits, sha256, output)
    except NotWritten as error:
        raise OSError(error.args[0], os.strerror(error.args[0])) from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_scan_file(path) as file, file.stream() as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

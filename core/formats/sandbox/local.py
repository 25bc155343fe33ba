"""Opens a scan file without the service, but as the service does: the sandbox reads it once into its prepared form."""

import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from udig_recon.core.formats import prepare
from udig_recon.core.formats.containers.scan_file import ScanFile, open_scan_file
from udig_recon.core.formats.limits import DEFAULT_LIMITS, Limits
from udig_recon.core.formats.prepared import NotWritten, PreparedScan
from udig_recon.core.formats.sandbox.client import Prober


@contextmanager
def open_scan(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> Iterator[PreparedScan]:
    """Open a scan file: its `header`, and its slices by `read`, from a temporary file that holds its prepared form.

    Where a system cannot fork, the file is read in this process. Raises what `udig_recon.core.formats.probe` raises,
    and OSError.
    """
    with tempfile.TemporaryFile() as output:
        _prepare(Path(path), output.fileno(), _sha256(Path(path)), limits)
        yield PreparedScan(ScanFile(output.fileno()))


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

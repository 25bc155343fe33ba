"""A scan file of the command line, read as the service reads it: once, in the sandbox, into its prepared form."""

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
def open_scan(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[PreparedScan]:
    """The scan's header and slices, from a temporary file (in TMPDIR) that holds its prepared form.

    Where a system cannot fork, the file is read in this process. Raises what `udig_recon.core.formats.probe` raises,
    and OSError.
    """
    with tempfile.TemporaryFile() as output:
        _prepare(path, output.fileno(), limits)
        yield PreparedScan(ScanFile(output.fileno()))


def _prepare(path: Path, output: int, limits: Limits) -> None:
    if hasattr(os, "fork") and hasattr(socket, "send_fds"):
        prober = Prober()
        try:
            prober.prepare_scan(path, output, "", limits)
        finally:
            prober.close()
        return
    try:
        with open_scan_file(path) as file:
            prepare(file, limits, "", output)
    except NotWritten as error:
        raise OSError(error.args[0], os.strerror(error.args[0])) from None

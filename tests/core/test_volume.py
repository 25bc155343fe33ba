"""The library's one-call interface, and the example of the documentation."""

import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.support.environment import ROOT
from tests.support.scans import ct, mri, write_hdf5
from udig_recon.core import open_scan, reconstruct_volume
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.reconstruct import Event, Finished


@pytest.mark.long
def test_the_example_of_the_documentation_runs_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "for-programmers.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    library, one_slice = (block for block in blocks if "udig_recon" in block)
    assert len(library.strip().splitlines()) <= 8
    write_hdf5(tmp_path / "scan.h5", **mri(2))
    indented = "\n".join(f"    {line}" for line in one_slice.splitlines())
    script = f'{library}\nwith open_scan("scan.h5") as scan:\n{indented}\nprint(image.shape, rating)'
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert nibabel.load(tmp_path / "reconstruction.nii.gz").shape[2] == 2


def test_slices_come_in_the_wanted_order_each_with_its_events(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "scan.h5", **ct(3))
    events: list[tuple[int, Event]] = []
    with open_scan(tmp_path / "scan.h5") as scan:
        volume = reconstruct_volume(
            scan, {"method": "fbp"}, slices=[2, 0], on_event=lambda number, event: events.append((number, event))
        )
        alone = reconstruct_volume(scan, {"method": "fbp"}, slices=[2])
    assert volume.info.slice_numbers == (2, 0)
    np.testing.assert_array_equal(volume.images[0], alone.images[0])
    assert [number for number, event in events if isinstance(event, Finished)] == [2, 0]
    volume.save(tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), volume.images)


def test_errors_say_what_was_found_and_what_is_expected(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "scan.h5", **ct(1))
    with open_scan(tmp_path / "scan.h5") as scan:
        with pytest.raises(ReconstructionError, match=r"slices: found 4, expected 0 to 0"):
            reconstruct_volume(scan, {"method": "fbp"}, slices=[4])
        with pytest.raises(ReconstructionError, match=r"seeds: found 0, expected 1 to 64"):
            reconstruct_volume(scan, {"method": "fbp"}, seeds=0)
        volume = reconstruct_volume(scan, {"method": "fbp"})
    with pytest.raises(ReconstructionError, match=r"output: found out.jpg, expected a name that ends in one of .h5"):
        volume.save(tmp_path / "out.jpg")


def test_importing_the_engine_does_not_import_torch() -> None:
    script = "import sys, udig_recon.core; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"

"""The curl lines of README and documents, run as they stand against a service that was started as readers would."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from tests.support import orthanc
from tests.support.orthanc import Orthanc
from tests.support.worker_processes import until
from udig_recon.core import metrics
from udig_recon.core.cli import UDIG
from udig_recon.core.simulation import birdcage_maps, cartesian_lines, simulate_mri

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc | None]:
    """An archive, where Orthanc is installed."""
    if not orthanc.IS_INSTALLED:
        yield None
        return
    with orthanc.archive(tmp_path_factory.mktemp("orthanc"), AuthenticationEnabled=False) as made:
        yield made


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, archive: Orthanc | None) -> Iterator[str]:
    """A service on a free port with a data folder of its own, ended as by Ctrl-C."""
    folder = tmp_path_factory.mktemp("service")
    servers = ("DATABASE_URL", "REDIS_URL")
    environment = {key: value for key, value in os.environ.items() if key not in servers}
    environment |= {"DATA": str(folder / "data"), "PORT": "0", "WORKERS": "1", "DEVICE": "cpu"}
    if archive is not None:
        file = folder / "destinations.toml"
        file.write_text(f'[orthanc-web]\nkind = "dicomweb"\nurl = "{archive.dicomweb}"\ntenants = ["default"]\n')
        environment["DESTINATIONS_FILE"] = str(file)
    log = folder / "log"
    with (
        log.open("w") as sink,
        subprocess.Popen(
            [*UDIG, "serve"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
        ) as service,
    ):
        assert service.stdout is not None
        found = next((match for line in service.stdout if (match := re.search(r"http://\S+", line))), None)
        assert found, log.read_text()
        try:
            yield found[0].rstrip("/")
        finally:
            service.terminate()
            service.communicate(timeout=60)
    assert service.returncode == 0, log.read_text()


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """An ellipse with a hole, seen by 4 coils through half of k-space."""
    y, x = np.mgrid[-1:1:48j, -1:1:40j]
    image = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1).astype(np.complex64) - 0.6 * (np.hypot(x - 0.2, y) < 0.2)
    rng = np.random.default_rng(0)
    acquisition = simulate_mri(
        image.astype(np.complex64), birdcage_maps(4, image.shape), cartesian_lines(image.shape, 2, 0.3, rng), rng
    )
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = acquisition.kspace
        file["mask"] = acquisition.mask
        file["reference"] = acquisition.reference
    return path


def travelled(url: str, scan: Path, folder: Path, *parts: str, page: str = "README.md") -> str:
    """What the marked parts of a page print, one after the other in one shell."""
    text = (ROOT / page).read_text()
    found = [re.search(rf"<!-- {part} -->\s*```bash\n(.*?)```", text, re.DOTALL) for part in parts]
    shell = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(lines[1] for lines in found if lines)],
        cwd=folder,
        env={**os.environ, "URL": url, "SCAN": str(scan)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert all(found)
    assert shell.returncode == 0, shell.stdout + shell.stderr
    return shell.stdout


@pytest.mark.skipif(not orthanc.IS_INSTALLED, reason="Debian's orthanc and orthanc-dicomweb are missing")
def test_the_page_for_integrators_brings_an_image_into_an_archive(
    url: str, scan: Path, archive: Orthanc, tmp_path: Path
) -> None:
    assert '"orthanc-web"' in travelled(url, scan, tmp_path, "archive", page="docs/for-integrators.md")
    until(lambda: archive.statistics()["CountInstances"] >= 2)  # the image, and the picture of its comparison


def test_the_readme_journey_brings_a_reconstruction_home(url: str, scan: Path, tmp_path: Path) -> None:
    told = travelled(url, scan, tmp_path, "journey")
    assert "event: snapshot" in told
    assert told.rstrip().rpartition("event: ")[2].startswith("done")
    with h5py.File(tmp_path / "reconstruction.h5") as file:
        ours, plain, reference = (file[name][0] for name in ("reconstruction", "zero_filled", "reference"))
        assert file["reconstruction_complex"].shape == (1, 48, 40)
        assert len(file.attrs["scan_sha256"]) == 64
    assert metrics.psnr(ours, reference) > metrics.psnr(plain, reference) + 3
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_five_lines_of_a_programmer_bring_an_image_home(url: str, scan: Path) -> None:
    found = re.search(
        r"<!-- client -->\n```python\n(.*?)```", (ROOT / "docs/for-programmers.md").read_text(), re.DOTALL
    )
    assert found
    environment = {**os.environ, "UDIG_URL": url}
    done = subprocess.run(
        [sys.executable, "-c", found[1]], cwd=scan.parent, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "rating=" in done.stdout
    assert nibabel.load(scan.parent / "image.nii.gz").shape == (40, 48, 1)


def test_the_readme_comparison_ends_with_a_table_a_ranking_and_a_picture(url: str, scan: Path, tmp_path: Path) -> None:
    told = travelled(url, scan, tmp_path, "comparison")
    assert "| tv weight 0.01 |" in told
    assert '"rank":1' in told
    assert (tmp_path / "panel.png").read_bytes().startswith(b"\x89PNG")

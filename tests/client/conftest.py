"""A service with a worker and a key, and a scan for it, which the tests of a module share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import scans
from tests.support.client_world import Service, running_service
from udig_recon.worker.settings import Settings


@pytest.fixture(scope="module")
def service(module_settings: Settings) -> Iterator[Service]:
    """API and worker as processes of their own, with authentication on."""
    with running_service(module_settings) as running:
        yield running


@pytest.fixture(scope="session")
def mri_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MR scan of two slices with a reference, as a file."""
    return scans.write_hdf5(tmp_path_factory.mktemp("scan") / "scan.h5", **scans.mri())

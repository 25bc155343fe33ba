"""The API in this process, the API as a process of its own, and a scan that lies behind it."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser
from sqlalchemy.orm import Session, sessionmaker

from tests.support import scans
from tests.support.api_server import serving
from tests.support.browser import chromium
from tests.support.fake_worker import Drive
from tests.support.keyed_client import KeyedApi
from udig_recon.api.app import create_app
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.local import LocalStorage


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """The application in this process; an error that nobody foresaw fails the test."""
    with TestClient(create_app(settings)) as made:
        yield made


@pytest.fixture
def server(settings: Settings) -> Iterator[str]:
    """URL of the API as a process of its own."""
    with serving(settings) as served:
        yield served.url


@pytest.fixture(scope="session")
def mri_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An MR scan of two slices."""
    return scans.GOOD["fastmri"](tmp_path_factory.mktemp("scan") / "scan").read_bytes()


@pytest.fixture(scope="session")
def ct_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A CT scan of two slices."""
    return scans.GOOD["sinogram"](tmp_path_factory.mktemp("scan") / "scan").read_bytes()


@pytest.fixture
def scan(client: TestClient, mri_file: bytes) -> dict[str, Any]:
    """The MR scan, posted."""
    answer = client.post("/v1/scans", content=mri_file)
    assert answer.status_code == 201, answer.text
    posted: dict[str, Any] = answer.json()
    return posted


@pytest.fixture
def drive(database: sessionmaker[Session], storage: LocalStorage) -> Drive:
    """What a worker would do, step by step."""
    return Drive(database, storage)


@pytest.fixture
def keyed_api(settings: Settings, database: sessionmaker[Session]) -> Iterator[KeyedApi]:
    with TestClient(create_app(settings.model_copy(update={"authentication": "on"}))) as client:
        yield KeyedApi(client, database)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium for the tests of a module; each opens a `tests.support.browser.tab` of its own."""
    with chromium() as opened:
        yield opened

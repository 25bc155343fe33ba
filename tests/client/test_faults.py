"""The client against the real service, while connections are cut, bytes are spoilt and the API restarts."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.support import scans
from tests.support.api_server import serving
from tests.support.client_world import Service, running_service
from tests.support.cutting_proxy import proxy_to
from tests.support.fake_worker import Drive
from tests.support.worker_processes import until
from udig_client import Client, Conflict, DamagedDownload, QuotaExceeded, Snapshot, StatusChange, Unauthenticated
from udig_recon.worker.database.engine import make_engine, make_sessions
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage.local import LocalStorage


@pytest.fixture(scope="module")
def service(module_settings: Settings) -> Iterator[Service]:
    """An API with authentication on, and no worker."""
    with running_service(module_settings, workers=0) as running:
        yield running


@contextmanager
def driving(settings: Settings) -> Iterator[Drive]:
    """What a worker of this service would do."""
    engine = make_engine(str(settings.database_url))
    yield Drive(make_sessions(engine), LocalStorage(settings.data))
    engine.dispose()


@pytest.fixture
def large_scan(tmp_path: Path) -> Path:
    """A scan of many bytes."""
    path = tmp_path / "large.npy"
    np.save(path, scans.mri(slices=2, size=128)["kspace"])
    return path


@pytest.mark.parametrize("pieces", [2, 50])
def test_an_upload_that_is_cut_three_times_arrives_whole(service: Service, large_scan: Path, pieces: int) -> None:
    size = large_scan.stat().st_size
    large_scan.write_bytes(large_scan.read_bytes()[:-1] + bytes([pieces]))  # bytes that no other test has brought
    with proxy_to(service.url) as proxy, Client(proxy.url, service.key, piece_bytes=size // pieces) as client:
        client.health()
        proxy.cut_after(size // 5, size // 3, size // 4)
        scan = client.upload(large_scan)
        assert (proxy.cuts, scan.size_bytes) == (3, size)
        assert client.scan_file(scan) == large_scan.read_bytes()


def test_a_download_that_is_cut_or_spoilt_is_whole_or_refused(service: Service, mri_scan: Path, tmp_path: Path) -> None:
    with Client(service.url, service.key) as client:
        job = client.submit(mri_scan, "zero_filled")
        with driving(service.settings) as drive:
            drive.complete({"id": job.id, "slice_numbers": job.slice_numbers})
        content = client.result(job)
    with proxy_to(service.url) as proxy, Client(proxy.url, service.key) as client:
        client.health()
        proxy.cut_after(len(content) // 2, len(content) // 3)
        client.result(job, tmp_path / "image.h5")
        assert proxy.cuts == 2
        assert (tmp_path / "image.h5").read_bytes() == content
    with (
        proxy_to(service.url, lambda block: block.replace(b"\x89HDF", b"\x89HDG")) as proxy,
        Client(proxy.url, service.key) as client,
        pytest.raises(DamagedDownload),
    ):
        client.result(job, tmp_path / "spoilt.h5")
    assert not (tmp_path / "spoilt.h5").exists()


def test_what_the_service_refuses_says_why(service: Service, mri_scan: Path) -> None:
    with Client(service.url, service.key) as admin, Client(service.url, patience=0) as client:
        made = admin.create_key("one job", ["read", "write"], max_open_jobs=1)
        assert "udig_" not in repr(made)
        with Client(service.url, made.key, patience=0) as limited:
            scan = limited.upload(mri_scan)
            job = limited.submit(scan, "tv", iterations=100_000)
            with pytest.raises(QuotaExceeded) as refused:
                limited.submit(scan, "tv", iterations=100_000)
            assert refused.value.retry_after
            with pytest.raises(Conflict):
                limited.result(job)
            limited.cancel(job)
        with pytest.raises(Unauthenticated, match="API key"):
            client.tenant()


def test_following_goes_on_when_the_api_restarts(
    settings: Settings, mri_scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udig_client.retry.LONGEST_WAIT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = settings.model_copy(update={"port": port})
    events: list[Snapshot | StatusChange] = []
    with Client(f"http://127.0.0.1:{port}") as client, driving(settings) as drive:
        with serving(settings):
            job = client.submit(mri_scan, "tv", slices=[0])

            def follow() -> None:
                for event in client.follow(job):
                    events.append(event)

            follower = threading.Thread(target=follow)
            follower.start()
            claim = drive.claim({"id": job.id})
            drive.report(claim, 1)
            until(lambda: any(isinstance(each, Snapshot) for each in events))
        drive.report(claim, 2)
        with serving(settings):
            drive.report(claim, 3)
            drive.finish(claim)
            follower.join(60)
    assert [each.iteration for each in events if isinstance(each, Snapshot)] == [1, 2, 3]
    assert [each.status for each in events if isinstance(each, StatusChange) and each.done] == ["succeeded"]

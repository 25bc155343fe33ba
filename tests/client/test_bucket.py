"""The client and a service on a bucket: large files go there, and results come from there, without the API key."""

from pathlib import Path

import httpx2
import pytest
from sqlalchemy.orm import Session, sessionmaker

from tests.support import scans
from tests.support.api_server import serving
from tests.support.fake_worker import Drive
from udig_client import Client
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.backends import open_storage


def test_a_large_file_and_a_result_go_between_client_and_bucket(
    settings: Settings, database: sessionmaker[Session], bucket_url: str, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"data_store": bucket_url, "result_redirect": True})
    path, storage = scans.GOOD["fastmri"](tmp_path / "scan.h5"), open_storage(settings)
    with serving(settings) as served, Client(served.url, "udig_unused", piece_bytes=1000) as client:
        told: list[int] = []
        scan = client.upload(path, progress=lambda progress: told.append(progress.done))
        assert scan.size_bytes == path.stat().st_size
        assert told == [path.stat().st_size]
        assert list(storage.list(keys.PARTS)) == []
        job = client.submit(scan, "zero_filled", slices=[0])
        drive = Drive(database, storage)
        drive.finish(drive.claim({"id": job.id}))
        assert httpx2.get(f"{served.url}/v1/jobs/{job.id}/result", follow_redirects=False).status_code == 307
        client.result(job, tmp_path / "image.h5")
        (result,) = [each.key for each in storage.list(keys.JOBS) if each.key.endswith(".h5")]
        assert (tmp_path / "image.h5").read_bytes() == storage.read(result)
        with pytest.raises(ValueError, match="is of a file of"):
            client.upload(tmp_path / "image.h5", resume=_begin(served.url))


def _begin(url: str) -> str:
    return str(httpx2.post(f"{url}/v1/direct-uploads", json={"size_bytes": 5}).json()["id"])

"""A 3-D scan from the door to its images: two workers share its slices, and every output says where it lay."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from tests.support import mrd_maker
from tests.support.mrd_volume_maker import VolumePlan, make
from tests.support.worker_processes import until, working
from udig_recon.core import open_scan, reconstruct_volume
from udig_recon.core.cli.main import main
from udig_recon.worker.database.tables import Worker
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage

PLAN = VolumePlan(contrasts=2, columns=8, partitions=26, image_partitions=20, noise=0.02)
METHOD = "cg_sense"


def alive(database: sessionmaker[Session]) -> int:
    with database() as session:
        return session.scalar(select(func.count()).select_from(Worker)) or 0


@pytest.mark.long
def test_two_workers_share_a_volume_and_make_what_one_process_makes(
    client: TestClient, settings: Settings, database: sessionmaker[Session], storage: LocalStorage, tmp_path: Path
) -> None:
    made = make(PLAN)
    path = mrd_maker.write(tmp_path / "scan.h5", made)  # type: ignore[arg-type]
    answer = client.post("/v1/scans", content=path.read_bytes())
    assert answer.status_code == 201, answer.text
    scan = answer.json()
    np.testing.assert_allclose(scan["affine"], made.affine, atol=1e-3)
    assert (scan["slices"], scan["frames"][9]["slice"], scan["frames"][9]["contrast"]) == (16, 1, 1)
    assert scan["prewhitened"]
    # Both workers prepare it anew at once.
    storage.delete(keys.prepared_scan(scan["sha256"]))
    body = {"scan_id": scan["id"], "parameters": {"method": METHOD}, "outputs": ["h5", "nifti", "npy"]}
    with working(settings, 2):
        until(lambda: alive(database) == 2)
        job: dict[str, Any] = client.post("/v1/jobs", json=body).json()
        until(lambda: client.get(job["links"]["self"]).json()["status"] in ("succeeded", "failed"))
    job = client.get(job["links"]["self"]).json()
    assert job["status"] == "succeeded", job["error"]
    assert len(job["worker"].split(", ")) == 2
    (tmp_path / "service.nii.gz").write_bytes(client.get(f"{job['links']['result']}?format=nifti").content)
    service = nibabel.load(tmp_path / "service.nii.gz")
    assert service.shape == (20, 24, 8, 2)
    assert main(["recon", str(path), "-o", str(tmp_path / "own.nii.gz"), "--method", METHOD]) == 0
    own = nibabel.load(tmp_path / "own.nii.gz")
    np.testing.assert_array_equal(np.asarray(own.dataobj), np.asarray(service.dataobj))
    for image in (own, service):
        for transform in (image.header.get_qform(), image.header.get_sform()):
            for corner in np.ndindex(2, 2, 2):
                voxel = np.array(corner) * (np.array(image.shape[:3]) - 1)
                expected = np.diag([-1, -1, 1, 1]) @ made.affine @ (*voxel, 1)
                np.testing.assert_allclose(transform @ (*voxel, 1), expected, atol=0.01)
    with open_scan(path) as opened:
        volume = reconstruct_volume(opened, {"method": METHOD})
    np.testing.assert_array_equal(np.asarray(service.dataobj).transpose(3, 2, 1, 0).reshape(16, 24, 20), volume.images)

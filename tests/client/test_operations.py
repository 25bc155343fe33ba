"""Every operation of the OpenAPI document through the client, sync and async, and jobs through its commands.

A new operation is a line of DRIVES.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import httpx
import numpy as np
import pytest

from tests.support import bart_maker, scans
from tests.support.client_world import Recorder, Service, client_of
from udig_client import Client, InvalidScan, Job, NotFound, ProblemError, Scan, cli, operations


class World(NamedTuple):
    """A client, and what there is to ask for."""

    client: Any
    path: Path
    scan: Scan
    job: Job  # succeeded
    comparison: Any  # succeeded

    def fresh_job(self) -> Job:
        """A job that has only just been submitted, and is too long to end by itself."""
        job: Job = self.client.submit(self.scan, "tv", iterations=100_000, slices=[0])
        return job

    def fresh_comparison(self) -> Any:
        """A comparison that has only just been submitted, and is too long to end by itself."""
        return self.client.compare([self.scan], [{"method": "tv", "iterations": 100_000}], slices=[0])

    def fresh_key(self) -> Any:
        return self.client.create_key("another", ["read"], max_open_jobs=3)

    def in_pieces(self) -> Scan:
        """The scan again, uploaded in several pieces."""
        _inner(self.client).piece_bytes = self.scan.size_bytes // 3
        uploaded: Scan = self.client.upload(self.path)
        assert uploaded.id == self.scan.id
        return uploaded

    def begun_upload(self) -> str:
        """The id of an upload that nothing has come of."""
        begun: str = self.client.send(operations.create_upload(1000, "begun.h5"))
        return begun

    def cancelled_job(self) -> Job:
        job = self.fresh_job()
        self.client.cancel(job)
        ended: Job = self.client.wait(job, timeout=60)
        return ended


DRIVES: dict[str, Callable[[World], Any]] = {
    "create_scan": lambda w: w.client.upload(w.path),
    "list_scans": lambda w: list(w.client.scans(page_size=1)),
    "get_scan": lambda w: w.client.scan(w.scan),
    "get_scan_file": lambda w: w.client.scan_file(w.scan) == w.path.read_bytes(),
    "get_scan_preview": lambda w: w.client.scan_preview(w.scan, slice=0).startswith(b"\x89PNG"),
    "delete_scan": lambda w: _gone(w.client.scan, w.client.delete_scan, _another_scan(w).id),
    "get_upload_options": lambda w: w.client.upload_options(),
    "create_upload": lambda w: w.in_pieces(),
    "append_to_upload": lambda w: w.in_pieces(),
    "list_uploads": lambda w: w.begun_upload() and list(w.client.unfinished_uploads(page_size=1)),
    "get_upload": lambda w: w.client.unfinished_upload(w.begun_upload()),
    "delete_upload": lambda w: _gone(w.client.unfinished_upload, w.client.delete_upload, w.begun_upload()),
    "create_direct_upload": lambda w: _refused(lambda: w.client.send(operations.create_direct_upload(9, "a")), 409),
    "get_direct_upload": lambda w: _refused(lambda: w.client.send(operations.get_direct_upload(w.begun_upload())), 409),
    "create_job": lambda w: w.client.submit(w.scan, "zero_filled"),
    "list_jobs": lambda w: list(w.client.jobs(scan=w.scan, status="succeeded", method="cg_sense", page_size=2)),
    "get_job": lambda w: w.client.job(w.job),
    "cancel_job": lambda w: w.cancelled_job(),
    "retry_job": lambda w: _refused(lambda: w.client.retry(w.job, max_seconds=60.0), 409),
    "delete_job": lambda w: _gone(w.client.job, w.client.delete_job, w.fresh_job().id),
    "list_job_snapshots": lambda w: list(w.client.snapshots(w.job, slice=0)),
    "stream_job_events": lambda w: list(w.client.follow(w.job)),
    "get_job_result": lambda w: w.client.result(w.job),
    "get_job_preview": lambda w: w.client.preview(w.job, slice=0, view="direct", window=(0.0, 1e-2)),
    "create_comparison": lambda w: w.client.compare([w.scan], ["zero_filled"], seeds=[1], tags={"a": "b"}),
    "list_comparisons": lambda w: list(w.client.comparisons()),
    "get_comparison": lambda w: w.client.comparison(w.comparison),
    "get_comparison_table": lambda w: w.client.table(w.comparison, format="csv"),
    "get_comparison_ranking": lambda w: w.client.rankings(w.comparison),
    "get_comparison_panel": lambda w: w.client.panel(w.comparison, scan=w.scan, seed=0, slice=0),
    "cancel_comparison": lambda w: w.client.cancel_comparison(w.fresh_comparison()),
    "delete_comparison": lambda w: _gone(w.client.comparison, w.client.delete_comparison, w.fresh_comparison().id),
    "create_key": lambda w: w.fresh_key(),
    "list_keys": lambda w: list(w.client.keys(page_size=2)),
    "rotate_key": lambda w: w.client.rotate_key(w.fresh_key(), overlap_minutes=1),
    "revoke_key": lambda w: w.client.revoke_key(w.fresh_key()) or True,
    "get_tenant": lambda w: w.client.tenant(),
    "list_methods": lambda w: w.client.methods(),
    "list_destinations": lambda w: w.client.destinations() == [],
    "list_priors": lambda w: w.client.priors(),
    "list_workers": lambda w: w.client.workers().queue,
    "get_health": lambda w: w.client.health(),
    "get_readiness": lambda w: w.client.readiness(),
    "get_metrics": lambda w: w.client.metrics(),
}
"""What drives each operation; its answer is something that is true."""


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{service.url}/openapi.json").json()
    return found


@pytest.fixture(scope="module", params=["sync", "async"])
def world(
    request: pytest.FixtureRequest, service: Service, document: dict[str, Any], mri_scan: Path
) -> Iterator[World]:
    with client_of(request.param, service, Recorder(document)) as client:
        scan = client.upload(mri_scan)
        job = client.submit(scan, "cg_sense", outputs=["h5"])
        comparison = client.compare([scan], ["zero_filled", {"method": "cg_sense"}], slices=[0])
        comparison = client.wait_comparison(comparison, timeout=120)
        assert comparison.status == "succeeded", comparison
        yield World(client, mri_scan, scan, client.wait(job, timeout=60).check(), comparison)


def test_every_operation_of_the_document_has_its_line(document: dict[str, Any]) -> None:
    assert set(DRIVES) == Recorder(document).operations


@pytest.mark.parametrize("operation", DRIVES)
def test_an_operation_is_reached_through_the_client(world: World, document: dict[str, Any], operation: str) -> None:
    recorder = Recorder(document)
    _transport(world).recorder = recorder
    assert DRIVES[operation](world)
    assert operation in recorder.asked


def _inner(client: Any) -> Any:
    """The client itself, where it is an async one that blocks."""
    return getattr(client, "_target", client)


def _transport(world: World) -> Any:
    return world.client._http._transport


def _gone(read: Callable[[str], Any], delete: Callable[[str], Any], id_: str) -> bool:
    """Whether it was there, and after it was deleted is not."""
    assert read(id_)
    delete(id_)
    with pytest.raises(NotFound):
        read(id_)
    return True


def _refused(call: Callable[[], Any], status: int) -> bool:
    with pytest.raises(ProblemError) as refused:
        call()
    return bool(refused.value.status == status)


def _another_scan(world: World) -> Scan:
    """The same scan with bytes that no other has."""
    path = world.path.with_name("another.npy")
    np.save(path, scans.mri(slices=1)["kspace"])
    found: Scan = world.client.upload(path)
    return found


def test_a_header_in_a_file_of_its_own_goes_with_the_scan(world: World, tmp_path: Path) -> None:
    kspace = bart_maker.in_bart_order(scans.mri()["kspace"], "slice coil phase_1 read")
    (tmp_path / "brain.cfl").write_bytes(bart_maker.cfl(kspace))
    (tmp_path / "brain.hdr").write_bytes(bart_maker.hdr(kspace))
    scan = world.client.upload(tmp_path / "brain.cfl", header=tmp_path / "brain.hdr")
    assert (scan.format, scan.filename, scan.slices, scan.coils) == ("bart", "brain.cfl", 2, 4)
    (tmp_path / "no.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InvalidScan) as refused:
        world.client.upload(world.path, template=tmp_path / "no.dcm")
    assert refused.value.errors[0].field == "template"


# By commands


@pytest.fixture
def environment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UDIG_URL", service.url)
    monkeypatch.setenv("UDIG_KEY", service.key)


@pytest.mark.usefixtures("environment")
def test_a_scan_goes_from_submit_to_a_file(mri_scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            ["submit", str(mri_scan), "--method", "tv", "--set", "iterations=5", "weight=0.01", "--slices", "0", "1"]
        )
        == 0
    )
    job_id, _, name = capfd.readouterr().out.strip().partition("  ")
    assert name == str(mri_scan)
    assert cli.main(["follow", job_id]) == 0
    out = capfd.readouterr().out
    assert out.startswith(f"{job_id}  succeeded")
    assert cli.main(["result", job_id, "-o", str(tmp_path / "image.npy")]) == 0
    assert np.load(tmp_path / "image.npy").shape == (2, 32, 32)
    capfd.readouterr()
    assert cli.main(["jobs", "--status", "succeeded", "-n", "1", "--json"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    listed = json.loads(line)
    assert (listed["id"], listed["parameters"]["weight"], listed["slice_numbers"]) == (job_id, 0.01, [0, 1])
    assert cli.main(["destinations"]) == 0
    assert capfd.readouterr().out == ""
    assert cli.main(["cancel", job_id]) == 3
    error = capfd.readouterr().err
    assert error.startswith("error: Conflict: ")
    assert error.count("\n") == 1


@pytest.mark.usefixtures("environment")
def test_submit_with_an_output_waits_and_saves(
    mri_scan: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.h5"
    assert cli.main(["submit", str(mri_scan), "--method", "zero_filled", "-o", str(image), "--tag", "study=knee"]) == 0
    with h5py.File(image) as file:
        assert file["reconstruction"].shape == (2, 32, 32)
    capfd.readouterr()
    assert cli.main(["jobs", "--tag", "study:knee"]) == 0
    assert "succeeded" in capfd.readouterr().out


@pytest.mark.usefixtures("environment")
def test_a_job_that_does_not_succeed_is_status_1(
    service: Service, mri_scan: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Client(service.url, service.key) as client:
        job = client.submit(mri_scan, "tv", iterations=100_000)
    assert cli.main(["cancel", job.id]) == 0
    capfd.readouterr()
    assert cli.main(["follow", job.id, "--json"]) == 1
    told = capfd.readouterr()
    assert json.loads(told.out.splitlines()[-1])["done"] is True
    assert told.err == f"error: job {job.id} was cancelled\n"
    assert cli.main(["result", job.id, "-o", "image.h5", "--wait"]) == 1

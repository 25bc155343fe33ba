"""A canary: what names a patient in a file, its name or its tags is found nowhere but where it was put."""

import base64
import io
import json
import logging
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import httpx2
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from tests.support import scans
from tests.support.api_server import serving
from tests.support.dicom_objects import Peer, peer
from tests.support.worker_processes import until, working
from udig_recon.worker.settings import Settings
from udig_recon.worker.storage import keys
from udig_recon.worker.storage.local import LocalStorage
from udig_recon.worker.storage.scans import identity_of
from udig_recon.worker.telemetry import logs

CANARY = "Mustermann"
NAME, BORN, NUMBER = f"{CANARY}^Erika", "1971-02-03", "PAT4711007"
PATIENT = (
    f"<subjectInformation><patientName>{NAME}</patientName><patientID>{NUMBER}</patientID>"
    f"<patientBirthdate>{BORN}</patientBirthdate></subjectInformation>"
)
Damage = Callable[[h5py.File], None]


def named(scan: dict[str, Any], damage: Damage | None = None) -> bytes:
    """A scan whose header, attributes and groups name a patient, as files from scanners do."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, value in scan.items():
            if isinstance(value, np.ndarray):
                file[name] = value
            else:
                file.attrs[name] = value
        file.attrs["patient_id"] = NAME
        file.create_group(NAME).attrs["PatientName"] = NAME
        if "kspace" in scan:
            header = scans.header(scan["kspace"], 32, 32).replace("<encoding>", f"{PATIENT}<encoding>", 1)
            file["ismrmrd_header"] = header.encode()
        if damage is not None:
            damage(file)
    return buffer.getvalue()


def change(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


DAMAGE: dict[str, tuple[dict[str, Any], Damage]] = {
    "broken header": (scans.mri(), lambda file: change(file, "ismrmrd_header", f"<a>{NAME}</b>".encode())),
    "trajectory": (
        scans.mri(),
        lambda file: change(file, "ismrmrd_header", f"<h><encoding><trajectory>{NAME}</trajectory></encoding></h>"),
    ),
    "external link": (scans.mri(), lambda file: file.__setitem__("x", h5py.ExternalLink(f"/{NAME}.h5", NAME))),
    "soft link": (scans.mri(), lambda file: file.__setitem__(f"{NAME}-link", h5py.SoftLink(f"/{NAME}"))),
    "record": (
        scans.mri(),
        lambda file: change(file, "kspace", np.zeros((2, 4, 32, 32), [(NAME, "f4"), ("imaginary", "f4"), ("x", "i1")])),
    ),
    **{
        f"attribute {name}": (scans.ct(), lambda file, name=name: file.attrs.__setitem__(name, NAME))
        for name in ("geometry", "quantity", "image_size", "pixel_size_mm")
    },
    "attribute of the wrong kind": (
        scans.ct(),
        lambda file: file.attrs.__setitem__("geometry", np.zeros(3, [(NAME, "f4")])),
    ),
}


def not_hdf5() -> Iterator[bytes]:
    """Files of other formats that name a patient."""
    record = io.BytesIO()
    np.save(record, np.zeros(9, [(NAME, "f4")]))
    yield record.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr(f"{NAME}.npy", NAME)
        members.writestr("kspace.npy", NAME)
    yield archive.getvalue()
    yield archive.getvalue()[:-30]
    yield f"PatientName: {NAME}".encode()
    dicom, tagged = io.BytesIO(), pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    tagged.PatientName, tagged.PatientID, tagged.PatientBirthDate = NAME, NUMBER, BORN.replace("-", "")
    tagged.save_as(dicom)
    yield dicom.getvalue()


def stored(database: sessionmaker[Session]) -> str:
    """Every value of every table; of scans without the name that the client gave the file, which is for people."""
    with database() as session:
        names = session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        assert {"scans", "jobs", "job_slices", "snapshots", "audit"} <= set(names)
        rows = {name: [row[0] for row in session.execute(text(f"SELECT to_jsonb(t) FROM {name} t"))] for name in names}
    assert any(NAME in scan.pop("filename") for scan in rows["scans"])
    return json.dumps(rows)


def archives(plain: Peer, identified: Peer) -> str:
    """Destinations, one of which is to get identifiers."""
    lines = 'kind = "dimse"\nhost = "127.0.0.1"\nae_title = "ARCHIVE"\ntenants = ["*"]\n'
    both = f"[plain]\n{lines}port = {plain.port}\n[identified]\n{lines}port = {identified.port}\n"
    return f"{both}identifiers = true\n"


def sent(client: httpx2.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Deliveries of a job."""
    found: list[dict[str, Any]] = client.get(job["links"]["self"]).json()["deliveries"]
    return found


def test_a_canary_in_a_scan_is_found_nowhere_else(
    settings: Settings, database: sessionmaker[Session], storage: LocalStorage
) -> None:
    told: list[str] = []
    with (
        peer() as plain,
        peer() as identified,
        serving(settings.model_copy(update={"destinations": archives(plain, identified)})) as served,
        httpx2.Client(base_url=served.url, timeout=60) as client,
        working(settings) as (worker,),
    ):

        def said(answer: httpx2.Response) -> httpx2.Response:
            told.append(f"{answer.headers} {answer.text}")
            return answer

        refused = [named(scan, damage) for scan, damage in DAMAGE.values()] + list(not_hdf5())
        for content in refused:
            headers = {"X-Filename": f"{NAME}.h5", "Repr-Digest": "sha-256=:AAAA:"}
            assert said(client.post("/v1/scans", content=content, headers=headers)).status_code in (415, 422)
            assert said(client.post("/v1/scans", content=content, params={"filename": NAME})).status_code in (415, 422)
            form = {"scan": (f"{NAME}.h5", content), "job": (None, "{}")}
            assert said(client.post("/v1/jobs", files=form)).status_code in (415, 422)
            metadata = {"Upload-Metadata": f"filename {base64.b64encode(NAME.encode()).decode()}"}
            begun = client.post("/v1/uploads", headers={"Upload-Length": str(len(content)), **metadata})
            piece = {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
            assert said(client.patch(begun.headers["location"], content=content, headers=piece)).status_code == 204
            assert said(client.post("/v1/scans", json={"upload_id": begun.json()["id"]})).status_code in (415, 422)
        assert said(client.post("/v1/scans", content=b"x", params={"filename": NAME * 99})).status_code == 415
        posted = client.post("/v1/scans", content=named(scans.mri()), headers={"X-Filename": f"{NAME}.h5"}).json()
        assert posted["filename"] == f"{NAME}.h5"
        # A template that names the patient, with the scan and broken.
        *_, dicom = not_hdf5()
        part = (f"{NAME}.h5", named(scans.mri()))
        accepted = client.post("/v1/scans", files={"file": part, "template": (NAME, dicom)})
        assert accepted.status_code == 200  # it tells the name of the file, which is for people
        assert said(client.post("/v1/scans", files={"file": part, "template": (NAME, dicom[:200])})).status_code == 422
        known = identity_of(storage, "default", posted["sha256"])
        assert known is not None
        assert known.patient_name == NAME
        outputs = ["h5", "nifti", "png", "dicom"]
        job = {"scan_id": posted["id"], "parameters": {"method": "cg_sense"}, "outputs": outputs}
        job |= {"destinations": ["plain", "identified"]}
        good = said(client.post("/v1/jobs", json=job)).json()
        until(lambda: client.get(good["links"]["self"]).json()["status"] == "succeeded")
        until(lambda: {each["state"] for each in sent(client, good)} == {"delivered"})
        assert NAME in str(identified.stored)
        told.append(str(plain.stored))
        for path in good["links"].values():
            if not path.endswith(("cancel", "retry", posted["id"])):
                told.append(str(said(client.get(path)).content))
        told += [str(client.get(f"{good['links']['self']}/result?format={kind}").content) for kind in ("h5", "nifti")]
        scan = f"/v1/scans/{posted['id']}"
        told += [str(client.get(path).content) for path in (f"{scan}/preview.png", "/v1/workers", "/workers")]
        # The file comes back as it is, under its own name, to whoever may have it; the log tells neither.
        assert NAME.encode() in client.get(f"{scan}/file").content
        assert client.get("/jobs", params={"tag": NAME}, headers={"Accept": "text/html"}).status_code == 200
        for kind in ("dicom", "dicom_maps", "cfl"):
            archive = client.get(f"{good['links']['self']}/result?format={kind}").content
            with zipfile.ZipFile(io.BytesIO(archive)) as members:
                told += [str(members.read(name)) for name in members.namelist()]
        assert said(client.get("/readyz")).status_code == said(client.get("/metrics")).status_code == 200
        # Files that are damaged after they were accepted fail their job, and the log says where.
        for path in (storage.path(keys.scan(posted["sha256"])), storage.path(keys.prepared_scan(posted["sha256"]))):
            path.write_bytes(named(*DAMAGE["broken header"]))
        failed = said(client.post("/v1/jobs", json=job)).json()
        until(lambda: client.get(failed["links"]["self"]).json()["status"] == "failed")
        said(client.get(failed["links"]["self"]))
    told += [served.log.read_text(), *worker.lines, stored(database)]
    assert len(told) > 60
    forms = (
        CANARY,
        NUMBER,
        BORN,
        BORN.replace("-", ""),
        base64.b64encode(NAME.encode()).decode()[:-2],
        NAME.encode().hex(),
    )
    assert [each for each in told if any(form.lower() in each.lower() for form in forms)] == []


def test_files_are_their_owners_alone(settings: Settings, storage: LocalStorage) -> None:
    with serving(settings) as served, httpx2.Client(base_url=served.url, timeout=60) as client, working(settings):
        scan = client.post("/v1/scans", content=named(scans.ct())).json()
        body = {"scan_id": scan["id"], "parameters": {"method": "sirt", "iterations": 400}, "outputs": ["h5", "png"]}
        job = client.post("/v1/jobs", json=body).json()
        until(lambda: client.get(job["links"]["self"]).json()["status"] == "succeeded")
        assert client.get(job["links"]["result"], params={"format": "npy"}).status_code == 200
    modes = {str(path.relative_to(storage.root)): path.stat().st_mode & 0o777 for path in storage.root.rglob("*")}
    assert len(modes) > 10
    assert {name: oct(mode) for name, mode in modes.items() if mode not in (0o600, 0o700)} == {}
    kinds = {(storage.root / name).is_dir(): mode for name, mode in modes.items()}
    assert kinds == {True: 0o700, False: 0o600}


def test_a_traceback_in_the_log_has_places_and_kinds_but_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        logs.configure()
        try:
            try:
                raise ValueError(NAME)
            except ValueError as error:
                raise RuntimeError(f"about {NAME}") from error
        except RuntimeError:
            logging.getLogger("udig_recon.worker").exception("slice.failed")
        line = json.loads(capsys.readouterr().err)
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    assert "test_patient_data.py" in line["exception"]
    assert line["exception"].endswith("RuntimeError, after ValueError")
    assert NAME not in line["exception"].replace("raise ValueError(NAME)", "")


def test_a_deleted_job_and_scan_leave_no_copy(settings: Settings, storage: LocalStorage) -> None:
    with serving(settings) as served, httpx2.Client(base_url=served.url, timeout=60) as client, working(settings):
        scan = client.post("/v1/scans", content=named(scans.ct())).json()
        job = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": "fbp"}}).json()
        until(lambda: client.get(job["links"]["self"]).json()["status"] == "succeeded")
        for kind in ("npy", "png"):
            assert client.get(job["links"]["result"], params={"format": kind}).status_code == 200
        assert client.delete(job["links"]["self"]).status_code == 204
        assert client.delete(f"/v1/scans/{scan['id']}").status_code == 204
        # A stored projector holds a geometry and nothing of a scan.
        projectors = storage.root / "projectors"
        left = [path.name for path in storage.root.rglob("*") if path.is_file() and path.parent != projectors]
        assert left == ["identity"]
        assert {path.suffix for path in projectors.iterdir()} == {".pair"}


def test_the_files_of_the_canary_do_name_a_patient() -> None:
    assert CANARY.encode() in named(scans.mri())
    assert all(CANARY.encode() in content for content in not_hdf5())

"""Results are sent to archives by STOW-RS and by C-STORE, and what goes wrong is told in words without secrets."""

import asyncio
import json
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from tests.support import orthanc
from tests.support.dicom_objects import AE_TITLE, CERTIFICATES, object_uid, peer, server_tls, write_archive
from tests.support.http_server import listening
from tests.support.orthanc import Orthanc
from udig_recon.api.destinations import stow
from udig_recon.api.destinations.cstore import Sending
from udig_recon.api.destinations.objects import ResultObjects
from udig_recon.api.destinations.refusals import NotStored
from udig_recon.api.http.threads import LimitedThreadPool
from udig_recon.worker.access.destinations import DICOMwebDestination, DIMSEDestination, parse_destinations
from udig_recon.worker.storage.local import LocalStorage

COUNT = 3
TOKEN = "a token that nobody may see"
needs_orthanc = pytest.mark.skipif(not orthanc.IS_INSTALLED, reason="Debian's orthanc and orthanc-dicomweb are missing")


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A result of three objects."""
    return write_archive(tmp_path / "result.zip", COUNT)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc.archive(tmp_path_factory.mktemp("orthanc")) as made:
        yield made


def send(storage: LocalStorage, objects: Path, **options: Any) -> None:
    """Send a result to a destination with these options. Raises NotStored."""
    table = {"tenants": ["default"], "timeout_seconds": 10.0, **options}
    lines = [f"{name} = {json.dumps(value if isinstance(value, (bool, float, int, list)) else str(value))}"
             for name, value in table.items()]  # fmt: skip
    destination = parse_destinations("\n".join(["[archive]", *lines]))["archive"]
    with ResultObjects(objects) as found:
        if isinstance(destination, DICOMwebDestination):
            asyncio.run(stow.store(destination, found, storage, LimitedThreadPool(2)))
        else:
            Sending().store(destination, found, storage)
    assert not list((storage.root / "incoming").iterdir())


def by_stow(storage: LocalStorage, objects: Path, url: str, **options: Any) -> None:
    send(storage, objects, kind="dicomweb", url=url, **options)


def by_cstore(storage: LocalStorage, objects: Path, port: int, **options: Any) -> None:
    send(storage, objects, **{"kind": "dimse", "host": "127.0.0.1", "port": port, "ae_title": AE_TITLE, **options})


# Orthanc


@needs_orthanc
@pytest.mark.parametrize("kind", ["dicomweb", "dimse"])
def test_orthanc_finds_each_object_once_with_its_pixels(
    archive: Orthanc, storage: LocalStorage, objects: Path, tmp_path: Path, kind: str
) -> None:
    password = tmp_path / "password"
    password.write_text(f"{orthanc.PASSWORD}\n")
    for _ in range(2):  # a repeat is the same objects
        if kind == "dicomweb":
            by_stow(storage, objects, f"{archive.dicomweb}/", username=orthanc.USER, password_file=password)
        else:
            by_cstore(storage, objects, archive.dicom_port)
    query = f"{archive.dicomweb}/studies/2.25.1/series/2.25.2/instances"
    found = archive.get(query, accept="application/dicom+json").json()
    assert sorted(each["00080018"]["Value"][0] for each in found) == [object_uid(number) for number in range(COUNT)]
    answer = archive.get(
        f"{query}/{object_uid(1)}/frames/1", accept='multipart/related; type="application/octet-stream"'
    )
    pixels = (np.arange(256) + 1).astype("<u2").tobytes()
    assert pixels in answer.content
    assert archive.statistics()["CountInstances"] == COUNT


@needs_orthanc
def test_orthanc_refuses_in_words(archive: Orthanc, storage: LocalStorage, objects: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text(TOKEN)
    with pytest.raises(NotStored, match=r"^answered 401 Unauthorized$"):
        by_stow(storage, objects, archive.dicomweb, token_file=wrong)
    with pytest.raises(NotStored, match=r"^refused the association: Called AE title not recognised$"):
        by_cstore(storage, objects, archive.dicom_port, ae_title="ANOTHER")


@needs_orthanc
def test_orthanc_takes_objects_over_tls_from_who_shows_a_certificate(
    storage: LocalStorage, objects: Path, tmp_path: Path
) -> None:
    authority, client = CERTIFICATES / "authority.pem", CERTIFICATES / "client.pem"
    options = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(CERTIFICATES / "server.pem"),
        "DicomTlsPrivateKey": str(CERTIFICATES / "server.pem"),
        "DicomTlsTrustedCertificates": str(authority),
    }
    with orthanc.archive(tmp_path / "orthanc", **options) as tls:
        with pytest.raises(NotStored):
            by_cstore(storage, objects, tls.dicom_port, tls=True, ca_file=authority)
        by_cstore(storage, objects, tls.dicom_port, tls=True, ca_file=authority, certificate_file=client)
        assert tls.statistics()["CountInstances"] == COUNT


# C-STORE


def test_cstore_sends_every_object_under_its_title(storage: LocalStorage, objects: Path) -> None:
    with peer() as archive:
        by_cstore(storage, objects, archive.port, calling_ae_title="UDIG_1")
    assert archive.uids == [object_uid(number) for number in range(COUNT)]
    assert set(archive.calling) == {"UDIG_1"}


def test_an_archive_that_takes_implicit_vr_alone_gets_the_same_objects(storage: LocalStorage, objects: Path) -> None:
    with peer(syntax=ImplicitVRLittleEndian) as archive:
        by_cstore(storage, objects, archive.port)
    assert [each.pixel_array[0, 0] for each in map(with_syntax, archive.stored)] == [0, 1, 2]


def with_syntax(data: pydicom.Dataset) -> pydicom.Dataset:
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return data


def test_objects_that_are_refused_are_counted_with_their_reasons_and_the_others_are_stored(
    storage: LocalStorage, objects: Path
) -> None:
    with peer() as archive:
        archive.status = lambda data: {1: 0xA700, 2: 0xB000}.get(int(data.InstanceNumber), 0)
        with pytest.raises(NotStored, match=r"^refused 1 of 3 objects: A700H out of resources$"):
            by_cstore(storage, objects, archive.port)
    assert archive.uids == [object_uid(0)]  # and one with a warning


@pytest.mark.parametrize(
    ("ca_file", "client", "stored"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_certificates_of_both_sides_are_checked(
    storage: LocalStorage, objects: Path, ca_file: bool, client: bool, stored: bool
) -> None:
    options = {"ca_file": CERTIFICATES / "authority.pem"} if ca_file else {}
    options |= {"certificate_file": CERTIFICATES / "client.pem"} if client else {}
    with peer(server_tls(wants_client=True)) as archive:
        if stored:
            by_cstore(storage, objects, archive.port, tls=True, **options)
        else:
            with pytest.raises(NotStored, match="TLS"):
                by_cstore(storage, objects, archive.port, tls=True, **options)
    assert len(archive.stored) == (COUNT if stored else 0)


def test_a_port_where_nobody_listens_is_told_of(storage: LocalStorage, objects: Path) -> None:
    port = orthanc.free_port()
    with pytest.raises(NotStored, match=r"^no connection$"):
        by_cstore(storage, objects, port)
    with pytest.raises(NotStored, match=r"^no connection$"):
        by_stow(storage, objects, f"http://127.0.0.1:{port}/dicom-web")


def test_an_attempt_is_ended_from_outside(storage: LocalStorage, objects: Path) -> None:
    answered = threading.Event()
    with peer() as archive:
        archive.status = lambda _: 0 if answered.wait(60) else 1
        sending, errors = Sending(), []
        text = f'[a]\nkind="dimse"\ntenants=["*"]\nhost="127.0.0.1"\nport={archive.port}\nae_title="{AE_TITLE}"'
        destination = parse_destinations(text)["a"]
        assert isinstance(destination, DIMSEDestination)

        def run() -> None:
            with ResultObjects(objects) as found:
                try:
                    sending.store(destination, found, storage)
                except NotStored as error:
                    errors.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        assert archive.asked.wait(60)
        sending.stop()
        thread.join(20)  # less than the archive's answer and the time-out of 30 s take
        ended = not thread.is_alive()
        answered.set()
    assert ended
    assert len(errors) == 1


@pytest.mark.parametrize("silence", ["before its answer", "within its answer", "while it is sent an object"])
@pytest.mark.parametrize("end", ["the time-out", "stop"])
def test_an_archive_that_falls_silent_holds_no_attempt(
    storage: LocalStorage, tmp_path: Path, silence: str, end: str
) -> None:
    seconds = 1.0 if end == "the time-out" else 60.0
    text = '[a]\nkind="dimse"\ntenants=["*"]\nhost="127.0.0.1"\nport={}\nae_title="A"\ntimeout_seconds={}'
    objects = write_archive(tmp_path / "large.zip", 1, 2048)  # 8 MB: more than the buffers of a connection take
    sending, errors = Sending(), []
    with silent_archive(silence) as (port, fell_silent):
        destination = parse_destinations(text.format(port, seconds))["a"]
        assert isinstance(destination, DIMSEDestination)

        def run() -> None:
            with ResultObjects(objects) as found:
                try:
                    sending.store(destination, found, storage)
                except NotStored as error:
                    errors.append(str(error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert fell_silent.wait(30)
        if end == "stop":
            stopping = threading.Thread(target=sending.stop, daemon=True)
            stopping.start()
            stopping.join(20)
            assert not stopping.is_alive()
        thread.join(20)
        assert not thread.is_alive()
    assert len(errors) == 1


def test_an_archive_that_announces_gigabytes_is_not_listened_to(storage: LocalStorage, objects: Path) -> None:
    with silent_archive("within its answer", announced=0xFFFFFFFF) as (port, _), pytest.raises(NotStored):
        by_cstore(storage, objects, port)


@contextmanager
def silent_archive(silence: str, announced: int = 100) -> Iterator[tuple[int, threading.Event]]:
    """An archive that does not go on at a point; its port, and whether it has come there."""
    listener, fell_silent, opened = socket.create_server(("127.0.0.1", 0)), threading.Event(), []

    def answer() -> None:
        connection, _ = listener.accept()
        opened.append(connection)
        request = A_ASSOCIATE_RQ()
        head = connection.recv(6, socket.MSG_WAITALL)
        request.decode(head + connection.recv(int.from_bytes(head[2:]), socket.MSG_WAITALL))
        if silence == "within its answer":
            connection.sendall(b"\x02\x00" + announced.to_bytes(4))
        elif silence == "while it is sent an object":
            accepted = request.to_primitive()
            for context in accepted.presentation_context_definition_list:
                context.result, context.transfer_syntax = 0, context.transfer_syntax[:1]
            accepted.presentation_context_definition_results_list = accepted.presentation_context_definition_list
            accepted.result, accepted.result_source = 0, 1
            made = A_ASSOCIATE_AC()
            made.from_primitive(accepted)
            connection.sendall(made.encode())
            connection.recv(6, socket.MSG_WAITALL)
        fell_silent.set()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], fell_silent
    finally:
        for each in (listener, *opened):
            each.close()
        thread.join(5)


# STOW-RS


@dataclass
class WebArchive:
    """Answers each request by the next answer: status and text."""

    port: int = 0
    answers: list[tuple[int, str]] = field(default_factory=lambda: [(200, "{}")])
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    received: int = 0  # bytes of bodies that were not kept
    keeps: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"


@contextmanager
def web_archive(tls: ssl.SSLContext | None = None) -> Iterator[WebArchive]:
    made = WebArchive()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.headers.append({name.lower(): value for name, value in self.headers.items()})
            length = int(self.headers["Content-Length"])
            if made.keeps:
                made.bodies.append(self.rfile.read(length))
            while not made.keeps and length:
                length -= (read := len(self.rfile.read(min(length, 1 << 16))))
                made.received += read
            status, text = made.answers.pop(0) if len(made.answers) > 1 else made.answers[0]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", text)
                text = ""
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    with listening(server):
        yield made


def test_stow_is_a_multipart_of_the_very_files_with_the_token_in_its_header(
    storage: LocalStorage, objects: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(f" {TOKEN}\n")
    with web_archive() as archive:
        by_stow(storage, objects, archive.url, token_file=token)
    (body,), (headers,) = archive.bodies, archive.headers
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"].startswith('multipart/related; type="application/dicom"; boundary=')
    boundary = headers["content-type"].rpartition("=")[2].encode()
    first, *parts, last = body.split(b"--" + boundary)
    assert (first, last) == (b"", b"--\r\n")
    with ResultObjects(objects) as found:
        stored = [found.open(number).read() for number in range(COUNT)]
    assert [part.removeprefix(b"\r\nContent-Type: application/dicom\r\n\r\n")[:-2] for part in parts] == stored


def test_a_large_result_is_several_requests_each_of_bounded_size(
    storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "BATCH_BYTES", 2500)
    with web_archive() as archive:
        by_stow(storage, write_archive(tmp_path / "result.zip", 7, size=24), archive.url)
    assert [body.count(b"DICM") for body in archive.bodies] == [1] * 7
    monkeypatch.setattr(stow, "BATCH_BYTES", 5000)
    with web_archive() as archive:
        by_stow(storage, tmp_path / "result.zip", archive.url)
    assert [body.count(b"DICM") for body in archive.bodies] == [2, 2, 2, 1]


def test_stow_takes_memory_for_a_block_whatever_the_size_of_a_result(storage: LocalStorage, tmp_path: Path) -> None:
    result = write_archive(tmp_path / "result.zip", 12, size=724)  # 12 MiB
    with web_archive() as archive:
        archive.keeps = False
        tracemalloc.start()
        try:
            by_stow(storage, result, archive.url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert archive.received > 12 << 20
    assert peak < 8 << 20


UNKNOWN = "0110H processing failure"


def failed_json(*reasons: int) -> str:
    return json.dumps({"00081198": {"Value": [{"00081197": {"Value": [reason]}} for reason in reasons]}})


FAILED = {"00081155": {"vr": "UI", "Value": ["2.25.1001"]}, "00081197": {"vr": "US", "Value": [43264]}}
FAILED_JSON = json.dumps({"00081198": {"vr": "SQ", "Value": [FAILED]}})
FAILED_XML = (
    '<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ"><Item number="1"><DicomAttribute tag="00081197" vr="US">'
    '<Value number="1">272</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>'
)


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (200, "", None),
        (200, '{"00081199": {"vr": "SQ"}, "00081198": {"vr": "SQ"}}', None),
        (202, '[{"00081199": {"vr": "SQ"}}]', None),
        (200, FAILED_JSON, "refused 1 of 3 objects: A900H data set does not match SOP class"),
        (202, FAILED_JSON, "refused 1 of 3 objects: A900H data set does not match SOP class"),
        (202, FAILED_XML, "refused 1 of 3 objects: 0110H processing failure"),
        (202, "?", "answered 202 Accepted without saying which objects it stored"),
        (409, FAILED_JSON, "refused 1 of 3 objects: A900H data set does not match SOP class"),
        (409, "", "refused 3 of 3 objects: 0110H processing failure"),
        (401, "who?", "answered 401 Unauthorized"),
        (503, "<html>", "answered 503 Service Unavailable"),
        (302, "http://127.0.0.1:1/", "answered 302 Found"),
        (599, "", "answered 599"),
        (200, '{"a":' * 100_000, None),
        (200, json.dumps({"00081198": {"Value": 5}}), None),
        (200, json.dumps({"00081198": {"Value": [{"00081197": {"Value": 5}}]}}), f"refused 1 of 3 objects: {UNKNOWN}"),
        (200, json.dumps({"00081198": {"Value": [5]}}), f"refused 1 of 3 objects: {UNKNOWN}"),
        (200, failed_json(-1, 10**400, 10**4), f"refused 3 of 3 objects: {UNKNOWN}, 2710H"),
        (200, failed_json(*range(10**4)), "refused 3 of 3 objects: 0000H, 0001H, 0002H"),
    ],
)
def test_what_a_dicomweb_archive_answers_is_read(
    storage: LocalStorage, objects: Path, status: int, text: str, error: str | None
) -> None:
    with web_archive() as archive:
        archive.answers = [(status, text)]
        if error is None:
            by_stow(storage, objects, archive.url)
        else:
            with pytest.raises(NotStored) as refused:
                by_stow(storage, objects, archive.url)
            assert str(refused.value) == error


def test_an_answer_without_end_is_not_kept(
    storage: LocalStorage, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "MOST_ANSWER_BYTES", 1000)
    with web_archive() as archive:
        archive.answers = [(200, "x" * 5000)]
        with pytest.raises(NotStored, match="more than 1000 bytes"):
            by_stow(storage, objects, archive.url)


def test_an_answer_is_never_unpacked(storage: LocalStorage, objects: Path) -> None:
    with web_archive() as archive:
        by_stow(storage, objects, archive.url)
    assert archive.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("trusted", [True, False])
def test_a_dicomweb_archive_must_show_a_certificate_that_is_trusted(
    storage: LocalStorage, objects: Path, trusted: bool
) -> None:
    options = {"ca_file": CERTIFICATES / "authority.pem"} if trusted else {}
    with web_archive(server_tls(wants_client=False)) as archive:
        url = archive.url.replace("http:", "https:")
        if trusted:
            by_stow(storage, objects, url, **options)
        else:
            with pytest.raises(NotStored, match="certificate is not trusted"):
                by_stow(storage, objects, url, **options)
    assert len(archive.bodies) == trusted


def test_a_token_that_cannot_be_read_any_more_is_told_of(storage: LocalStorage, objects: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    text = f'[a]\nkind="dicomweb"\ntenants=["*"]\nurl="http://127.0.0.1:1"\ntoken_file="{token}"'
    destination = parse_destinations(text)["a"]
    token.unlink()
    assert isinstance(destination, DICOMwebDestination)
    with ResultObjects(objects) as found, pytest.raises(NotStored, match="token or password cannot be read"):
        asyncio.run(stow.store(destination, found, storage, LimitedThreadPool(2)))


def test_httpx2_sends_the_length_that_it_is_told() -> None:
    """Archives refuse bodies of unknown length, and a length beside a stream is the way to tell it."""
    request = httpx2.Request("POST", "http://x.test", content=iter([b"ab"]), headers={"content-length": "2"})
    assert "transfer-encoding" not in request.headers

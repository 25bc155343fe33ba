"""The MRD stream: what a scanner sends is stored bit for bit; what is wrong is said in words; nothing else happens."""

import io
import json
import re
import signal
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from ismrmrd import Image, Waveform
from ismrmrd.serialization import ConfigFile, ConfigText, ProtocolDeserializer
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from tests.support.environment import ROOT, environment
from tests.support.fake_worker import Drive
from tests.support.mrd_client import (
    CONFIGURATION,
    PLACED,
    Answer,
    Scanner,
    Stream,
    connected,
    header,
    joined,
    lines,
    noise_kspace,
)
from tests.support.worker_processes import until
from udig_recon.api.mrd_stream.images import image_message
from udig_recon.api.mrd_stream.messages import Line
from udig_recon.api.mrd_stream.recording import HEAD, Recording
from udig_recon.core.cli import UDIG
from udig_recon.core.simulation import birdcage_maps
from udig_recon.worker.access import audit, keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.database import counters
from udig_recon.worker.database.tables import Audit, Job, Scan, Status
from udig_recon.worker.runtime.process import set_up
from udig_recon.worker.runtime.tasks import run_next_slice
from udig_recon.worker.settings import BadSetting, Settings
from udig_recon.worker.storage.local import LocalStorage

CLOSE = struct.pack("<H", 4)
KSPACE = noise_kspace(1, 2, 8)
HEADER32, LINES32 = header(32, 4, 2), lines(noise_kspace(2, 4, 32))
HEADER = header(8, 2, 1)
LINES = lines(KSPACE)
WHOLE = joined([CONFIGURATION, HEADER, *LINES]) + CLOSE


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings under which a silent client is given up after half a second."""
    return settings.model_copy(update={"mrd_timeout_seconds": 0.5, "mrd_connections": 64})


@pytest.fixture
def stream(quick: Settings) -> Iterator[Stream]:
    with Stream(quick) as stream:
        yield stream


def nothing_is_kept(database: sessionmaker[Session], settings: Settings) -> bool:
    """No scan, no job, and no file on its way in."""
    with database() as session:
        rows = session.scalars(select(Scan)).all(), session.scalars(select(Job)).all()
    return not any(rows) and not list(settings.data.rglob("*.part"))


def said_to(stream: Stream, *messages: object) -> Answer:
    """What comes back to a client that sends this, and then waits."""
    with connected(stream.address) as scanner:
        scanner.send(*messages)
        return scanner.answer()


def test_lines_are_written_bit_for_bit_as_a_file_that_ismrmrd_reads(tmp_path: Path) -> None:
    sent = lines(noise_kspace(2, 3, 40))
    for line in sent[::3]:
        line.resize(40, 3, 2)
        line.traj[:] = np.random.default_rng(0).random((40, 2))
    path = tmp_path / "scan.h5"
    path.touch()
    recording = Recording(path)
    recording.add_header(HEADER.toXML().encode())
    for some in (sent[:64], sent[64:70], sent[70:]):
        recording.add_lines([Line(bytes(each.getHead()), each.traj.tobytes(), each.data.tobytes()) for each in some])
    recording.close()
    with ismrmrd.Dataset(path, mode="r") as read:
        assert ismrmrd.xsd.CreateFromDocument(read.read_xml_header()) == HEADER
        assert read.number_of_acquisitions() == len(sent)
        for number, line in enumerate(sent):
            assert read.read_acquisition(number) == line


def test_the_header_of_a_line_has_the_fields_of_ismrmrd() -> None:
    fields = dict(ismrmrd.AcquisitionHeader._fields_)
    assert tuple(fields) == HEAD.names
    for name in fields:
        assert getattr(ismrmrd.AcquisitionHeader, name).offset == HEAD.fields[name][1]


WRONG = {
    "no configuration": ([HEADER], "the XML header (message 3) came too early, expected a configuration first"),
    "lines before all": ([LINES[0]], "an acquisition (message 1008) came too early, expected a configuration first"),
    "lines before the header": (
        [CONFIGURATION, LINES[0]],
        "an acquisition (message 1008) came too early, expected the XML header (message 3) first",
    ),
    "a waveform first": ([CONFIGURATION, Waveform.from_array(np.zeros((1, 4), np.uint32))], "a waveform"),
    "the header twice": ([CONFIGURATION, HEADER, HEADER], "came twice, expected once: one connection is one scan"),
    "a late configuration": ([CONFIGURATION, HEADER, CONFIGURATION], "came after the header"),
    "an unknown method": ([ConfigFile("default.xml")], "the configuration 'default.xml' is not known"),
    "an unknown preset": ([ConfigFile("udig_dip/best")], "parameters.preset"),
    "no method": ([ConfigText("{}"), HEADER], "no method was named"),
    "no JSON": ([ConfigText("<xml/>")], "no JSON, expected an object"),
    "no object": ([ConfigText("[1]")], "no object"),
    "an unknown option": ([CONFIGURATION, ConfigText('{"sices": [0]}')], "sices"),
    "no text": ([b"\x01\x00" + b"\xff" * 1024], "no UTF-8"),
    "no header": ([CONFIGURATION, b"\x03\x00\x04\x00\x00\x00<a/>"], "no ISMRMRD header"),
    "a large header": ([CONFIGURATION, b"\x03\x00\xff\xff\xff\xff"], "4294967295 bytes by its length"),
    "a large text": ([b"\x02\x00\x01\x00\x10\x00"], "1048577 bytes by its length, and may have 1048576"),
    "an image": ([CONFIGURATION, HEADER, Image.from_array(np.zeros((4, 4), np.float32))], "images (message 1022)"),
    "an unknown message": ([b"\x2a\x00"], "there is no message 42, expected one of 1, 2, 3, 4, 5, 1008, 1026"),
    "HTTP": ([b"GET / HTTP/1.1\r\n\r\n"], "there is no message 17735"),
    "close at once": ([CLOSE], "closed before a scan came, expected a configuration first"),
    "close without a scan": ([CONFIGURATION, CLOSE], "expected the XML header (message 3) first"),
    "close without lines": ([CONFIGURATION, HEADER, CLOSE], "closed before any line came"),
}


def test_what_is_out_of_order_is_said_in_words_and_keeps_nothing(
    stream: Stream, database: sessionmaker[Session], settings: Settings, subtests: pytest.Subtests
) -> None:
    for case, (sent, expected) in WRONG.items():
        with subtests.test(case):
            answer = said_to(stream, *sent)
            assert expected in answer.error
            assert answer.closed
            assert nothing_is_kept(database, settings)


def lying(**fields: int) -> bytes:
    """A line whose header says something else than what follows."""
    head = np.frombuffer(bytes(LINES[0].getHead()), HEAD).copy()
    for name, value in fields.items():
        head[name] = value
    return struct.pack("<H", 1008) + head.tobytes() + LINES[0].data.tobytes()


LIES = [
    (lying(version=2), "of version 2 by its header, expected 1"),
    (lying(active_channels=0), "has 0 channels by its header"),
    (lying(active_channels=65535), "has 65535 channels by its header, expected 1 to"),
    (lying(trajectory_dimensions=9), "a trajectory of 9 dimensions"),
    (lying(active_channels=1000, number_of_samples=65535), "a line has 524280000 bytes by its header"),
    (lying(number_of_samples=7) + lying(), "there is no message"),
    (lying(active_channels=1) + lying(), "there is no message"),
    (lying(number_of_samples=65535), "nothing came for 0.5 s"),
    (lying(active_channels=64), "nothing came for 0.5 s"),
]


def test_a_line_that_lies_about_its_size_is_refused(
    stream: Stream, database: sessionmaker[Session], settings: Settings, subtests: pytest.Subtests
) -> None:
    for line, expected in LIES:
        with subtests.test(expected):
            assert expected in said_to(stream, CONFIGURATION, HEADER, line).error
            assert nothing_is_kept(database, settings)


def cuts() -> list[int]:
    """Places at every boundary of a message, and within each."""
    ends = [0]
    for message in (CONFIGURATION, HEADER, *LINES[:2]):
        ends.append(ends[-1] + len(joined([message])))
    return [place for end in ends for place in (end, end + 1, end + 3, end + 300)]


def test_a_connection_cut_anywhere_before_the_end_keeps_nothing(
    stream: Stream, database: sessionmaker[Session], settings: Settings
) -> None:
    for place in cuts():
        with connected(stream.address) as scanner:
            scanner.send(WHOLE[:place])
    deadline = time.monotonic() + 20
    while not nothing_is_kept(database, settings):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert counted(database, "cut", len(cuts()) - 1)  # one came without a byte, as checks of a port do


def counted(database: sessionmaker[Session], outcome: str, wanted: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with database() as session:
            if counters.totals(session).get("mrd_connections", {}).get(outcome) == wanted:
                return True
        time.sleep(0.05)
    return False


def test_a_silent_client_is_given_up(stream: Stream) -> None:
    for sent in (b"", b"\x01", WHOLE[:500], WHOLE[: len(WHOLE) - 2]):
        assert "nothing came for 0.5 s" in said_to(stream, sent).error


def test_a_client_that_dribbles_is_given_up(stream: Stream) -> None:
    with connected(stream.address) as scanner:
        began = time.monotonic()
        try:
            for byte in WHOLE:
                scanner.send(bytes([byte]))
                time.sleep(0.1)
                assert time.monotonic() - began < 20
        except OSError:
            pass
        assert "fewer than 1024 bytes of a message came" in scanner.answer().error


def test_pieces_of_any_size_make_the_same_scan(stream: Stream) -> None:
    with connected(stream.address) as scanner:
        for start in range(0, len(WHOLE), 97):
            scanner.send(WHOLE[start : start + 97])
        assert next(scanner.receive()).startswith("received 8 lines")


def test_a_waveform_of_any_size_is_skipped_without_memory_for_it(stream: Stream) -> None:
    waveform = Waveform.from_array(np.zeros((300, 2000), np.uint32))
    with connected(stream.address) as scanner:
        scanner.send(CONFIGURATION, HEADER, LINES[0], waveform, "a text", *LINES[1:], CLOSE)
        assert next(scanner.receive()).startswith("received 8 lines")


def test_a_client_beyond_the_limit_of_bytes_is_refused_before_it_has_sent_them(
    quick: Settings, database: sessionmaker[Session]
) -> None:
    small = quick.model_copy(update={"max_upload_bytes": 20_000})
    with Stream(small) as stream:
        huge = Waveform.from_array(np.zeros((1, 6000), np.uint32))
        answer = said_to(stream, CONFIGURATION, HEADER, LINES[0], joined([huge])[:42])
        assert "more than 20000 bytes, the limit of this service (MAX_UPLOAD_BYTES)" in answer.error


def test_no_more_scanners_than_allowed_at_once(quick: Settings) -> None:
    with Stream(quick.model_copy(update={"mrd_connections": 2})) as stream:
        held = [Scanner(stream.address) for _ in range(2)]
        for each in held:
            each.send(CONFIGURATION)
        assert "2 scanners are connected" in said_to(stream, b"").error
        for each in held:
            each.hang_up()
        deadline = time.monotonic() + 20
        while "scanners are connected" in said_to(stream, CLOSE).error:
            assert time.monotonic() < deadline


def test_addresses_that_are_not_allowed_are_turned_away(quick: Settings) -> None:
    with Stream(quick.model_copy(update={"mrd_allowed": "192.0.2.0/24"})) as stream:
        answer = said_to(stream, b"")
        assert answer.error == "127.0.0.1 may not connect (MRD_ALLOWED)"
        assert answer.closed


def test_the_key_of_the_listener_decides(quick: Settings, database: sessionmaker[Session]) -> None:
    with database.begin() as session:
        key, secret = keys.make(session, "radiology", NewKey(name="scanner", scopes=[Scope.WRITE]))
    reading = quick.model_copy(update={"authentication": "on", "mrd_key": secret_of(secret)})
    with Stream(reading) as stream:
        assert "lacks the scope read" in said_to(stream, CONFIGURATION).error
        with database.begin() as session:
            keys.revoke(session, session.merge(key))
        assert "unknown, revoked or expired (MRD_KEY)" in said_to(stream, CONFIGURATION).error


def secret_of(secret: str) -> object:
    from pydantic import SecretStr

    return SecretStr(secret)


def test_going_down_waits_for_a_scan_that_comes_in_and_tells_the_others(quick: Settings) -> None:
    with Stream(quick.model_copy(update={"mrd_timeout_seconds": 30})) as stream:
        with connected(stream.address) as scanner:
            scanner.send(WHOLE[:2000])
            time.sleep(0.3)
            stream.end()
            answer = scanner.answer()
        assert "goes down and has kept nothing of the scan; send it again" in answer.error
        assert answer.closed


def phantom_kspace(slices: int = 2, coils: int = 4, matrix: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """K-space of a lopsided phantom, (slices, coils, ky, kx), and its images."""
    y, x = np.mgrid[:matrix, :matrix] - matrix // 2
    images = np.stack(
        [(x**2 + (1.3 * y) ** 2 < 150) + 2.0 * ((x - 5) ** 2 + (y - 3 + n) ** 2 < 9) for n in range(slices)]
    )
    maps = birdcage_maps(coils, (matrix, matrix))
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images[:, None] * maps, axes=(-2, -1))), axes=(-2, -1))
    noise = np.random.default_rng(0).standard_normal((2, *kspace.shape)) * 0.05
    return (kspace + noise[0] + 1j * noise[1]).astype(np.complex64), images


def test_a_phantom_comes_back_as_images_where_it_lay(
    quick: Settings, database: sessionmaker[Session], storage: LocalStorage
) -> None:
    kspace, truth = phantom_kspace()
    worker = set_up(quick)
    with Stream(quick) as stream, connected(stream.address) as scanner:
        scanner.send(ConfigText('{"parameters": {"method": "cg_sense"}, "tags": {"study": "7"}}'))
        scanner.send(header(32, 4, 2), *lines(kspace))
        scanner.close_scan()
        messages = scanner.receive()
        texts = [next(messages), next(messages)]
        job_id = uuid.UUID(texts[1].split()[1])
        for number in range(2):
            run_next_slice(worker, job_id, number)
        answer = scanner.answer()
        with database() as session:
            job, scan = session.get_one(Job, job_id), session.scalars(select(Scan)).one()
        assert (job.tags, job.slices, scan.header["format"]) == ({"study": "7"}, [0, 1], "mrd")
        assert re.fullmatch(r"mrd-stream-\d{8}T\d{6}Z\.h5", scan.filename)
        actions = audited(database)
    worker.prober.close()
    worker.sessions.kw["bind"].dispose()
    assert actions == ["scan.uploaded", "job.filed", "result.read"]
    assert texts[0].startswith("received 64 lines")
    assert f"job {job_id} has succeeded" in answer.texts[-1]
    assert answer.closed
    with storage.open(f"scans/{scan.sha256}") as file, h5py.File(file) as stored:
        data = np.stack([row.view(np.complex64) for row in stored["dataset/data"]["data"]])
    sent = np.moveaxis(kspace, 1, 2).reshape(64, -1)
    np.testing.assert_array_equal(data.view(np.uint32), np.ascontiguousarray(sent).view(np.uint32))
    assert len(answer.images) == 2
    for number, image in enumerate(answer.images):
        shown = image.data[0, 0]
        assert np.corrcoef(shown.ravel(), truth[number].ravel())[0, 1] > 0.98
        assert (image.slice, image.image_index, image.image_type) == (number, number + 1, 1)
        assert tuple(image.matrix_size) == (32, 32, 1)
        assert tuple(image.field_of_view) == pytest.approx((64, 64, 5))
        step = PLACED.slice_mm * (number - 1)
        expected = [center + step * along for center, along in zip(PLACED.center, PLACED.slice, strict=True)]
        assert tuple(image.position) == pytest.approx(expected, abs=0.01)
        assert tuple(image.read_dir) == pytest.approx(PLACED.read, abs=1e-6)
        assert tuple(image.phase_dir) == pytest.approx(PLACED.phase, abs=1e-6)
        assert tuple(image.slice_dir) == pytest.approx(PLACED.slice, abs=1e-6)
        meta = ismrmrd.Meta.deserialize(image.attribute_string)
        assert meta["DataRole"] == "Image"
        assert meta["ImageComments"] == "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
        assert meta["JobId"] == str(job_id)


def test_an_image_names_its_axes_and_the_place_of_the_pixel_in_its_middle() -> None:
    affine = np.array([[0, 3.0, 0, 10], [2.0, 0, 0, 20], [0, 0, 4.0, 30], [0, 0, 0, 1]])
    pixels = np.arange(15, dtype=np.float32).reshape(3, 5)
    frames = [{"slice": n % 2, "contrast": n // 2, "phase": 0, "repetition": 3, "set": 0} for n in range(4)]
    told = {"affine": affine.tolist(), "frames": frames, "pixel_spacing_mm": (3.0, 2.0), "slice_spacing_mm": 4.0}
    message = image_message(pixels, 3, 0, told, {"Note": "1 < 2 & 3"})
    (image,) = ProtocolDeserializer(io.BytesIO(message + CLOSE)).deserialize()
    np.testing.assert_array_equal(image.data, pixels[None, None])
    assert tuple(image.position) == (10 + 3 * 1, 20 + 2 * 2, 30 + 4 * 1)
    assert (tuple(image.read_dir), tuple(image.phase_dir)) == ((0, 1, 0), (1, 0, 0))
    assert tuple(image.field_of_view) == (10, 9, 4)
    assert (image.slice, image.contrast, image.repetition) == (1, 1, 3)
    assert ismrmrd.Meta.deserialize(image.attribute_string) == {"Note": "1 < 2 & 3"}
    (bare,) = ProtocolDeserializer(
        io.BytesIO(image_message(pixels, 2, 0, {"pixel_spacing_mm": (3.0, 2.0)}, {}) + CLOSE)
    ).deserialize()
    assert (bare.slice, tuple(bare.read_dir), tuple(bare.field_of_view)) == (2, (0, 0, 0), (10, 9, 0))


def audited(database: sessionmaker[Session]) -> list[str]:
    with database() as session:
        entries = session.scalars(select(Audit).where(Audit.actor != audit.WORKER).order_by(Audit.seq))
        return [entry.action for entry in entries]


def submitted(stream: Stream, scanner: Scanner, **changes: object) -> str:
    """Send a scan and read as far as the job's id."""
    scanner.send(ConfigFile("zero_filled"), HEADER32, *LINES32)
    scanner.close_scan()
    messages = scanner.receive()
    return next(text.split()[1] for text in messages if text.startswith("job "))


def test_a_client_that_goes_away_loses_the_connection_and_not_the_job(
    stream: Stream, database: sessionmaker[Session], storage: LocalStorage
) -> None:
    with connected(stream.address) as scanner:
        job_id = submitted(stream, scanner)
    Drive(database, storage).complete({"id": job_id, "slice_numbers": [0, 1]})
    assert counted(database, "left", 1)
    with database() as session:
        assert session.get_one(Job, uuid.UUID(job_id)).status is Status.SUCCEEDED


def test_a_job_that_fails_is_told(stream: Stream, database: sessionmaker[Session], storage: LocalStorage) -> None:
    with connected(stream.address) as scanner:
        job_id = submitted(stream, scanner)
        Drive(database, storage).fail({"id": job_id, "slice_numbers": [0, 1]})
        answer = scanner.answer()
    assert answer.error == f"job {job_id} is failed: it broke"
    assert answer.closed


def test_going_down_tells_who_waits_that_the_job_goes_on(stream: Stream) -> None:
    with connected(stream.address) as scanner:
        job_id = submitted(stream, scanner)
        stream.end()
        answer = scanner.answer()
    assert f"this service goes down; job {job_id} goes on" in answer.texts[-1]
    assert answer.closed


@pytest.mark.long
def test_the_process_takes_a_scan_and_is_gone_soon_after_sigterm(
    settings: Settings, database: sessionmaker[Session], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    variables = environment(settings.model_copy(update={"mrd_port": 0})) | {"MRD_PORT": "0"}
    with (
        log.open("w") as sink,
        subprocess.Popen([*UDIG, "mrd-stream"], cwd=ROOT, env=variables, stderr=sink) as process,
    ):
        try:
            until(lambda: "mrd.listening" in log.read_text() or process.poll() is not None)
            said = next(json.loads(line) for line in log.read_text().splitlines() if "mrd.listening" in line)
            with connected(("127.0.0.1", said["port"])) as scanner:
                scanner.send(ConfigFile("zero_filled"), HEADER32, *LINES32)
                scanner.close_scan()
                job_id = next(text.split()[1] for text in scanner.receive() if text.startswith("job "))
                process.send_signal(signal.SIGTERM)
                assert "goes on" in scanner.answer().texts[-1]
            assert process.wait(10) == 0
        finally:
            process.kill()
    with database() as session:
        assert session.get_one(Job, uuid.UUID(job_id)).status is Status.QUEUED
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert {"mrd.listening", "mrd.scan_received", "job.queued"} <= set(events)


def test_the_process_needs_to_know_whose_the_scans_are(settings: Settings) -> None:
    for changes, word in (
        ({"authentication": "on"}, "needs an API key"),
        ({"mrd_host": "0.0.0.0"}, "everyone who reaches"),
    ):
        with pytest.raises(BadSetting, match=word):
            settings.model_copy(update=changes).check_mrd_stream()

"""Small DICOM objects in a zip, as a result's file has them, and an archive that speaks DIMSE."""

import io
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, evt

AE_TITLE = "ARCHIVE"
CERTIFICATES = Path(__file__).parents[1] / "data" / "archive"
"""An authority, and what it signed for these tests: `server.pem` and `client.pem` hold certificate and key."""


def object_uid(number: int) -> str:
    return f"2.25.{1000 + number}"


def object_bytes(number: int, size: int = 16) -> bytes:
    """An MR image."""
    data, meta = Dataset(), FileMetaDataset()
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, object_uid(number)
    data.StudyInstanceUID, data.SeriesInstanceUID = "2.25.1", "2.25.2"
    data.PatientID, data.PatientName, data.Modality, data.InstanceNumber = "job", "RESEARCH^job", "MR", number
    data.Rows = data.Columns = size
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = (np.arange(size * size) + number).astype("<u2").tobytes()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_archive(path: Path, count: int, size: int = 16) -> Path:
    """A zip of one series."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(count):
            archive.writestr(f"001/{number + 1:06}.dcm", object_bytes(number, size))
    return path


@dataclass
class Peer:
    """An archive that keeps what it gets and answers by `status`."""

    port: int = 0
    stored: list[Dataset] = field(default_factory=list)
    calling: list[str] = field(default_factory=list)
    status: Callable[[Dataset], int] = lambda _: 0
    asked: threading.Event = field(default_factory=threading.Event)  # it was sent an object

    @property
    def uids(self) -> list[str]:
        return [str(each.SOPInstanceUID) for each in self.stored]


@contextmanager
def peer(tls: ssl.SSLContext | None = None, *, port: int = 0, syntax: UID = ExplicitVRLittleEndian) -> Iterator[Peer]:
    """A DIMSE archive on this machine; port 0 is a free one."""
    made = Peer()

    def store(event: evt.Event) -> int:
        made.asked.set()
        status = made.status(event.dataset)
        if status == 0:
            made.stored.append(event.dataset)
            made.calling.append(event.assoc.requestor.ae_title)
        return status

    entity = AE(ae_title=AE_TITLE)
    entity.require_called_aet = True
    for sop_class in (MRImageStorage, SecondaryCaptureImageStorage):
        entity.add_supported_context(sop_class, syntax)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=tls
    )
    made.port = server.server_address[1]
    try:
        yield made
    finally:
        server.shutdown()
        entity.shutdown()


def server_tls(*, wants_client: bool) -> ssl.SSLContext:
    """TLS of an archive at 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "server.pem")
    if wants_client:
        context.load_verify_locations(CERTIFICATES / "authority.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context

"""A scanner that speaks the MRD streaming protocol by the `ismrmrd` package, and the stream's server in a thread."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from ismrmrd import Acquisition, Image, xsd
from ismrmrd.serialization import ConfigFile, ConfigText, ProtocolDeserializer, ProtocolSerializer

from udig_recon.api.main import open_listener
from udig_recon.api.mrd_stream.server import MRDServer
from udig_recon.api.service import OpenService, open_service
from udig_recon.worker.settings import Settings

ACQ_LAST_IN_SLICE = 8


class Stream:
    """The server of the MRD stream in a thread of this process."""

    def __init__(self, settings: Settings) -> None:
        self._listener = open_listener("127.0.0.1", 0)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.service: OpenService = open_service(settings)
        self._loop = asyncio.new_event_loop()
        self._ending = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    async def _serve(self) -> None:
        async with self.service.running():
            await MRDServer(self.service.context).run(self._listener, self._ending)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.join(timeout=30)
        self._loop.close()

    def end(self) -> None:
        """Go down, as on SIGTERM."""
        self._loop.call_soon_threadsafe(self._ending.set)


class Answer(NamedTuple):
    """Everything that came back."""

    texts: list[str]
    images: list[Image]
    closed: bool  # by message 4

    @property
    def error(self) -> str:
        """What went wrong, in words; empty where nothing did."""
        return next((text.removeprefix("error: ") for text in self.texts if text.startswith("error: ")), "")

    @property
    def job_id(self) -> str:
        """The job's id, from the first text that names one."""
        return next(text.split()[1] for text in self.texts if text.startswith("job "))


class Scanner:
    """One connection as a scanner makes it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=60)
        self._file: Any = self.socket.makefile("rwb")
        self._sender = ProtocolSerializer(self._file)

    def send(self, *messages: Any) -> None:
        """Send objects of `ismrmrd`, or bytes as they are."""
        for message in messages:
            if isinstance(message, bytes):
                self._file.write(message)
            else:
                self._sender.serialize(message)
        self._file.flush()

    def close_scan(self) -> None:
        """The message 4."""
        self._sender.close()

    def receive(self) -> Iterator[Any]:
        """Texts and images until the server closes."""
        return ProtocolDeserializer(self._file).deserialize()

    def answer(self) -> Answer:
        """All that comes until the server closes; a connection that is reset ends it too."""
        texts: list[str] = []
        images: list[Image] = []
        closed = False
        with suppress(EOFError, ConnectionError):
            for message in self.receive():
                if isinstance(message, Image):
                    images.append(message)
                else:
                    texts.append(message)
            closed = True
        self.hang_up()
        return Answer(texts, images, closed)

    def hang_up(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._file.close()
        self.socket.close()


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[Scanner]:
    """A connection that is closed at the end."""
    scanner = Scanner(address)
    try:
        yield scanner
    finally:
        scanner.hang_up()


CONFIGURATION = ConfigFile("zero_filled")


def options(text: str) -> ConfigText:
    """A configuration as text."""
    return ConfigText(text)


class Geometry(NamedTuple):
    """Where the slices lie, in mm (L, P, S)."""

    pixel_mm: float = 2.0
    slice_mm: float = 5.0
    center: tuple[float, float, float] = (11.0, -7.0, 23.0)
    read: tuple[float, float, float] = (0.0, 1.0, 0.0)
    phase: tuple[float, float, float] = (0.0, 0.0, -1.0)
    slice: tuple[float, float, float] = (-1.0, 0.0, 0.0)


PLACED = Geometry()


def header(matrix: int, coils: int, slices: int, geometry: Geometry = PLACED) -> xsd.ismrmrdHeader:
    """The XML header of a Cartesian scan."""
    size = xsd.matrixSizeType(x=matrix, y=matrix, z=1)
    field = xsd.fieldOfViewMm(x=matrix * geometry.pixel_mm, y=matrix * geometry.pixel_mm, z=geometry.slice_mm)
    space = xsd.encodingSpaceType(matrixSize=size, fieldOfView_mm=field)
    along_slices = xsd.limitType(minimum=0, maximum=slices - 1, center=0)
    limits = xsd.encodingLimitsType(
        kspace_encoding_step_1=xsd.limitType(minimum=0, maximum=matrix - 1, center=matrix // 2),
        slice=along_slices,
    )
    encoding = xsd.encodingType(
        encodedSpace=space, reconSpace=space, encodingLimits=limits, trajectory=xsd.trajectoryType.CARTESIAN
    )
    return xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=123_000_000),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(receiverChannels=coils),
        encoding=[encoding],
    )


def lines(kspace: np.ndarray, geometry: Geometry = PLACED) -> list[Acquisition]:
    """The lines of k-space (slices, coils, ky, kx) as a scanner sends them."""
    slices, coils, rows, columns = kspace.shape
    made = []
    for number in range(slices):
        step = geometry.slice_mm * (number - slices // 2)
        position = [center + step * along for center, along in zip(geometry.center, geometry.slice, strict=True)]
        for row in range(rows):
            line = Acquisition.from_array(np.ascontiguousarray(kspace[number, :, row], np.complex64))
            line.idx.kspace_encode_step_1, line.idx.slice = row, number
            line.center_sample, line.available_channels = columns // 2, coils
            line.scan_counter = len(made)
            line.position[:], line.read_dir[:] = position, geometry.read
            line.phase_dir[:], line.slice_dir[:] = geometry.phase, geometry.slice
            if row == rows - 1:
                line.setFlag(ACQ_LAST_IN_SLICE)
            made.append(line)
    return made


def noise_kspace(slices: int, coils: int, matrix: int, seed: int = 0) -> np.ndarray:
    """K-space without any image in it."""
    rng = np.random.default_rng(seed)
    shape = (slices, coils, matrix, matrix)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def joined(messages: Sequence[Any]) -> bytes:
    """The bytes of messages, as they go over the wire."""
    import io

    sink = io.BytesIO()
    sender = ProtocolSerializer(sink)
    for message in messages:
        sender.serialize(message)
    return sink.getvalue()

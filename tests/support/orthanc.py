"""Debian's Orthanc: an archive on this machine, with DICOMweb, C-STORE and TLS where it is given certificates."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
IS_INSTALLED = Path(PROGRAM).exists() and DICOMWEB.exists()
AE_TITLE, USER, PASSWORD = "ARCHIVE", "udig", "a password of the tests"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Orthanc:
    """A running archive."""

    http_port: int
    dicom_port: int

    @property
    def root(self) -> str:
        """URL of its own interface."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """URL of its DICOMweb service."""
        return f"{self.root}/dicom-web"

    def get(self, url: str, **headers: str) -> httpx2.Response:
        """An answer of the archive."""
        answer = httpx2.get(url, auth=(USER, PASSWORD), headers=headers, trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer

    def statistics(self) -> dict[str, Any]:
        """Numbers of its patients, studies, series and instances."""
        found: dict[str, Any] = self.get(f"{self.root}/statistics").json()
        return found


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def archive(folder: Path, **options: Any) -> Iterator[Orthanc]:
    """An archive with its files in `folder`; `options` are those of Orthanc's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Orthanc(options.pop("HttpPort", None) or free_port(), options.pop("DicomPort", None) or free_port())
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(DICOMWEB)],
        "HttpPort": made.http_port,
        "DicomPort": made.dicom_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "DicomAet": AE_TITLE,
        "DicomCheckCalledAet": True,
        "ConcurrentJobs": 1,
        **options,
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([PROGRAM, str(file)], stdout=log, stderr=log)
        try:
            _wait_until_up(made, process)
            yield made
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def _wait_until_up(made: Orthanc, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            made.statistics()
            with socket.create_connection(("127.0.0.1", made.dicom_port)):
                return
        except (httpx2.TransportError, OSError):
            assert process.poll() is None, "Orthanc has ended"
            assert time.monotonic() < deadline, "Orthanc does not answer"
            time.sleep(0.05)

"""Input formats of another distribution, through the service: one has a signature of its own, one shares HDF5's."""

import io
import json
from pathlib import Path

import h5py
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.support import scans
from tests.support.api_server import serving
from tests.support.extension import install, path_with
from tests.support.worker_processes import until, working
from udig_recon.core.extensions import BrokenExtension
from udig_recon.core.formats import Prober
from udig_recon.worker.settings import Settings

TOY = """
    import io
    import struct
    from contextlib import contextmanager

    import numpy as np

    from udig_recon.core.errors import UnreadableScan
    from udig_recon.core.formats.containers.arrays import InMemory
    from udig_recon.core.formats.containers.hdf5_arrays import Hdf5Array, find_hdf5, open_dataset, open_hdf5
    from udig_recon.core.formats.containers.views import JoinedComplex
    from udig_recon.core.formats.input_format import Contents

    HEAD = struct.Struct("<4s4I")


    class Plain:
        name = "toy"
        expected = "a toy file"

        def sniff(self, file):
            return file.start(4) == b"TOY1"

        @contextmanager
        def open(self, file):
            import colorsys  # a module that is imported when the first file is read

            assert colorsys
            with file.stream() as stream:
                _, *shape = HEAD.unpack(stream.read(HEAD.size))
                content = stream.read(8 * int(np.prod(shape)))
            if len(content) != 8 * int(np.prod(shape)):
                raise UnreadableScan.at("kspace", f"{len(content)} bytes", f"{8 * int(np.prod(shape))} bytes")
            kspace = np.frombuffer(content, "<c8").reshape(shape)
            yield Contents("toy", {"kspace": InMemory("kspace", kspace)}, {"pixel_spacing_mm": 2.0})

        def samples(self):
            kspace = np.ones((1, 2, 8, 8), "<c8")
            return (HEAD.pack(b"TOY1", *kspace.shape) + kspace.tobytes(),)


    class Vendor:
        name = "vendor HDF5"
        expected = "HDF5 with vendor/samples"

        def sniff(self, file):
            if not find_hdf5(file):
                return False
            with open_hdf5(file) as opened:
                return "vendor/samples" in opened.datasets

        @contextmanager
        def open(self, file):
            with open_hdf5(file) as opened:
                parts = Hdf5Array("kspace", open_dataset(opened.file, "vendor/samples"), file.size)
                yield Contents("vendor_hdf5", {"kspace": JoinedComplex(parts)}, warnings=("a file of the vendor",))

        def samples(self):
            return ()


    PLAIN, VENDOR = Plain(), Vendor()
"""


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started from now on find the formats."""
    points = {"udig_recon.formats": "plain = toy_input:PLAIN\nvendor = toy_input:VENDOR"}
    monkeypatch.setenv("PYTHONPATH", path_with(install(tmp_path / "site", "toy_input", TOY, points)))


def files(kspace: np.ndarray) -> dict[str, bytes]:
    """The same k-space in both formats, and in one of ours."""
    vendor, npz = io.BytesIO(), io.BytesIO()
    with h5py.File(vendor, "w") as file:
        file["vendor/samples"] = np.stack([kspace.real, kspace.imag], axis=-1)
    np.savez(npz, kspace=kspace)
    head = b"TOY1" + np.array(kspace.shape, "<u4").tobytes()
    return {"toy": head + kspace.astype("<c8").tobytes(), "vendor_hdf5": vendor.getvalue(), "npz": npz.getvalue()}


@pytest.mark.usefixtures("extended")
def test_scans_of_foreign_formats_are_posted_and_reconstructed_as_ours_are(settings: Settings, mri_file: bytes) -> None:
    kspace = scans.mri()["kspace"]
    images = {}
    with serving(settings) as served, working(settings), httpx.Client(base_url=served.url) as client:
        for name, content in files(kspace).items():
            posted = client.post("/v1/scans", content=content)
            assert posted.status_code == 201, posted.text
            scan = posted.json()
            assert (scan["format"], scan["slices"], scan["coils"]) == (name, 2, 4)
            assert ("a file of the vendor" in scan["warnings"]) == (name == "vendor_hdf5")
            assert scan["pixel_spacing_mm"] == ([2.0, 2.0] if name == "toy" else [1.0, 1.0])
            body = {"scan_id": scan["id"], "parameters": {"method": "cg_sense", "holdout_share": 0}}
            links = client.post("/v1/jobs", json=body).json()["links"]
            until(lambda links=links: client.get(links["self"]).json()["status"] == "succeeded")
            images[name] = np.load(io.BytesIO(client.get(links["result"], params={"format": "npy"}).content))
        assert images["npz"].any()
        assert np.array_equal(images["toy"], images["npz"])
        assert np.array_equal(images["vendor_hdf5"], images["npz"])
        assert client.post("/v1/scans", content=mri_file).json()["format"] == "fastmri_hdf5"
        cut = client.post("/v1/scans", content=files(kspace)["toy"][:-8])
        assert (cut.status_code, cut.json()["errors"][0]["field"]) == (422, "kspace")
        text = client.post("/v1/scans", content=b"no scan")
        assert text.status_code == 415
        assert "or HDF5 with vendor/samples, or " in json.dumps(text.json())


def test_without_the_distribution_its_files_are_unknown(client: TestClient) -> None:
    made = files(scans.mri()["kspace"])
    assert client.post("/v1/scans", content=made["toy"]).status_code == 415
    assert "vendor/samples" in client.post("/v1/scans", content=made["vendor_hdf5"]).json()["detail"]


@pytest.mark.parametrize(
    ("source", "fault"), [("import not_there", "ModuleNotFoundError"), ("PLAIN = 3", "expected an InputFormat")]
)
def test_a_broken_format_is_named_with_its_fault(
    source: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"udig_recon.formats": "plain = toy_input:PLAIN"}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "toy_input", source, points))
    prober = Prober()
    try:
        for ask in (prober.missing_parts, lambda: prober.probe(scans.GOOD["fastmri"](tmp_path / "scan"))):
            with pytest.raises(BrokenExtension, match=f"plain.*{fault}"):
                ask()
    finally:
        prober.close()

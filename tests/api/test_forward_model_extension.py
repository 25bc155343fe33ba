"""A forward model of another distribution, with an acquisition, direct inverse and holdout of its own, is served."""

import io
import struct
from importlib.metadata import EntryPoint
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.support.api_server import serving
from tests.support.extension import install, path_with
from tests.support.worker_processes import until, working
from udig_recon.core import problem
from udig_recon.core.acquisition import acquisition_type
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.extensions import BrokenExtension
from udig_recon.worker.settings import Settings

SIZE, ROWS = 16, 400
THREE = 3  # no forward model
FORMAT = """
    import struct
    from contextlib import contextmanager
    from dataclasses import dataclass

    import numpy as np

    from udig_recon.core.acquisition import Modality, ScanHeader
    from udig_recon.core.errors import UnreadableScan
    from udig_recon.core.formats.containers.arrays import InMemory
    from udig_recon.core.formats.input_format import Contents

    HEAD = struct.Struct("<4s3I")


    @dataclass(frozen=True, kw_only=True)
    class WeightedSums:
        sums: np.ndarray  # (slices, rows)
        weights: np.ndarray  # (rows, y * x)
        size: int
        pixel_spacing_mm: tuple[float, float] = (1.0, 1.0)

        @property
        def slices(self):
            return len(self.sums)


    class Reader:
        USED = frozenset(("sums", "weights"))

        def slice_count(self, contents):
            return contents.arrays["sums"].shape[0]

        def check_limits(self, contents, limits):
            limits.check("sums", "slices", self.slice_count(contents), limits.max_slices)

        def probe(self, contents):
            slices, rows = contents.arrays["sums"].shape
            size = int(contents.arrays["weights"].shape[1] ** 0.5)
            return ScanHeader(
                format="weighted_sums",
                modality=Modality.CT,
                slices=slices,
                views=rows,
                detectors=1,
                matrix=(size, size),
                pixel_spacing_mm=(1.0, 1.0),
            )

        def read(self, contents, slices):
            weights = contents.arrays["weights"].read(range(contents.arrays["weights"].shape[0]))
            sums = contents.arrays["sums"].read(slices)
            return WeightedSums(sums=sums, weights=weights, size=int(weights.shape[1] ** 0.5))


    class Format:
        name = "weighted sums"
        expected = "a file of weighted sums"

        def sniff(self, file):
            return file.start(4) == b"SUM1"

        @contextmanager
        def open(self, file):
            with file.stream() as stream:
                _, slices, rows, size = HEAD.unpack(stream.read(HEAD.size))
                values = np.frombuffer(stream.read(), "<f4")
            if len(values) != rows * (slices + size * size):
                raise UnreadableScan.at("sums", f"{len(values)} numbers", f"{rows * (slices + size * size)}")
            sums, weights = values[: slices * rows], values[slices * rows :]
            arrays = {
                "sums": InMemory("sums", sums.reshape(slices, rows)),
                "weights": InMemory("weights", weights.reshape(rows, size * size)),
            }
            yield Contents("weighted_sums", arrays, reader=Reader())

        def samples(self):
            return ()


    FORMAT = Format()
"""
MODEL = """
    import copy

    import torch

    from toy_sums_format import WeightedSums
    from udig_recon.core.acquisition import Modality
    from udig_recon.core.operators import LinearOperator
    from udig_recon.core.problem import ForwardModel, SliceProblem


    class Sums(LinearOperator):
        modality = Modality.CT
        nonnegative = True

        def __init__(self, weights, size):
            self.scale = 1 / float(torch.linalg.matrix_norm(weights, 2))
            self.weights = self.scale * weights
            self.image_shape = (1, size, size)
            self.measured = torch.ones(len(weights), 1, dtype=torch.bool)

        def restrict(self, kept):
            other = copy.copy(self)
            other.measured = self.measured & kept
            return other

        def direct(self, y, window="ramp"):
            inverse = torch.linalg.pinv(self.weights * self.measured)
            return ((y * self.measured).flatten(1) @ inverse.T).reshape(len(y), *self.image_shape)

        def partition(self, share, kind, rng):
            kept = torch.ones(len(self.measured), 1, dtype=torch.bool)
            kept[::8] = False
            return kept

        def noise_level(self, y):
            return 1e-4 * float(y.abs().max())

        def _forward(self, x):
            return (x.flatten(1) @ self.weights.T).reshape(len(x), 1, -1, 1) * self.measured

        def _adjoint(self, y):
            return ((y * self.measured).flatten(1) @ self.weights).reshape(len(y), *self.image_shape)


    def build(scan, index, device):
        operator = Sums(torch.from_numpy(scan.weights.copy()), scan.size)
        y = operator.scale * torch.from_numpy(scan.sums[index].copy())[None, None, :, None]
        return SliceProblem(operator, y, (scan.size, scan.size), None)


    MODEL = ForwardModel(WeightedSums, build)
"""


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started from now on find the format and the forward model."""
    entry = {"udig_recon.formats": "sums = toy_sums_format:FORMAT"}
    formats = install(tmp_path / "format", "toy_sums_format", FORMAT, entry)
    monkeypatch.setenv("PYTHONPATH", path_with(formats))
    entry = {"udig_recon.operators": "sums = toy_sums_model:MODEL"}
    models = install(tmp_path / "model", "toy_sums_model", MODEL, entry)
    monkeypatch.setenv("PYTHONPATH", path_with(models))


def scan_file(image: np.ndarray) -> bytes:
    """Random weighted sums of an image (y, x)."""
    weights = np.random.default_rng(0).random((ROWS, image.size)).astype("<f4")
    sums = (weights @ image.reshape(-1)).astype("<f4")
    return struct.pack("<4s3I", b"SUM1", 1, ROWS, len(image)) + sums.tobytes() + weights.tobytes()


def image_of(size: int = SIZE) -> np.ndarray:
    rows, columns = np.indices((size, size))
    return ((np.hypot(rows - 7, columns - 8) < 5) * 0.02).astype(np.float32)


@pytest.mark.usefixtures("extended")
def test_a_scan_with_a_foreign_forward_model_is_posted_and_reconstructed(settings: Settings) -> None:
    image = image_of()
    with serving(settings) as served, working(settings), httpx.Client(base_url=served.url) as client:
        posted = client.post("/v1/scans", content=scan_file(image))
        assert posted.status_code == 201, posted.text
        scan = posted.json()
        assert (scan["format"], scan["modality"], scan["matrix"]) == ("weighted_sums", "ct", [SIZE, SIZE])
        results = {}
        for method in ("fbp", "sirt"):
            filed = client.post("/v1/jobs", json={"scan_id": scan["id"], "parameters": {"method": method}})
            assert filed.status_code == 202, filed.text
            links = filed.json()["links"]
            until(lambda links=links: client.get(links["self"]).json()["status"] in ("succeeded", "failed"))
            job = client.get(links["self"]).json()
            assert job["status"] == "succeeded", job["error"]
            assert job["metrics"]["validation_residual"] is not None
            results[method] = np.load(io.BytesIO(client.get(links["result"], params={"format": "npy"}).content))[0]
    # The direct inverse is the model's own: it is exact, which no iteration of a hundred reaches.
    assert np.allclose(results["fbp"], image, atol=1e-4)
    assert not np.allclose(results["sirt"], image, atol=1e-4)


def test_without_its_distributions_the_scan_is_of_no_known_format(client: TestClient) -> None:
    assert client.post("/v1/scans", content=scan_file(image_of())).status_code == 415


def test_an_acquisition_of_no_known_forward_model_is_refused() -> None:
    with pytest.raises(KeyError, match="WeightedSums"):
        acquisition_type("WeightedSums")
    with pytest.raises(UnsupportedScan, match="found list, expected one of MRIAcquisition, NonCartesian"):
        problem.forward_model_of([])  # type: ignore[arg-type]


def test_an_entry_point_that_is_no_forward_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("broken", f"{__name__}:THREE", problem.ENTRY_POINTS)
    monkeypatch.setattr("udig_recon.core.extensions.entry_points", lambda group: [point])
    problem.forward_models.cache_clear()
    try:
        with pytest.raises(BrokenExtension, match="broken is 3, expected a ForwardModel"):
            problem.forward_models()
    finally:
        problem.forward_models.cache_clear()

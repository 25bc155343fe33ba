"""A network architecture of another distribution: its card is listed, and a job runs with its prior."""

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import torch
from safetensors.torch import save_file

from tests.support.api_server import serving
from tests.support.extension import install, path_with
from tests.support.worker_processes import until, working
from udig_recon.core.priors.card import sha256_of
from udig_recon.worker.settings import Settings

SHRINK = """
    from typing import ClassVar, Literal

    from udig_recon.core.priors.architectures import NetworkDescription


    class ShrinkNetwork(NetworkDescription):
        loader: ClassVar[str] = "toy_prior:load"

        architecture: Literal["shrink"] = "shrink"
        power: float


    def load(description, weights):
        import torch

        class Shrink(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.variance = torch.nn.Parameter(weights["variance"])

            def forward(self, x, sigma):
                return x * self.variance / (self.variance + sigma**description.power)

        return Shrink()
"""
ENTRY = "shrink = toy_prior:ShrinkNetwork"
CARD = """{"name": "toy", "modality": "mri", "description": "shrinks", "sha256": "SHA256", "data": [], "held_out": [],
    "network": {"architecture": "shrink", "channels": 2, "power": 2.0}, "training": {}, "scores": {}, "limits": ""}"""


def installed(folder: Path, source: str, entry: str = ENTRY) -> str:
    return path_with(install(folder / "site", "toy_prior", source, {"udig_recon.priors": entry}))


def test_a_job_runs_with_a_prior_of_another_distribution(
    settings: Settings, mri_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path, SHRINK))
    folder = settings.priors_folder
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"variance": torch.tensor(0.09)}, folder / "toy.safetensors")
    (folder / "toy.json").write_text(CARD.replace("SHA256", sha256_of(folder / "toy.safetensors")))
    with serving(settings) as served, working(settings), httpx2.Client(base_url=served.url) as client:
        cards = {card["name"]: card for card in client.get("/v1/priors").json()["items"]}
        assert cards["toy"]["network"] == {"architecture": "shrink", "channels": 2, "power": 2.0}
        assert "ShrinkNetwork" in client.get("/openapi.json").json()["components"]["schemas"]
        scan = client.post("/v1/scans", content=mri_file).json()
        body = {"scan_id": scan["id"], "parameters": {"method": "dds", "steps": 3, "prior": "toy"}}
        posted = client.post("/v1/jobs", json=body)
        assert posted.status_code == 202, posted.text
        link = posted.json()["links"]["self"]
        until(lambda: client.get(link).json()["status"] in ("succeeded", "failed"))
        job = client.get(link).json()
        assert job["status"] == "succeeded", job
        assert job["metrics"]["prior_evaluations"] >= 3


BROKEN = {
    "absent": ("", "AttributeError"),
    "another_kind": ("ShrinkNetwork = 3\n", "no subclass of NetworkDescription"),
    "without_name": (SHRINK.replace('Literal["shrink"] = "shrink"', "str"), "architecture: Literal"),
    "same_name": (SHRINK.replace('"shrink"', '"adm"'), "another architecture 'adm'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_architecture_is_named_with_its_fault(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, fault = BROKEN[name]
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path, source))
    program = [sys.executable, "-c", "import udig_recon.core.priors.architectures"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    message = ended.stderr.splitlines()[-1]
    assert "BrokenExtension: " in message
    assert "udig_recon.priors" in message
    assert fault in message

"""A method of another distribution, through the service and the command line."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.support import scans
from tests.support.api_server import serving
from tests.support.extension import install, path_with
from tests.support.worker_processes import until, working
from udig_recon.worker.settings import Settings

LANDWEBER = """
    from typing import ClassVar, Literal

    from pydantic import Field

    from udig_recon.core.parameters import EarlyStoppingParameters


    class Landweber(EarlyStoppingParameters):
        '''Landweber iteration: gradient steps on |A x - y|^2 / 2 (Landweber 1951).'''

        implementation: ClassVar[str] = "toy_method:landweber"

        method: Literal["landweber"] = "landweber"
        iterations: int = Field(30, ge=1, le=1000, description="gradient steps", json_schema_extra={"symbol": "N"})
        step_size: float = Field(1.0, gt=0, lt=2, description="in units of 1 / |A|^2")

        def evaluations(self):
            return {"normals": 1.5 * self.iterations}


    def landweber(inputs, p, rng, state=None):
        from udig_recon.core.iterates import Iterate, snapshot

        y, A = inputs.y, inputs.A
        x, first = (A.adjoint(0 * y), 0) if state is None else (state["x"].to(y.device), state["step"])
        for step in range(first, p.iterations):
            x = x + p.step_size * A.adjoint(y - A.forward(x))
            yield Iterate(step + 1, p.iterations, x, A.misfit(x, y), snapshot(x=x, step=step + 1))
"""
ENTRY = "landweber = toy_method:Landweber"
GROUP = "udig_recon.methods"


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started from now on find the method."""
    monkeypatch.setenv("PYTHONPATH", path_with(install(tmp_path / "site", "toy_method", LANDWEBER, {GROUP: ENTRY})))


@pytest.mark.usefixtures("extended")
def test_a_method_of_another_distribution_is_listed_validated_estimated_run_and_stopped_early(
    settings: Settings, ct_file: bytes
) -> None:
    with serving(settings) as served, working(settings), httpx2.Client(base_url=served.url) as client:
        listed = {each["name"]: each for each in client.get("/v1/methods").json()["items"]}
        parameters = {each["name"]: each for each in listed["landweber"]["parameters"]}
        assert parameters["iterations"]["maximum"] == 1000
        assert parameters["iterations"]["symbol"] == "N"
        assert {"holdout_share", "patience", "refit"} <= set(parameters)
        assert "Landweber" in client.get("/openapi.json").json()["components"]["schemas"]
        uploaded = client.post("/v1/scans", content=ct_file)
        assert uploaded.status_code == 201, uploaded.text
        body = {"scan_id": uploaded.json()["id"]}
        refused = client.post("/v1/jobs", json={**body, "parameters": {"method": "landweber", "step_size": 2}})
        (error,) = refused.json()["errors"]
        assert (refused.status_code, error["field"], error["expected"]) == (422, "parameters.step_size", "< 2.0")
        posted = client.post("/v1/jobs", json={**body, "parameters": {"method": "landweber", "iterations": 40}})
        assert posted.status_code == 202, posted.text
        assert posted.json()["estimate"]["seconds"] > 0
        link = posted.json()["links"]["self"]
        until(lambda: client.get(link).json()["status"] in ("succeeded", "failed"))
        job = client.get(link).json()
        assert job["status"] == "succeeded", job
        assert job["parameters"]["step_size"] == 1.0
        assert 0 < job["metrics"]["validation_residual"] < 1


@pytest.mark.long
@pytest.mark.usefixtures("extended")
def test_the_command_line_lists_and_runs_a_method_of_another_distribution(tmp_path: Path) -> None:
    def udig(*arguments: str) -> str:
        command = [sys.executable, "-m", "udig_recon.core", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout

    assert "gradient steps" in udig("methods", "landweber")
    scan = scans.GOOD["fastmri"](tmp_path / "scan.h5")
    udig("recon", str(scan), "-o", str(tmp_path / "out.npy"), "--method", "landweber", "--set", "iterations=3")
    assert (tmp_path / "out.npy").is_file()


def test_a_researcher_may_import_the_method_before_the_registry(extended: None) -> None:
    program = "import toy_method; from udig_recon.core.parameters import METHODS; print(METHODS['landweber'].__name__)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("Landweber\n", "")


BROKEN = {
    "absent": ("", ENTRY, "AttributeError"),
    "fails": ("import not_there\n", ENTRY, "ModuleNotFoundError"),
    "another_kind": ("Landweber = 3\n", ENTRY, "expected a subclass of"),
    "another_name": (LANDWEBER, "weber = toy_method:Landweber", 'expected Literal["weber"]'),
    "taken": (LANDWEBER.replace('"landweber"', '"tv"'), "tv = toy_method:Landweber", "built-in method"),
    "without_implementation": (LANDWEBER.replace("implementation:", "other:"), ENTRY, "package.module:function"),
    "without_default": (LANDWEBER.replace("Field(30, ge", "Field(ge"), ENTRY, "iterations have no default"),
    "without_description": (LANDWEBER.replace("'''", "#"), ENTRY, "docstring"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_is_left_out_with_one_line_and_all_others_stay(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, entry, fault = BROKEN[name]
    monkeypatch.setenv("PYTHONPATH", path_with(install(tmp_path / "site", "toy_method", source, {GROUP: entry})))
    program = (
        "from udig_recon.core.parameters import METHODS, Method, parse; print(len(METHODS), parse({'method': 'tv'}))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("23 method='tv'")
    (line,) = ended.stderr.splitlines()
    assert f"entry point {entry} of toy_method 1.0 in {GROUP}" in line
    assert fault in line

"""The sync client is the async one; answers have every field that the document promises."""

import inspect
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

import udig_client
from udig_client import Client, models
from udig_client.decode import decode
from udig_client.files import SUFFIXES
from udig_recon.api.app import create_app
from udig_recon.core.results.outputs import OUTPUTS
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[2]
ANSWERS = {
    "ScanOut": models.Scan,
    "JobOut": models.Job,
    "SnapshotOut": models.Snapshot,
    "ComparisonOut": models.Comparison,
    "RankingOut": models.Ranking,
    "KeyMade": models.CreatedKey,
    "TenantOut": models.Tenant,
    "MethodOut": models.Method,
    "HealthOut": models.Health,
    "UploadOut": models.UnfinishedUpload,
    "DirectUploadOut": models.DirectUpload,
    "PartOut": models.UploadPart,
    "WorkersOut": models.Workers,
}
"""Schemas of the document, and the dataclasses that stand for them."""

QUERIES = {
    "create_scan": "upload",
    "list_jobs": "jobs",
    "get_job_result": "result",
    "get_readiness": "readiness",
    "get_job_preview": "preview",
    "get_scan_preview": "scan_preview",
    "list_job_snapshots": "snapshots",
    "get_comparison_table": "table",
    "get_comparison_panel": "panel",
}
"""Operations with a query, and the client's methods for them where the names differ."""

BY_ITSELF = {"cursor", "limit", "wait", "iteration"}
"""Parameters that the client gives by itself, or that have one value."""


def test_the_sync_client_is_written_from_the_async_one() -> None:
    written = runpy.run_path(str(ROOT / "client" / "generate_sync.py"))["sync_source"]()
    assert (ROOT / "client/src/udig_client/client.py").read_text() == written, "run python client/generate_sync.py"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    settings = Settings(database_url="postgresql+psycopg://nobody@nowhere/x", redis_url="redis://nowhere", data=folder)
    found: dict[str, Any] = create_app(settings).openapi()
    return found


@pytest.fixture(scope="module")
def schemas(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"]
    return found


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_has_every_field_of_the_document_and_its_example_is_decoded(
    schemas: dict[str, Any], name: str
) -> None:
    schema = schemas[name]
    assert set(schema["properties"]) == set(ANSWERS[name].__dataclass_fields__), "udig_client.models"
    for example in schema["examples"]:
        decode(ANSWERS[name], example)


@pytest.mark.parametrize(("name", "method"), {"JobOptions": "submit", "ComparisonIn": "compare"}.items())
def test_every_option_of_a_request_is_an_argument(schemas: dict[str, Any], name: str, method: str) -> None:
    told = {"parameters": "parameters", "scan_ids": "scans"}
    options = {told.get(option, option) for option in schemas[name]["properties"]}
    assert options - set(inspect.signature(getattr(Client, method)).parameters) == set()


def test_every_parameter_of_a_query_is_an_argument(document: dict[str, Any]) -> None:
    found = {}
    for path, item in document["paths"].items():
        for operation in item.values():
            method = QUERIES.get(operation["operationId"], operation["operationId"])
            asked = {
                each["name"].removesuffix("_id") for each in operation.get("parameters", ()) if each["in"] == "query"
            }
            if asked := asked - BY_ITSELF:
                arguments = set(inspect.signature(getattr(Client, method)).parameters)
                found[path, method] = asked - arguments
    assert {where: missing for where, missing in found.items() if missing} == {}
    assert len(found) >= 5


def test_the_suffixes_of_files_are_those_of_the_service() -> None:
    assert {output.suffix: name for name, output in OUTPUTS.items()} == SUFFIXES


def test_client_and_service_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert udig_client.__version__ == project["version"]


def test_everything_public_is_exported() -> None:
    errors = {
        name
        for name, each in vars(udig_client.errors).items()
        if isinstance(each, type) and issubclass(each, Exception)
    }
    assert errors - {"Exception", "TimeoutError"} <= set(udig_client.__all__)
    assert {each.__name__ for each in ANSWERS.values()} <= set(udig_client.__all__)

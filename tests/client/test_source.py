"""The sync client is the async one; answers have every field that the document promises."""

import runpy
from pathlib import Path
from typing import Any

import pytest

import udig_client
from udig_client import models
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
    "WorkersOut": models.Workers,
}
"""Schemas of the document, and the dataclasses that stand for them."""


def test_the_sync_client_is_written_from_the_async_one() -> None:
    written = runpy.run_path(str(ROOT / "client" / "generate_sync.py"))["sync_source"]()
    assert (ROOT / "client/src/udig_client/client.py").read_text() == written, "run python client/generate_sync.py"


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("data")
    settings = Settings(database_url="postgresql+psycopg://nobody@nowhere/x", redis_url="redis://nowhere", data=folder)
    found: dict[str, Any] = create_app(settings).openapi()["components"]["schemas"]
    return found


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_has_every_field_of_the_document_and_its_example_is_decoded(
    schemas: dict[str, Any], name: str
) -> None:
    schema = schemas[name]
    assert set(schema["properties"]) == set(ANSWERS[name].__dataclass_fields__), "udig_client.models"
    for example in schema["examples"]:
        decode(ANSWERS[name], example)


def test_the_suffixes_of_files_are_those_of_the_service() -> None:
    assert {output.suffix: name for name, output in OUTPUTS.items()} == SUFFIXES


def test_everything_public_is_exported() -> None:
    errors = {
        name
        for name, each in vars(udig_client.errors).items()
        if isinstance(each, type) and issubclass(each, Exception)
    }
    assert errors - {"Exception", "TimeoutError"} <= set(udig_client.__all__)
    assert {each.__name__ for each in ANSWERS.values()} <= set(udig_client.__all__)

import json
import logging
import uuid
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel

from tests.support.keyed_client import KeyedApi, filled
from udig_recon.api.access import schemas as access_schemas
from udig_recon.api.app import create_app
from udig_recon.api.comparisons import schemas as comparison_schemas
from udig_recon.api.http.problems import Problem, truncate
from udig_recon.api.jobs import schemas as job_schemas
from udig_recon.api.scans import schemas as scan_schemas
from udig_recon.api.system import schemas as system_schemas
from udig_recon.worker.jobs import failures
from udig_recon.worker.settings import Settings


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def test_an_unknown_path_is_a_problem(client: TestClient) -> None:
    answer = client.get("/v2/scans")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["instance"] == "/v2/scans"


def test_a_wrong_method_is_told_the_right_ones(client: TestClient) -> None:
    answer = client.patch("/v1/scans")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert answer.json()["errors"][0]["expected"] == "GET | HEAD | POST"
    assert client.get("/v1/jobs/0/cancel").headers["allow"] == "POST"
    assert client.head("/v1/jobs/0/cancel").status_code == 405


def test_a_problem_repeats_little_of_what_was_sent(client: TestClient, scan: dict[str, Any]) -> None:
    long = "x" * 500_000
    for wrong in (
        {"parameters": {"method": "udig_dip", "prior": long}},
        {"parameters": {"method": "zero_filled", long: 1}},
        {"parameters": {"method": "zero_filled"}, "slices": [-1] * 100_000},
    ):
        answer = client.post("/v1/jobs", json={"scan_id": scan["id"], **wrong})
        assert answer.status_code == 422
        assert len(answer.content) < 40_000


def test_an_error_of_our_own_tells_no_secrets(settings: Settings) -> None:
    app: FastAPI = create_app(settings)

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/broken")
        samples = client.get("/metrics").text
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "secret" not in answer.text
    assert 'route="/broken",status="500"' in samples


def test_every_answer_forbids_sniffing(client: TestClient) -> None:
    for path in ("/v1/scans", "/nowhere", "/healthz", "/docs"):
        assert client.get(path).headers["x-content-type-options"] == "nosniff"


def test_the_log_holds_no_names(client: TestClient, mri_file: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "udig_recon.api"):
        client.post("/v1/scans", content=mri_file, params={"filename": "Mustermann.h5"})
        client.post("/v1/scans", content=mri_file, headers={"X-Filename": "Mustermann.h5"})
        client.get("/Mustermann")
    ours = [str(vars(record)) for record in caplog.records if record.name.startswith("udig_recon.")]
    assert len(ours) >= 3
    assert not any("Mustermann" in message for message in ours)


def test_the_root_is_the_page_which_leads_to_the_documents(client: TestClient) -> None:
    assert 'href="/docs"' in client.get("/").text
    assert "swagger" in client.get("/docs").text.lower()


@pytest.mark.parametrize("value", ["x" * 1000, ["x"] * 1000, {"a": "b" * 1000}])
def test_a_wrong_value_is_told_back_in_short(value: object) -> None:
    assert len(truncate(value)) <= 120


def test_every_answer_of_every_operation_has_an_example(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        for status, answer in operation["responses"].items():
            for kind, content in answer.get("content", {}).items():
                assert "example" in content, (name, status, kind)
                if int(status) >= 400 and name != "get /readyz":
                    assert kind == "application/problem+json", (name, status)
                    assert content["example"]["status"] == int(status)


def test_every_request_body_has_an_example(document: dict[str, Any]) -> None:
    bodies = {name: operation["requestBody"] for name, operation in operations(document) if "requestBody" in operation}
    assert {"post /v1/scans", "post /v1/jobs", "post /v1/jobs/{job_id}/retry", "post /v1/comparisons"} < set(bodies)
    for name, body in bodies.items():
        for kind, content in body["content"].items():
            assert "example" in content, (name, kind)


def test_every_reference_of_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [each for value in node.values() for each in references(value)]
        return [each for value in node for each in references(value)] if isinstance(node, list) else []

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def test_the_example_of_a_job_is_one(client: TestClient, document: dict[str, Any], scan: dict[str, Any]) -> None:
    example = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["example"]
    answer = client.post("/v1/jobs", json=example | {"scan_id": scan["id"]})
    assert answer.status_code == 202, answer.text
    shape = document["paths"]["/v1/jobs"]["post"]["responses"]["202"]["content"]["application/json"]["example"]
    assert set(shape) <= set(answer.json())  # the document leaves nulls out
    listed = document["paths"]["/v1/scans/{scan_id}"]["get"]["responses"]["200"]["content"]["application/json"]
    assert set(scan) >= set(listed["example"])


def test_every_example_of_a_model_is_valid() -> None:
    modules = [access_schemas, comparison_schemas, job_schemas, scan_schemas, system_schemas]
    models = {
        model
        for module in modules
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, BaseModel) and "json_schema_extra" in model.model_config
    }
    assert {"JobIn", "JobOptions", "JobOut", "ScanOut", "ComparisonIn", "KeyOut"} <= {
        model.__name__ for model in models
    }
    for model in models:
        extra = model.model_config["json_schema_extra"]
        assert isinstance(extra, dict)
        for example in cast("list[Any]", extra["examples"]):
            read = model.model_validate_json(json.dumps(example))
            assert set(example) <= set(read.model_dump(mode="json")), model


def test_a_body_is_not_looked_at_before_its_sender_is_known(keyed_api: KeyedApi) -> None:
    for method, path in keyed_api.v1():
        if "requestBody" in keyed_api.operations[method, path]:
            answer = keyed_api.client.request(
                method, filled(path, uuid.uuid4()), content=b"{", headers={"Content-Type": "?"}
            )
            assert answer.status_code == 401, path


def test_problems_of_workers_have_the_titles_of_the_same_problems_of_the_api() -> None:
    titles = {problem.uri(): problem.title for problem in Problem.__subclasses__()} | {Problem.uri(): Problem.title}
    of_workers = [failures.disk_full(0), failures.damaged_file("x", "y"), failures.internal(0, ValueError())]
    assert [(each["type"], each["title"]) for each in of_workers] == [
        (each["type"], titles[each["type"]]) for each in of_workers
    ]

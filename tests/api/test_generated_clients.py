"""Clients that others make: one generated from the OpenAPI document, one that reads server-sent events."""

import importlib
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from types import ModuleType

import h5py
import httpx
import pytest
from httpx_sse import connect_sse

from tests.support.api_server import serving
from tests.support.worker_processes import working
from udig_recon.api.app import create_app
from udig_recon.api.webhooks.delivery import payload
from udig_recon.api.webhooks.events import WebhookEvent
from udig_recon.worker.database.tables import Status
from udig_recon.worker.jobs.webhook_outbox import Delivery
from udig_recon.worker.settings import Settings


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package that openapi-python-client makes of the document, without a word of complaint."""
    folder = tmp_path_factory.mktemp("client")
    settings = Settings(database_url="postgresql+psycopg://nobody@nowhere/x", redis_url="redis://nowhere", data=folder)
    (folder / "openapi.json").write_text(json.dumps(create_app(settings).openapi()))
    overrides = dict.fromkeys(("image/png", "application/offset+octet-stream"), "application/octet-stream")
    (folder / "config.json").write_text(
        json.dumps({"package_name_override": "generated_client", "post_hooks": [], "content_type_overrides": overrides})
    )
    command = ["generate", "--path", "openapi.json", "--config", "config.json", "--meta", "none"]
    command += ["--output-path", "generated_client", "--fail-on-warning"]
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", *command], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("generated_client")
    finally:
        sys.path.remove(str(folder))


def test_a_generated_client_takes_a_scan_from_post_to_picture(
    generated: ModuleType, settings: Settings, mri_file: bytes
) -> None:
    def operation(path: str) -> ModuleType:
        return importlib.import_module(f"generated_client.api.{path}")

    models = importlib.import_module("generated_client.models")
    types = importlib.import_module("generated_client.types")
    asked = {"parameters": {"method": "cg_sense"}, "slices": [0]}
    with serving(settings) as served, working(settings), generated.Client(base_url=served.url) as client:
        first = operation("scans.create_scan").sync_detailed(client=client, body=types.File(payload=BytesIO(mri_file)))
        assert first.status_code == 201
        again = operation("scans.create_scan").sync(client=client, body=types.File(payload=BytesIO(mri_file)))
        assert again.id == first.parsed.id
        assert operation("scans.get_scan").sync(first.parsed.id, client=client).sha256 == again.sha256

        order = models.JobIn.from_dict({**asked, "scan_id": str(again.id)})
        job = operation("jobs.create_job").sync(client=client, body=order)
        while (job := operation("jobs.get_job").sync(job.id, client=client, wait=30)).status not in (
            models.Status.SUCCEEDED,
            models.Status.FAILED,
        ):
            pass
        assert job.status is models.Status.SUCCEEDED
        assert operation("jobs.list_job_snapshots").sync(job.id, client=client).items

        result = operation("results.get_job_result").sync(job.id, client=client)
        with h5py.File(result.payload) as volume:
            assert len(volume["reconstruction"]) == 1
        picture = operation("results.get_job_preview").sync(job.id, client=client)
        assert picture.payload.read(8) == b"\x89PNG\r\n\x1a\n"

        refused = operation("jobs.create_job").sync(
            client=client, body=models.JobIn.from_dict({**asked, "slices": [99], "scan_id": str(again.id)})
        )
        assert isinstance(refused, models.ProblemOut)
        assert "99" in refused.errors[0].found


def test_a_reader_of_server_sent_events_follows_a_job_from_its_first_block_on(
    settings: Settings, mri_file: bytes
) -> None:
    form = {"job": (None, json.dumps({"parameters": {"method": "zero_filled"}}))}
    with serving(settings) as served, working(settings), httpx.Client(base_url=served.url, timeout=60) as client:
        job = client.post("/v1/jobs", files={"scan": ("scan.h5", mri_file), **form}).json()
        with connect_sse(client, "GET", f"/v1/jobs/{job['id']}/events") as stream:
            events = list(stream.iter_sse())
    assert all(event.data for event in events)
    assert events[0].event == "status"
    assert events[0].retry is not None
    assert events[-1].event == "done"
    assert events[-1].json()["status"] == "succeeded"


def test_operations_are_named_as_people_would_name_them(settings: Settings) -> None:
    document = create_app(settings).openapi()
    named = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(set(named)) == len(named)
    assert {"create_scan", "create_job", "get_job", "stream_job_events", "get_job_result"} <= set(named)
    assert not [name for name in named if "v1" in name]


def test_every_answer_that_holds_something_has_a_schema(settings: Settings) -> None:
    document = create_app(settings).openapi()
    bare = [
        (path, method, status, kind)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        for status, answer in operation["responses"].items()
        for kind, content in answer.get("content", {}).items()
        if not content.get("schema", content.get("itemSchema"))
    ]
    assert bare == []


def test_the_document_describes_the_webhook_that_is_sent(settings: Settings) -> None:
    document = create_app(settings).openapi()
    described = document["webhooks"]["job.ended"]["post"]
    assert described["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/WebhookEvent")
    assert {each["name"] for each in described["parameters"]} == {
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    }
    delivery = Delivery(
        id=uuid.uuid4(),
        job_id=uuid.uuid4(),
        url="https://example.org",
        event="job.succeeded",
        attempt=1,
        created_at=datetime.now(UTC),
        traceparent=None,
        tenant="default",
        receiver="example.org",
    )
    sent = WebhookEvent.model_validate_json(payload(delivery))
    assert (sent.data.job_id, sent.data.status) == (delivery.job_id, Status.SUCCEEDED)

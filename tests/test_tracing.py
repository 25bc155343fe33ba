"""Traces of real processes, from POST to result; what came with a scan is in none of them, nor in logs or webhooks."""

import json
import subprocess
from pathlib import Path
from typing import Any

import h5py
import httpx2
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from pydantic import SecretStr

from tests.support.api_server import serving
from tests.support.environment import ROOT, environment
from tests.support.otlp_collector import collecting
from tests.support.scans import ct, write_hdf5
from tests.support.webhook_receiver import receiving
from tests.support.worker_processes import until, working
from udig_recon.core.cli import UDIG
from udig_recon.worker.settings import Settings

NAME = "Doe^Jane"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSB0ZXN0cyBvZiB3ZWJob29rcw=="
ROAD = {"POST /v1/jobs", "probe", "slice.wait", "slice.claim", "slice", "slice.read", "slice.maps", "slice.iterate"}
ROAD |= {"slice.checkpoint", "assemble", "webhook"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = write_hdf5(tmp_path / f"{NAME}.h5", **ct(slices=1, size=32))
    with h5py.File(path, "a") as file:
        file.attrs["patient_name"] = NAME
    return path


def post(url: str, scan: Path, **more: Any) -> str:
    """A job of this file, whose name and tags name a person, as part of a trace of its client's."""
    asked = {
        "parameters": {"method": "sirt", "iterations": 6000, "holdout_share": 0},
        "tags": {"patient": NAME},
        **more,
    }
    form = {"files": {"scan": (scan.name, scan.read_bytes())}, "data": {"job": json.dumps(asked)}}
    answer = httpx2.post(f"{url}/v1/jobs?patient={NAME}", headers={"traceparent": PARENT}, timeout=60, **form)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_one_trace_leads_from_the_client_over_every_step_to_the_webhook_and_names_no_patient(
    settings: Settings, scan: Path
) -> None:
    with collecting() as collector, receiving() as receiver:
        told = {"webhook_secret": SecretStr(SECRET), "webhook_allow_private": True}
        settings = settings.model_copy(update={**told, "otel_exporter_otlp_endpoint": collector.url})
        with serving(settings) as served, working(settings) as (worker,):
            job_id = post(served.url, scan, webhook_url=receiver.url)
            until(lambda: collector.names() >= ROAD)
            scan.write_bytes(scan.read_bytes()[:-100])
            refused = httpx2.post(f"{served.url}/v1/scans?filename={NAME}", content=scan.read_bytes(), timeout=60)
            assert refused.status_code == 422
            until(lambda: "POST /v1/scans" in collector.names())
            log = served.log.read_text() + "".join(worker.lines)
    trace_id = bytes.fromhex(PARENT.split("-")[1])
    spans = {told.span.name: told for told in collector.spans if told.span.trace_id == trace_id}
    assert set(spans) == ROAD
    services = {name: told.service.removeprefix("udig-recon-") for name, told in spans.items()}
    assert {name for name in ROAD if services[name] == "api"} == {"POST /v1/jobs", "probe", "webhook"}
    parents = {told.span.span_id: name for name, told in spans.items()}
    below = {name: parents.get(told.span.parent_span_id) for name, told in spans.items()}
    assert spans["POST /v1/jobs"].span.parent_span_id == bytes.fromhex(PARENT.split("-")[2])
    assert {below[name] for name in ("probe", "slice", "slice.wait", "slice.claim", "webhook")} == {"POST /v1/jobs"}
    assert {below[name] for name in ("slice.read", "slice.maps", "slice.iterate", "assemble")} == {"slice"}
    assert below["slice.checkpoint"] == "slice.iterate"
    waited = spans["slice.wait"].span
    assert waited.start_time_unix_nano < waited.end_time_unix_nano <= spans["assemble"].span.end_time_unix_nano

    of_the_job = [json.loads(line) for line in log.splitlines() if job_id in line]
    assert {"job.queued", "slice.started", "slice.succeeded", "job.succeeded", "webhook.attempted"} <= {
        line["event"] for line in of_the_job
    }
    assert {line["trace_id"] for line in of_the_job if "trace_id" in line} == {trace_id.hex()}
    heard = [json.loads(each.body) for each in receiver.heard]
    for told in heard:
        del told["data"]["tags"]  # the receiver is the tenant's own, and so are the tags
    assert heard
    for what in (log, *(repr(body) for body in collector.bodies), str(heard)):
        assert "Doe" not in what


def test_a_failure_is_marked_with_its_class_and_no_word_more(settings: Settings, scan: Path) -> None:
    with collecting() as collector:
        settings = settings.model_copy(update={"otel_exporter_otlp_endpoint": collector.url})
        with serving(settings) as served:
            answer = httpx2.post(f"{served.url}/v1/scans?filename={NAME}", content=b"Doe, not a scan", timeout=60)
            assert answer.status_code == 415
            until(lambda: "probe" in collector.names())
    (probe,) = [told.span for told in collector.spans if told.span.name == "probe"]
    assert (probe.status.code, probe.status.message, len(probe.events)) == (Status.STATUS_CODE_ERROR, "", 0)
    assert {each.key: each.value.string_value for each in probe.attributes} == {"error.type": "UnknownFormat"}


def test_a_collector_that_is_away_keeps_nobody_waiting(settings: Settings, scan: Path) -> None:
    settings = settings.model_copy(update={"otel_exporter_otlp_endpoint": "http://127.0.0.1:1"})
    with serving(settings) as served, working(settings):
        job_id = post(served.url, scan)
        until(lambda: httpx2.get(f"{served.url}/v1/jobs/{job_id}").json()["status"] == "succeeded")


@pytest.mark.parametrize("process", ["api", "worker"])
def test_an_endpoint_that_is_none_stops_the_start_with_one_line(settings: Settings, process: str) -> None:
    command = [*UDIG, process]
    wrong = environment(settings) | {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}
    ended = subprocess.run(command, cwd=ROOT, env=wrong, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: OTEL_EXPORTER_OTLP_ENDPOINT: ")
    assert ended.stderr.count("\n") == 1

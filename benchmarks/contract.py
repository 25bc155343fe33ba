"""The service against its own OpenAPI document: `python -m benchmarks.contract --examples 500 --seed 1 [--key]`.

Schemathesis makes requests that fit the document and such that do not; every answer must be one that is declared. With
--key authentication is on, and each request bears a key.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from benchmarks.data.tiny_scans import GOOD
from benchmarks.demo import checked
from benchmarks.load.upload_memory import ROOT, api_process
from udig_recon.api.uploads.protocol import MEDIA_TYPE
from udig_recon.core.cli import UDIG
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.database.engine import make_engine, make_sessions

TIMEOUT_SECONDS = 15
schemathesis.serializer.alias(MEDIA_TYPE, "application/octet-stream")


Headers = dict[str, str]


def broken(
    url: str, known: Mapping[str, str], *, examples: int, seed_: int, headers: Headers | None = None
) -> list[str]:
    """What was answered other than the document says; `known` are ids of `something_there`."""
    document = _plain(httpx2.get(f"{url}/openapi.json").json())
    operations = [found.ok() for found in schemathesis.openapi.from_dict(document).get_all_operations()]
    # What is known must be there until all others have asked for it.
    operations.sort(key=lambda operation: operation.method == "delete")
    failures = []
    for operation in operations:
        for mode in GenerationMode:
            try:
                _exercise(url, operation, mode, known, examples, seed_, headers)
            except Unsatisfiable:
                continue  # nothing that this operation takes could be wrong
            except FailureGroup as group:
                failures += [f"{operation.label}: {error}" for error in group.exceptions]
    return failures


def _plain(node: Any) -> Any:
    """The document for this run.

    Pairs are arrays of two, for Schemathesis 4.32.5 misreads prefixItems in answers. Keys are left out: on a loopback
    address nobody is asked for one, else each request has it; tests/api/test_access.py tries every operation without.
    """
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {name: _plain(each) for name, each in node.items() if name not in ("security", "securitySchemes")}
    if pair := made.pop("prefixItems", None):
        made["items"] = pair[0]
    return made


def _exercise(
    url: str,
    operation: Any,
    mode: GenerationMode,
    known: Mapping[str, str],
    examples: int,
    seed_: int,
    headers: Headers | None,
) -> None:
    deletes = operation.method == "delete"

    @seed(seed_)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode), meets=st.booleans())
    def ask(case: Case, meets: bool) -> None:
        left_out = [positive_data_acceptance]  # random bytes fit the document and are no scan
        if meets and not deletes:
            # It asks this of something that is there, and by that may be wrong no more.
            left_out.append(negative_data_rejection)
            case.path_parameters |= {name: known[name] for name in case.path_parameters if name in known}
        case.call_and_validate(url, headers=headers, excluded_checks=left_out, timeout=TIMEOUT_SECONDS)

    ask()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contract", description=__doc__)
    parser.add_argument("--examples", type=int, default=500, help="requests of each kind for each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--key", action="store_true", help="with authentication on")
    asked = parser.parse_args()
    authentication = "on" if asked.key else "off"
    with (
        tempfile.TemporaryDirectory(prefix="udig-contract-") as name,
        api_process(Path(name) / "data", AUTHENTICATION=authentication) as api,
    ):
        headers = _key(api.environment["DATABASE_URL"]) if asked.key else {}
        worker = subprocess.Popen([*UDIG, "worker"], cwd=ROOT, env={**os.environ, **api.environment})
        try:
            url = f"http://127.0.0.1:{api.port}"
            known = something_there(url, GOOD["fastmri"](Path(name) / "scan.h5"), headers)
            failures = broken(url, known, examples=asked.examples, seed_=asked.seed, headers=headers)
        finally:
            worker.terminate()
            worker.wait()
    print(*failures, f"{len(failures)} broken promises", sep="\n\n")
    return int(bool(failures))


def _key(database_url: str) -> Headers:
    """A key that may do everything."""
    engine = make_engine(database_url)
    with make_sessions(engine).begin() as session:
        _, secret = keys.make(session, "contract", NewKey(name="contract", scopes=list(Scope)))
    engine.dispose()
    return {"Authorization": f"Bearer {secret}"}


def something_there(url: str, path: Path, headers: Headers | None = None) -> dict[str, str]:
    """A scan, a job and a comparison of it that have succeeded, and an upload that goes on."""
    with httpx2.Client(base_url=url, headers=headers, timeout=60) as client:
        scan = checked(client.post("/v1/scans", content=path.read_bytes())).json()
        parameters = {"method": "zero_filled"}
        job = _succeeded(client, "/v1/jobs", {"scan_id": scan["id"], "parameters": parameters})
        asked = {"scan_ids": [scan["id"]], "methods": [{"parameters": parameters}]}
        comparison = _succeeded(client, "/v1/comparisons", asked)
        upload = checked(client.post("/v1/uploads", headers={"Upload-Length": "1000000"})).json()
    there = {"scan": scan, "job": job, "comparison": comparison, "upload": upload}
    return {f"{name}_id": each["id"] for name, each in there.items()}


def _succeeded(client: httpx2.Client, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, when it is there."""
    made: dict[str, Any] = checked(client.post(path, json=asked)).json()
    while made["status"] != "succeeded":
        made = checked(client.get(made["links"]["self"], params={"wait": 30})).json()
    return made


if __name__ == "__main__":
    sys.exit(main())

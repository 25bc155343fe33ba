"""The application with authentication on, whoever stands before it, and what they bring and ask for."""

import uuid
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from udig_recon.api.access.audit import READS
from udig_recon.worker.access import audit, keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.access.tenants import set_limits
from udig_recon.worker.database.tables import Audit, Key

QUICK = {"method": "zero_filled"}
Headers = dict[str, str]


class KeyedApi:
    """The application with authentication on, and whoever stands before it."""

    def __init__(self, client: TestClient, database: sessionmaker[Session]) -> None:
        self.client, self.database = client, database
        self.operations: dict[tuple[str, str], dict[str, Any]] = {
            (method.upper(), path): operation
            for path, item in client.get("/openapi.json").json()["paths"].items()
            for method, operation in item.items()
        }

    def key(self, tenant: str, *scopes: Scope, **limits: Any) -> tuple[uuid.UUID, Headers]:
        """A new key, and the headers that bear it."""
        wanted = NewKey(name="test", scopes=list(scopes or Scope), **limits)
        with self.database.begin() as session:
            key, secret = keys.make(session, tenant, wanted)
        return key.id, {"Authorization": f"Bearer {secret}"}

    def limit(self, tenant: str, **limits: int) -> None:
        """Set limits of a tenant."""
        with self.database.begin() as session:
            set_limits(session, tenant, limits)

    def v1(self) -> list[tuple[str, str]]:
        return [each for each in self.operations if each[1].startswith("/v1/")]

    def row(self, key_id: uuid.UUID) -> Key:
        with self.database() as session:
            return session.get_one(Key, key_id)

    def audited(self, *, reads: bool = False) -> list[tuple[str, str, dict[str, str]]]:
        """The audit log up to now without the ends of jobs, which no client makes; reads of metadata if wanted."""
        self.client.app.state.context.audit.write(at_once=True)  # type: ignore[attr-defined]
        with self.database() as session:
            rows = session.scalars(select(Audit).order_by(Audit.seq)).all()
        beside = {"refused.401", "refused.429", *READS.values()}
        return [
            (row.actor, row.action, row.ids)
            for row in rows
            if row.actor != audit.WORKER and (reads or row.action not in beside)
        ]


def filled(path: str, some_id: object) -> str:
    """A path with this for every id."""
    return path.format(**dict.fromkeys(("scan_id", "job_id", "comparison_id", "key_id", "upload_id"), some_id))


def bring(keyed_api: KeyedApi, headers: Headers, file: bytes) -> dict[str, Any]:
    answer = keyed_api.client.post("/v1/scans", content=file, headers=headers)
    assert answer.status_code == 201, answer.text
    scan: dict[str, Any] = answer.json()
    return scan


def ask(keyed_api: KeyedApi, headers: Headers, scan: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = keyed_api.client.post(
        "/v1/jobs", json={"scan_id": scan["id"], "parameters": QUICK, **more}, headers=headers
    )
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def compare(keyed_api: KeyedApi, headers: Headers, scan: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"scan_ids": [scan["id"]], "methods": [{"parameters": QUICK}], **more}
    answer = keyed_api.client.post("/v1/comparisons", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    comparison: dict[str, Any] = answer.json()
    return comparison

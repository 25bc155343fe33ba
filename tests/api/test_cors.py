"""Pages of other origins use the API only where CORS_ORIGINS names them, by a key and never by a cookie."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from udig_recon.api.app import create_app
from udig_recon.worker.settings import Settings

VIEWER = "https://viewer.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key"}


def allowed(answer: Any) -> str | None:
    assert "access-control-allow-credentials" not in answer.headers
    found: str | None = answer.headers.get("access-control-allow-origin")
    return found


def test_without_the_setting_no_other_origin_is_let_in(client: TestClient) -> None:
    assert allowed(client.get("/v1/jobs", headers={"Origin": "http://testserver"})) is None
    preflight = client.options("/v1/jobs", headers={"Origin": VIEWER, **PREFLIGHT})
    assert (preflight.status_code, allowed(preflight)) == (405, None)
    assert client.get("/v1/jobs", headers={"Origin": VIEWER}).status_code == 403


@pytest.mark.parametrize("authentication", ["on", "off"])
def test_pages_of_the_origins_that_are_named_are_let_in(settings: Settings, authentication: str) -> None:
    named = settings.model_copy(
        update={"cors_origins": f"{VIEWER} http://localhost:3000", "authentication": authentication}
    )
    with TestClient(create_app(named)) as client:
        for origin in (VIEWER, "http://localhost:3000"):
            preflight = client.options("/v1/jobs", headers={"Origin": origin, **PREFLIGHT})
            assert (preflight.status_code, allowed(preflight)) == (200, origin)
            assert "Idempotency-Key" in preflight.headers["access-control-allow-headers"]
            assert preflight.headers["x-content-type-options"] == "nosniff"
            answer = client.get("/v1/jobs", headers={"Origin": origin})
            assert answer.status_code == (401 if authentication == "on" else 200)
            assert allowed(answer) == origin  # also of a refusal, so that the page can read the problem
            assert "Origin" in answer.headers["vary"]
            exposed = answer.headers["access-control-expose-headers"].split(", ")
            assert {
                "ETag",
                "Location",
                "Retry-After",
                "Link",
                "Content-Disposition",
                "Upload-Offset",
                "Window-Levels",
            } <= set(exposed)
        other = client.options("/v1/jobs", headers={"Origin": "https://example.org", **PREFLIGHT})
        assert (other.status_code, allowed(other)) == (400, None)
        assert allowed(client.get("/v1/jobs", headers={"Origin": "https://example.org"})) is None


def test_any_origin_is_let_in_only_where_keys_are_asked_for(settings: Settings) -> None:
    keyed = settings.model_copy(update={"cors_origins": "*", "authentication": "on"})
    with TestClient(create_app(keyed)) as client:
        assert allowed(client.get("/v1/jobs", headers={"Origin": VIEWER})) == "*"
    with pytest.raises(ValidationError, match="CORS_ORIGINS"):
        Settings(cors_origins="*", host="127.0.0.1", authentication="off")


@pytest.mark.parametrize(
    "wrong", ["viewer.example.org", f"{VIEWER}/", f"{VIEWER}/app", "ftp://a", "null", f"{VIEWER} *"]
)
def test_what_is_no_origin_is_refused_when_the_service_starts(wrong: str) -> None:
    with pytest.raises(ValidationError, match="https://viewer"):
        Settings(cors_origins=wrong)

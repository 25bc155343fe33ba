"""Examples of keys and tenants for the documentation."""

from typing import Any

from udig_recon.api.openapi.examples import CREATED

TENANT = {
    "tenant": "radiology",
    "limits": {
        "max_open_jobs": None,
        "max_open_slices": 50000,
        "max_jobs_per_day": 20000,
        "max_compute_seconds_per_day": 432000,
        "max_job_seconds": 259200,
        "max_job_memory_bytes": 17179869184,
        "max_stored_bytes": 107374182400,
        "max_keys": 100,
        "max_uploads": None,
        "max_waits": None,
        "max_requests_per_minute": 12000,
        "retention_days": 30,
    },
    "usage": {
        "open_jobs": 2,
        "open_slices": 40,
        "jobs_today": 12,
        "compute_seconds_today": 3651.2,
        "compute_seconds_to_come": 560.0,
        "stored_bytes": 1288490188,
        "keys": 4,
        "uploads": 0,
        "waits": 1,
    },
}
KEY_REQUEST = {"name": "scanner 3", "scopes": ["read", "write"], "max_open_jobs": 20, "retention_days": 30}
KEY: dict[str, Any] = {
    "id": "0198c2f0-11aa-7b3c-8f00-5d1c2b3a4e5f",
    **KEY_REQUEST,
    **dict.fromkeys(("max_jobs_per_day", "max_stored_bytes", "max_requests_per_minute")),
    "max_priority": "routine",
    "created_at": CREATED,
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
}
KEY_MADE = {**KEY, "key": "udig_3q2-7wAbCdEfGhIjKlMnOpQrStUvWxYz0123456789A"}

"""The documents tell the limits of tenants as the code has them."""

import re
from pathlib import Path

from udig_recon.worker.access.tenants import TenantLimits, defaults
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[1]
SETTINGS = {name: name for name in ("max_job_seconds", "max_job_memory_bytes", "retention_days")}
SETTINGS |= {name: f"tenant_{name}" for name in TenantLimits.model_fields if f"tenant_{name}" in Settings.model_fields}
SHARED = {
    "max_open_jobs": "half of `MAX_OPEN_JOBS`, less when others want some",
    "max_uploads": "half of `MAX_UPLOADS`, likewise",
    "max_waits": "half of `MAX_EVENT_STREAMS` and of `MAX_LONG_POLLS`, likewise",
}


def table() -> str:
    """Every limit of a tenant with its default, the setting of that, and its meaning, in Markdown."""
    plain = defaults(Settings.model_construct(**{n: f.default for n, f in Settings.model_fields.items()}))
    rows = []
    for name, field in TenantLimits.model_fields.items():
        default = getattr(plain, name)
        shown = SHARED[name] if default is None else f"`{default}`"
        setting = f"`{SETTINGS[name].upper()}`" if name in SETTINGS else ""
        rows.append(f"| `{name}` | {shown} | {setting} | {field.description} |")
    return "\n".join(["| limit of a tenant | default | setting | what it is |", "|---|---|---|---|", *rows])


def test_access_lists_the_limits_of_tenants_with_their_defaults() -> None:
    text = (ROOT / "docs" / "access.md").read_text()
    found = re.search(r"<!-- limits -->\n(.*?)<!-- /limits -->", text, re.DOTALL)
    assert found
    assert found[1].strip() == table()

"""Validation of the destinations that a job names."""

from collections.abc import Sequence

from udig_recon.api.dependencies import Context
from udig_recon.api.http.problems import Invalid, truncate

FORMAT = "dicom"
"""Output format of what is sent: a job with destinations writes it."""


def check_destinations(context: Context, tenant: str, names: Sequence[str]) -> None:
    """Raise Invalid where the tenant may not name one of these; another tenant's is as unknown as any."""
    offered = [name for name, each in context.destinations.items() if each.allows(tenant)]
    if unknown := [name for name in names if name not in offered]:
        detail = "there is no such destination; GET /v1/destinations lists those there are"
        expected = truncate(" | ".join(offered)) or "none: the operator has named none for this tenant"
        raise Invalid.at("destinations", detail, found=", ".join(unknown), expected=expected)

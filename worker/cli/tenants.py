"""`udig tenants` and `udig webhook-secret`: limits of tenants, and the secrets that sign their webhooks."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from udig_recon.worker.access import audit, quotas
from udig_recon.worker.access import tenants as stored_tenants
from udig_recon.worker.access.keys import is_tenant
from udig_recon.worker.access.limits import TENANT, TenantLimits
from udig_recon.worker.access.tenants import limits_of
from udig_recon.worker.cli.session import (
    Refused,
    operator,
    option_name,
    refused_option,
)
from udig_recon.worker.settings import Settings

DEFAULT = "default"


def show_tenant(session: Session, settings: Settings, tenant: str) -> dict[str, Any]:
    """Limits of a tenant and what it has used of them."""
    limits = limits_of(session, tenant, settings)
    return {"tenant": tenant, "limits": limits.model_dump(), "usage": quotas.usage(session, tenant)}


def list_tenants(session: Session) -> list[dict[str, Any]]:
    """The tenants that have limits of their own, with these."""
    known = stored_tenants.stored_limits(session).items()
    return [{"tenant": name, "limits": limits.model_dump(exclude_none=True)} for name, limits in known]


def set_limits(session: Session, tenant: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Set limits of a tenant, committed: numbers, or `default`; gives all that are set now. Raises Refused."""
    if not is_tenant(tenant):
        raise Refused(f"{tenant!r} does not match {TENANT}")
    changes = {name: None if text == DEFAULT else _number(name, text) for name, text in given.items()}
    try:
        TenantLimits.model_validate(changes)
    except ValidationError as error:
        raise refused_option(error) from None
    own = stored_tenants.set_limits(session, tenant, changes)
    audit.append(session, operator(tenant), "tenant.limited")
    session.commit()
    return {"tenant": tenant, "limits": own.model_dump(exclude_none=True)}


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise Refused(f"{option_name(name)}: {text!r} is neither a number nor {DEFAULT}")
    return int(text)

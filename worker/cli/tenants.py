"""`udig tenants` and `udig webhook-secret`: limits of tenants, and the secrets that sign their webhooks."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import click
from pydantic import ValidationError
from sqlalchemy.orm import Session

from udig_recon.worker.access import audit, quotas
from udig_recon.worker.access import tenants as stored_tenants
from udig_recon.worker.access.keys import TENANT, is_tenant
from udig_recon.worker.access.tenants import TenantLimits, limits_of
from udig_recon.worker.cli.session import (
    Refused,
    database_session,
    operator,
    option_name,
    print_line,
    refused_option,
)
from udig_recon.worker.database.tables import DEFAULT_TENANT
from udig_recon.worker.jobs.webhook_outbox import signing_secrets
from udig_recon.worker.settings import Settings, get_settings

DEFAULT = "default"


def show_tenant(session: Session, settings: Settings, tenant: str) -> dict[str, Any]:
    """Limits of a tenant and what it has used of them."""
    limits = limits_of(session, tenant, settings)
    return {"tenant": tenant, "limits": limits.model_dump(), "usage": quotas.usage(session, tenant)}


def list_tenants(session: Session) -> list[dict[str, Any]]:
    """The tenants that have limits of their own, with these."""
    known = stored_tenants.known(session).items()
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


@click.group("tenants")
def tenants() -> None:
    """Show and set what tenants may do."""


@tenants.command("show")
@click.argument("tenant")
def _show(tenant: str) -> None:
    """Print the limits of a tenant and what it has used, as JSON."""
    with database_session() as session:
        print_line(json.dumps(show_tenant(session, get_settings(), tenant)))


@tenants.command("list")
def _list() -> None:
    """List the tenants for which limits were set, one JSON object a line."""
    with database_session() as session:
        for tenant in list_tenants(session):
            print_line(json.dumps(tenant))


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each limit of a tenant."""
    for name, field in reversed(TenantLimits.model_fields.items()):
        command = click.option(option_name(name), metavar="N|default", help=field.description)(command)
    return command


@tenants.command("set")
@click.argument("tenant")
@_limit_options
def _set(tenant: str, **limits: str | None) -> None:
    """Set limits of a tenant; no key of it has more."""
    given = {name: text for name, text in limits.items() if text is not None}
    with database_session() as session:
        print_line(json.dumps(set_limits(session, tenant, given)))


@click.command("webhook-secret")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True)
def webhook_secret(tenant: str) -> None:
    """Print the secrets that a tenant's receivers verify webhooks with, one a line."""
    secrets = signing_secrets(get_settings(), tenant)
    if not secrets:
        raise click.ClickException("WEBHOOK_SECRET is not set: there are no webhooks")
    for secret in secrets:
        print_line(secret)

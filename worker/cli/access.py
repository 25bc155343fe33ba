"""The commands of whoever runs the service: API keys, and the audit log."""

import argparse
import json
import os
import sys
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from pydantic_core import to_jsonable_python
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from udig_recon.worker.access import audit, audit_heads, keys, quotas, tenants
from udig_recon.worker.access.audit import BrokenChain, Entry, Who
from udig_recon.worker.access.keys import TENANT, Limits, PriorityName, Scope, Wanted
from udig_recon.worker.access.tenants import TenantLimits, limits_of
from udig_recon.worker.database.engine import in_one_line, make_engine, make_sessions
from udig_recon.worker.database.tables import DEFAULT_TENANT, Key
from udig_recon.worker.jobs import lifecycle
from udig_recon.worker.jobs.webhook_outbox import signing_secrets
from udig_recon.worker.settings import Settings, get_settings
from udig_recon.worker.standalone import servers as embedded
from udig_recon.worker.storage import data_folder
from udig_recon.worker.storage.backends import open_storage


class Refused(Exception):
    """The command cannot be done; the message says why."""


def run(arguments: Sequence[str]) -> int:
    """Do a command; 1 and one line on standard error when that is impossible."""
    os.umask(0o077)
    options = _parser().parse_args(arguments)
    engine = _engine(get_settings())
    try:
        with make_sessions(engine)() as session:
            options.do(session, options)
    except (Refused, BrokenChain, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except DBAPIError as error:
        sys.stderr.write(f"error: DATABASE_URL: {in_one_line(error)}\n")
        return 1
    finally:
        engine.dispose()
    return 0


def _engine(settings: Settings) -> Engine:
    """The database of the settings, or the embedded one of a service that runs on DATA."""
    return make_engine(settings.database_url or embedded.database_url(settings.data.absolute()), 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="udig", description=__doc__)
    groups = parser.add_subparsers(required=True)
    of_keys = groups.add_parser("keys", help="make, list, rotate and revoke API keys").add_subparsers(required=True)
    create = of_keys.add_parser("create", help="make a key; it is shown once, on standard output")
    create.add_argument("name", help="what people call it")
    create.add_argument("--tenant", default=DEFAULT_TENANT, help="whose scans and jobs it sees (%(default)s)")
    scopes = [scope.value for scope in Scope]
    create.add_argument("--scopes", nargs="+", choices=scopes, default=scopes[:2], help="(read write)")
    for name, field in Limits.model_fields.items():
        create.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=field.description)
    names = get_args(PriorityName)
    create.add_argument("--max-priority", choices=names, default=names[0], help="the highest of its jobs (%(default)s)")
    create.set_defaults(do=_create)
    shown = of_keys.add_parser("list", help="all keys, one JSON object a line")
    shown.add_argument("--tenant", help="of this tenant only")
    shown.set_defaults(do=_list)
    rotate = of_keys.add_parser("rotate", help="a new secret for a key; it is shown once, on standard output")
    rotate.add_argument("id", type=uuid.UUID)
    rotate.add_argument("--overlap-minutes", type=int, default=0, metavar="N", help="how long the old one is taken too")
    rotate.set_defaults(do=_rotate)
    revoke = of_keys.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("id", type=uuid.UUID)
    revoke.add_argument("--cancel-jobs", action="store_true", help="cancel its jobs that are queued or running")
    revoke.set_defaults(do=_revoke)
    _add_tenants(groups.add_parser("tenants", help="show and set what tenants may do"))
    webhooks = groups.add_parser("webhook-secret", help="what a tenant's receivers verify webhooks with, one a line")
    webhooks.add_argument("--tenant", default=DEFAULT_TENANT, help="(%(default)s)")
    webhooks.set_defaults(do=_webhook_secret)
    folder = groups.add_parser("data-folder", help="which data folder is the database's").add_subparsers(required=True)
    folder.add_parser("show", help="the ids of both, one a line").set_defaults(do=_show_folder)
    folder.add_parser("adopt", help="make DATA the database's folder, whatever it is").set_defaults(do=_adopt_folder)
    of_audit = groups.add_parser("audit", help="export and verify the audit log").add_subparsers(required=True)
    export = of_audit.add_parser("export", help="verify the log and print it, one JSON object a line")
    export.set_defaults(do=_export)
    verify = of_audit.add_parser("verify", help="verify the log, and that it still holds what was exported")
    verify.add_argument("exported", type=Path, nargs="?", help="a file that `audit export` wrote")
    verify.add_argument("--heads", type=Path, metavar="FILE", help="heads that another machine has kept (AUDIT_HEADS)")
    verify.set_defaults(do=_verify)
    return parser


def _add_tenants(parser: argparse.ArgumentParser) -> None:
    of_tenants = parser.add_subparsers(required=True)
    shown = of_tenants.add_parser("show", help="limits of a tenant and what it has used, as JSON")
    shown.add_argument("tenant")
    shown.set_defaults(do=_show_tenant)
    listed = of_tenants.add_parser("list", help="tenants for which limits were set, one JSON object a line")
    listed.set_defaults(do=_list_tenants)
    change = of_tenants.add_parser("set", help="set limits of a tenant; its keys have at most these")
    change.add_argument("tenant")
    for name, field in TenantLimits.model_fields.items():
        change.add_argument(f"--{name.replace('_', '-')}", metavar="N|default", help=field.description)
    change.set_defaults(do=_set_tenant)


def _show_tenant(session: Session, options: argparse.Namespace) -> None:
    limits = limits_of(session, options.tenant, get_settings())
    used = quotas.usage(session, options.tenant)
    _say(json.dumps({"tenant": options.tenant, "limits": limits.model_dump(), "usage": used}))


def _list_tenants(session: Session, _: argparse.Namespace) -> None:
    for name, limits in tenants.known(session).items():
        _say(json.dumps({"tenant": name, "limits": limits.model_dump(exclude_none=True)}))


def _set_tenant(session: Session, options: argparse.Namespace) -> None:
    if not keys.is_tenant(options.tenant):
        raise Refused(f"{options.tenant!r} does not match {TENANT}")
    given = {name: getattr(options, name) for name in TenantLimits.model_fields if getattr(options, name) is not None}
    changes = {name: None if text == "default" else _number(name, text) for name, text in given.items()}
    try:
        TenantLimits.model_validate(changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    own = tenants.set_limits(session, options.tenant, changes)
    audit.append(session, Who(options.tenant, f"command:{os.getuid()}"), "tenant.limited")
    session.commit()
    _say(json.dumps({"tenant": options.tenant, "limits": own.model_dump(exclude_none=True)}))


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise Refused(f"--{name.replace('_', '-')}: {text!r} is neither a number nor default")
    return int(text)


def _create(session: Session, options: argparse.Namespace) -> None:
    if not keys.is_tenant(options.tenant):
        raise Refused(f"--tenant: {options.tenant!r} does not match {TENANT}")
    given = {name: getattr(options, name) for name in (*Limits.model_fields, "max_priority")}
    try:
        wanted = Wanted.model_validate({"name": options.name, "scopes": options.scopes, **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise Refused(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}") from None
    limits = limits_of(session, options.tenant, get_settings())
    if (beyond := keys.beyond(wanted, limits)) is not None:
        name, _, most = beyond
        raise Refused(f"--{name.replace('_', '-')}: tenant {options.tenant} has {most}, and a key of it no more")
    try:
        quotas.check_keys(session, options.tenant, limits)
    except quotas.QuotaReached as error:
        raise Refused(str(error)) from None
    key, secret = keys.make(session, options.tenant, wanted)
    _tell(session, key, "key.created", secret)


def _list(session: Session, options: argparse.Namespace) -> None:
    hidden = ("sha256", "previous_sha256")
    for key in keys.of_tenant(session, options.tenant):
        shown = {column.key: getattr(key, column.key) for column in Key.__table__.columns if column.key not in hidden}
        _say(json.dumps(to_jsonable_python(shown)))


def _rotate(session: Session, options: argparse.Namespace) -> None:
    key = _one(session, options.id)
    try:
        secret = keys.rotate(session, key, timedelta(minutes=max(0, options.overlap_minutes)))
    except keys.KeyNotUsable as error:
        raise Refused(str(error)) from None
    _tell(session, key, "key.rotated", secret)


def _revoke(session: Session, options: argparse.Namespace) -> None:
    key = _one(session, options.id)
    keys.revoke(session, key)
    cancelled = lifecycle.cancel_of_key(session, key.id) if options.cancel_jobs else []
    audit.extend(session, _command(key), "job.cancelled", [{"job": job_id} for job_id in cancelled])
    _tell(session, key, "key.revoked")


def _one(session: Session, key_id: uuid.UUID) -> Key:
    key = keys.one(session, key_id)
    if key is None:
        raise Refused(f"there is no key {key_id}")
    return key


def _command(key: Key) -> Who:
    return Who(key.tenant, f"command:{os.getuid()}")


def _tell(session: Session, key: Key, action: str, secret: str | None = None) -> None:
    """Write down what was done, and show the secret only once it counts."""
    audit.append(session, _command(key), action, key=key.id)
    session.commit()
    sys.stderr.write(f"{action}: {key.id} of tenant {key.tenant}\n")
    if secret is not None:
        _say(secret)


def _webhook_secret(_: Session, options: argparse.Namespace) -> None:
    secrets = signing_secrets(get_settings(), options.tenant)
    if not secrets:
        raise Refused("WEBHOOK_SECRET is not set: there are no webhooks")
    for secret in secrets:
        _say(secret)


def _show_folder(session: Session, _: argparse.Namespace) -> None:
    storage = open_storage(get_settings())
    _say(f"database: {data_folder.known_id(session)}\n{storage.location}: {data_folder.folder_id(storage)}")


def _adopt_folder(session: Session, _: argparse.Namespace) -> None:
    made = data_folder.adopt(session, open_storage(get_settings()))
    audit.append(session, Who(DEFAULT_TENANT, f"command:{os.getuid()}"), "data_folder.adopted", folder=made)
    session.commit()
    _say(made)


def _export(session: Session, _: argparse.Namespace) -> None:
    for entry in audit.verified(audit.entries(session)):
        _say(entry.model_dump_json())


def _verify(session: Session, options: argparse.Namespace) -> None:
    exported = _last(_read(options.exported)) if options.exported is not None else None
    last = _last(audit.entries(session))
    if exported is not None and not audit.holds(session, exported):
        raise BrokenChain(f"entry {exported.seq} was exported as {exported.hash}, and is another or gone by now")
    _say(f"{last.seq} entries, the last one {last.hash}" if last else "no entries")
    if options.heads is not None:
        count = audit_heads.verify(session, audit_heads.read(options.heads.read_text().splitlines()), _audit_key())
        _say(f"{count} heads, all of them borne out")


def _audit_key() -> bytes:
    """The key of AUDIT_KEY, or of the service that `make serve` starts on DATA. Raises Refused."""
    settings = get_settings()
    if settings.audit_key is not None:
        return settings.audit_key.get_secret_value().encode()
    path = settings.data / "audit.key"
    if not path.exists():
        raise Refused("AUDIT_KEY is not set, and heads cannot be told from forged ones without it")
    return path.read_text().strip().encode()


def _last(log: Iterator[Entry]) -> Entry | None:
    tail = deque(audit.verified(log), maxlen=1)
    return tail[0] if tail else None


def _read(path: Path) -> Iterator[Entry]:
    with path.open() as file:
        for number, line in enumerate(file, 1):
            try:
                yield Entry.model_validate_json(line)
            except ValidationError:
                raise BrokenChain(f"{path}: line {number} is no entry") from None


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")

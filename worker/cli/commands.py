"""The commands of the service: their arguments and options. What they do is imported when they run."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from udig_recon.core.cli.options import PATH, FieldOptions, LazyChoice, SeveralValues
from udig_recon.worker.cli.usage import SettingsCommand

PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command("serve", cls=SettingsCommand)
def serve() -> int:
    """Run the whole service on one machine, until Ctrl-C or SIGTERM: servers, API and workers."""
    from udig_recon.worker.standalone.serve import main

    return main()


@click.command("worker", cls=SettingsCommand)
@click.option(
    "--processes",
    default="1",
    show_default=True,
    metavar="N|auto",
    help="worker processes on this machine; auto: SLICES_PER_GPU for each GPU, or one where there is none",
)
@click.option("--slurm", is_flag=True, help="keep batch jobs with workers submitted, as many as there is work for")
@click.option(
    "--slices-per-job", type=click.IntRange(min=1), default=8, show_default=True, metavar="N", help="of each batch job"
)
@click.option(
    "--max-jobs", type=click.IntRange(min=1), default=8, show_default=True, metavar="N", help="most batch jobs at once"
)
@click.option("--time-limit", default="4:00:00", show_default=True, metavar="TIME", help="of each batch job")
@click.option("--job-name", default="udig-worker", show_default=True, help="of the batch jobs, which are counted by it")
@click.option(
    "--check-seconds",
    type=click.FloatRange(min=1),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="between two looks at the work and at the batch jobs",
)
@click.option("--sbatch", multiple=True, metavar="OPTION", help="further option of sbatch, as --sbatch=--gres=gpu:1")
@click.pass_context
def worker(ctx: click.Context, /, processes: str, **options: Any) -> int:
    """Run one worker, until SIGTERM: it reconstructs slices one after the other.

    With --processes several, each bound to a GPU where there are some. With --slurm none here: batch jobs of SLURM run
    them, and end when they have had no work for IDLE_SECONDS (300 where that is 0).
    """
    if processes != "auto" and not (processes.isdecimal() and 1 <= int(processes) <= 64):
        raise click.BadParameter(f"{processes!r} is neither a number from 1 to 64 nor auto", param_hint="--processes")
    slurm = options.pop("slurm")
    if not slurm and (given := [name for name in options if _is_given(ctx, name)]):
        raise click.UsageError(f"--{given[0].replace('_', '-')} is of the batch jobs that --slurm submits")
    from udig_recon.worker.settings import get_settings

    get_settings()  # a wrong setting is refused before PyTorch is loaded, which takes a while
    if slurm:
        from udig_recon.worker.slurm.submitter import Options, main

        return main(Options(processes=processes, **options))
    if processes != "1":
        from udig_recon.worker.standalone.worker_group import main as keep_up

        return keep_up(None if processes == "auto" else int(processes))
    from udig_recon.worker.runtime.main import work

    return work()


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


@click.command("health", cls=SettingsCommand)
@click.option(
    "--unless-database-is-away",
    is_flag=True,
    help="exit with 0 also while the database does not answer: for checks whose failure restarts the worker",
)
def health(unless_database_is_away: bool) -> int:
    """Exit with 0 when a worker of this machine was seen lately, else with 1."""
    from udig_recon.worker.runtime.health import main

    return main(unless_database_is_away=unless_database_is_away)


@click.command("migrate")
@click.option("--down", metavar="REVISION", help="take the tables back to this revision, for an older version")
def migrate(down: str | None) -> int:
    """Bring the database's tables to the newest revision."""
    from udig_recon.worker.database.migrate import main

    return main(down)


@click.command("postgres", context_settings=PASSED_ON)
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def postgres(program: str, arguments: tuple[str, ...]) -> int:
    """Run PROGRAM of PostgreSQL on the service's database, wherever that is, for example pg_dump or psql.

    The embedded server is used as it runs; where the service is down it is started until the program ends.
    """
    from udig_recon.worker.cli.postgres import main

    return main([program, *arguments])


@click.group("keys")
def keys() -> None:
    """Create, list, rotate and revoke API keys."""


@keys.command("create", cls=FieldOptions, model="udig_recon.worker.access.limits:KeyLimits", type=int, metavar="N")
@click.argument("name")
@click.option("--tenant", metavar="TENANT", help="whose scans and jobs it sees; the tenant `default` by default")
@click.option(
    "--scopes",
    cls=SeveralValues,
    type=LazyChoice("udig_recon.worker.access.limits:Scope"),
    default=("read", "write"),
    metavar="SCOPE",
    help="of read, write, admin; read and write by default",
)
@click.option(
    "--max-priority",
    type=click.Choice(["routine", "urgent"]),
    default="routine",
    show_default=True,
    help="the highest of its jobs",
)
def _create_key(name: str, tenant: str | None, scopes: Sequence[str], **limits: Any) -> None:
    """Create a key, called NAME by people; its secret is shown once, on standard output."""
    from udig_recon.worker.cli.keys import create_key
    from udig_recon.worker.cli.session import database_session, print_line
    from udig_recon.worker.database.tables import DEFAULT_TENANT
    from udig_recon.worker.settings import get_settings

    with database_session() as session:
        key, secret = create_key(session, get_settings(), tenant or DEFAULT_TENANT, name, scopes, **limits)
        sys.stderr.write(f"key.created: {key.id} of tenant {key.tenant}\n")
        print_line(secret)


@keys.command("list")
@click.option("--tenant", help="of this tenant only")
def _list_keys(tenant: str | None) -> None:
    """List all keys, one JSON object a line."""
    from udig_recon.worker.cli.keys import list_keys
    from udig_recon.worker.cli.session import database_session, print_line

    with database_session() as session:
        for key in list_keys(session, tenant):
            print_line(json.dumps(key))


@keys.command("rotate")
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.option(
    "--overlap-minutes",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="how long the old secret is accepted too",
)
def _rotate_key(key_id: UUID, overlap_minutes: int) -> None:
    """Give a key a new secret; it is shown once, on standard output."""
    from datetime import timedelta

    from udig_recon.worker.cli.keys import rotate_key
    from udig_recon.worker.cli.session import database_session, print_line

    with database_session() as session:
        key, secret = rotate_key(session, key_id, timedelta(minutes=overlap_minutes))
        sys.stderr.write(f"key.rotated: {key.id} of tenant {key.tenant}\n")
        print_line(secret)


@keys.command("revoke")
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.option("--cancel-jobs", is_flag=True, help="cancel its jobs that are queued or running")
def _revoke_key(key_id: UUID, cancel_jobs: bool) -> None:
    """Refuse a key from now on."""
    from udig_recon.worker.cli.keys import revoke_key
    from udig_recon.worker.cli.session import database_session

    with database_session() as session:
        key = revoke_key(session, key_id, cancel_jobs=cancel_jobs)
        sys.stderr.write(f"key.revoked: {key.id} of tenant {key.tenant}\n")


@click.group("tenants")
def tenants() -> None:
    """Show and set what tenants may do."""


@tenants.command("show")
@click.argument("tenant")
def _show_tenant(tenant: str) -> None:
    """Print the limits of a tenant and what it has used, as JSON."""
    from udig_recon.worker.cli.session import database_session, print_line
    from udig_recon.worker.cli.tenants import show_tenant
    from udig_recon.worker.settings import get_settings

    with database_session() as session:
        print_line(json.dumps(show_tenant(session, get_settings(), tenant)))


@tenants.command("list")
def _list_tenants() -> None:
    """List the tenants for which limits were set, one JSON object a line."""
    from udig_recon.worker.cli.session import database_session, print_line
    from udig_recon.worker.cli.tenants import list_tenants

    with database_session() as session:
        for tenant in list_tenants(session):
            print_line(json.dumps(tenant))


@tenants.command("set", cls=FieldOptions, model="udig_recon.worker.access.limits:TenantLimits", metavar="N|default")
@click.argument("tenant")
def _set_limits(tenant: str, **limits: str | None) -> None:
    """Set limits of a tenant; no key of it has more."""
    from udig_recon.worker.cli.session import database_session, print_line
    from udig_recon.worker.cli.tenants import set_limits

    given = {name: text for name, text in limits.items() if text is not None}
    with database_session() as session:
        print_line(json.dumps(set_limits(session, tenant, given)))


@click.command("webhook-secret")
@click.option("--tenant", metavar="TENANT", help="the tenant `default` by default")
def webhook_secret(tenant: str | None) -> None:
    """Print the secrets that a tenant's receivers verify webhooks with, one a line."""
    from udig_recon.worker.cli.session import print_line
    from udig_recon.worker.database.tables import DEFAULT_TENANT
    from udig_recon.worker.jobs.webhook_outbox import signing_secrets
    from udig_recon.worker.settings import get_settings

    secrets = signing_secrets(get_settings(), tenant or DEFAULT_TENANT)
    if not secrets:
        raise click.ClickException("WEBHOOK_SECRET is not set: there are no webhooks")
    for secret in secrets:
        print_line(secret)


@click.group("data-folder")
def data_folder() -> None:
    """Show or adopt the data folder of the database."""


@data_folder.command("show")
def _show_folder() -> None:
    """Print the ids of the database and of the data folder, one a line."""
    from udig_recon.worker.cli.session import database_session, print_line
    from udig_recon.worker.settings import get_settings
    from udig_recon.worker.storage.backends import open_storage
    from udig_recon.worker.storage.data_folder import database_id, folder_id

    with database_session() as session:
        storage = open_storage(get_settings())
        print_line(f"database: {database_id(session)}\n{storage.location}: {folder_id(storage)}")


@data_folder.command("adopt")
def _adopt_folder() -> None:
    """Make DATA the database's folder, whatever it holds."""
    from udig_recon.worker.cli.data_folder import adopt
    from udig_recon.worker.cli.session import database_session, print_line
    from udig_recon.worker.settings import get_settings
    from udig_recon.worker.storage.backends import open_storage

    with database_session() as session:
        print_line(adopt(session, open_storage(get_settings())))


@click.group("storage")
def storage() -> None:
    """Copy all stored files to another storage, such as a bucket."""


@storage.command("copy")
@click.argument("target")
@click.option("--trust-sizes", is_flag=True, help="read nothing again of which TARGET has as many bytes")
def _copy_storage(target: str, trust_sizes: bool) -> None:
    """Copy what DATA_STORE (or else DATA) holds to TARGET, a value of DATA_STORE, and compare every object.

    What TARGET has already stays: a copy that was cut off goes on. Prints the name of each object that is there then.
    """
    from udig_recon.worker.cli.session import print_line
    from udig_recon.worker.settings import get_settings
    from udig_recon.worker.storage.backends import open_storage
    from udig_recon.worker.storage.copying import CopyDiffers, copy_objects

    settings = get_settings()
    source, into = open_storage(settings), open_storage(settings.model_copy(update={"data_store": target}))
    try:
        copied = copy_objects(source, into, print_line, trust_sizes=trust_sizes)
    except (CopyDiffers, OSError) as error:
        raise click.ClickException(str(error)) from error
    print_line(
        f"{copied.objects} objects copied and compared, {copied.bytes} bytes; {copied.kept} were there; "
        f"{copied.gone} were deleted meanwhile"
    )


@click.group("audit")
def audit() -> None:
    """Export and verify the audit log."""


@audit.command("export")
def _export_log() -> None:
    """Verify the log and print it, one JSON object a line."""
    from udig_recon.worker.access.audit import entries, verify_entries
    from udig_recon.worker.cli.session import database_session, print_line

    with database_session() as session:
        for entry in verify_entries(entries(session)):
            print_line(entry.model_dump_json())


@audit.command("verify")
@click.argument("exported", type=PATH, required=False)
@click.option("--heads", type=PATH, metavar="FILE", help="heads that another machine has kept (AUDIT_HEADS)")
def _verify_log(exported: Path | None, heads: Path | None) -> None:
    """Verify the log, and that it still holds what EXPORTED, a file of `udig audit export`, holds."""
    from udig_recon.worker.access import audit_heads
    from udig_recon.worker.cli.audit import audit_key, verify_log
    from udig_recon.worker.cli.session import database_session, print_line
    from udig_recon.worker.settings import get_settings

    with database_session() as session:
        last = verify_log(session, exported)
        print_line("no entries" if last is None else f"{last.seq} entries, the last one {last.hash}")
        if heads is not None:
            kept = audit_heads.read(heads.read_text().splitlines())
            count = audit_heads.verify(session, kept, audit_key(get_settings()))
            print_line(f"{count} heads, and the log confirms all of them")

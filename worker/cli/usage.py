"""Help of commands that take their settings from the environment."""

import textwrap

import click


class SettingsCommand(click.Command):
    """A command without arguments whose help lists every setting: its environment variable, default and meaning."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the settings, which are imported for it."""
        from udig_recon.worker.settings import Settings

        formatter.write("\nSettings, from the environment (or NAME_FILE, a file that holds the value):\n")
        for name, field in Settings.model_fields.items():
            default = "unset" if field.default is None else str(field.default)
            meaning = textwrap.indent(textwrap.fill(field.description or "", 100), " " * 8)
            formatter.write(f"  {name.upper()} ({default})\n{meaning}\n")

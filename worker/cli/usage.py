"""Command lines of programs that take their settings from the environment: `--help` lists them, all else is refused."""

import argparse
import textwrap

from udig_recon.worker.settings import Settings


def parse_no_arguments(program: str, description: str) -> None:
    """Exit with 0 after `--help`, with 2 and the usage after any other argument."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.parse_args()


def _settings() -> str:
    """Every setting: its environment variable, its default and what it is."""
    lines = ["settings, from the environment (or NAME_FILE, a file that holds the value):"]
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else str(field.default)
        lines.append(f"  {name.upper()} ({default})")
        lines.append(textwrap.indent(textwrap.fill(field.description or "", 100), " " * 8))
    return "\n".join(lines)

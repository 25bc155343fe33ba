"""The command `udig api`. What it does is imported when it runs."""

import click

from udig_recon.worker.cli.usage import SettingsCommand


@click.command("api", cls=SettingsCommand)
def api() -> None:
    """Run the HTTP API, until Ctrl-C or SIGTERM; workers are `udig worker`."""
    from udig_recon.api.main import main

    main()

"""The commands `udig api` and `udig mrd-stream`. What they do is imported when they run."""

import click

from udig_recon.worker.cli.usage import SettingsCommand


@click.command("api", cls=SettingsCommand)
def api() -> None:
    """Run the HTTP API, until Ctrl-C or SIGTERM; workers are `udig worker`."""
    from udig_recon.api.main import main

    main()


@click.command("mrd-stream", cls=SettingsCommand)
def mrd_stream() -> None:
    """Run the MRD stream, a TCP door for scanners, until Ctrl-C or SIGTERM; off unless this command runs."""
    from udig_recon.api.mrd_stream.main import main

    main()

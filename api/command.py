"""The commands `udig api`, `udig mrd-stream` and `udig view`. What they do is imported when they run."""

from pathlib import Path

import click

from udig_recon.core.cli.options import PATH
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


@click.command("view")
@click.argument("file", type=PATH)
@click.option("--no-browser", is_flag=True, help="print the address, and open no browser")
def view(file: Path, no_browser: bool) -> int:
    """Show a volume of this machine in the browser, until Ctrl-C: slices, windowing, three planes.

    FILE is a result or a volume of others: .h5, .npy, .nii.gz, .nii or .dicom.zip. Nothing leaves this machine, and no
    other user of it sees the page.
    """
    from udig_recon.api.pages.local_viewer import view as view_file

    return view_file(file, open_browser=not no_browser)

"""The commands of the service: their arguments and options. What they do is imported when they run."""

import click

from udig_recon.worker.cli.usage import SettingsCommand

PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command("serve", cls=SettingsCommand)
def serve() -> int:
    """Run the whole service on one machine, until Ctrl-C or SIGTERM: servers, API and workers."""
    from udig_recon.worker.standalone.serve import main

    return main()


@click.command("worker", cls=SettingsCommand)
def worker() -> int:
    """Run one worker, until SIGTERM: it reconstructs slices one after the other."""
    from udig_recon.worker.settings import get_settings

    get_settings()  # a wrong setting is refused before PyTorch is loaded, which takes a while
    from udig_recon.worker.runtime.main import work

    return work()


@click.command("health", cls=SettingsCommand)
def health() -> int:
    """Exit with 0 when a worker of this machine was seen lately, else with 1."""
    from udig_recon.worker.runtime.health import main

    return main()


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

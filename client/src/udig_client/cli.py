"""Commands for a service: `udig submit`, `follow`, `result`, `jobs`, `cancel`, `destinations`; alone `udig-client`.

Exit status: 0; 1 when a job failed or was cancelled; 2 when a command is not understood or a file cannot be used;
3 when the service refuses or does not answer; 130 when interrupted.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from udig_client import Client, Job

USAGE_ERROR, REFUSED, INTERRUPTED = 2, 3, 130
Command = TypeVar("Command", bound=Callable[..., Any])


class ServiceRefused(click.ClickException):
    """The service refused or did not answer."""

    exit_code = REFUSED


class SeveralValues(click.Command):
    """A command whose options `--set` and `--slices` take all values that follow, as in `--set a=1 b=2`."""

    VALUES: dict[str, re.Pattern[str]] = {"--set": re.compile(r"[a-z_]\w*=.*"), "--slices": re.compile(r"\d+")}  # noqa: RUF012

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the name of the option before each of its values, as click reads it."""
        repeated: list[str] = []
        for argument in args:
            before = next((each for each in reversed(repeated) if each.startswith("-")), "")
            follows = len(repeated) > 1 and repeated[-2] == before
            if follows and before in self.VALUES and self.VALUES[before].fullmatch(argument):
                repeated.append(before)
            repeated.append(argument)
        return super().parse_args(ctx, repeated)


def service_options(command: Command) -> Command:
    """The options of every command: which service, and how to answer."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="print JSON"),
        click.option("--key", envvar="UDIG_KEY", metavar="KEY", help="API key; better in the environment: UDIG_KEY"),
        click.option("--url", envvar="UDIG_URL", metavar="URL", help="of the service; UDIG_URL, or this machine"),
    ):
        command = option(command)
    return command


@contextmanager
def connection(url: str | None, key: str | None) -> Iterator[Client]:
    """A client whose errors are those of a command, in one line."""
    try:
        from udig_client import Client, JobFailed, UdigError
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed: pip install 'udig-recon-client[cli]'") from error
    try:
        with Client(url, key) as client:
            yield client
    except JobFailed as error:
        raise click.ClickException(str(error)) from error
    except UdigError as error:
        raise ServiceRefused(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@click.command("submit", cls=SeveralValues)
@click.argument("scans", nargs=-1, required=True, metavar="SCAN...")
@click.option("--method", default="udig_dip", show_default=True, metavar="METHOD", help="see GET /v1/methods")
@click.option("--set", "parameters", multiple=True, metavar="NAME=VALUE ...", help="its parameters, as preset=preview")
@click.option("--slices", multiple=True, type=int, metavar="NUMBER ...", help="all by default")
@click.option("--seed", type=int, help="0 by default")
@click.option("--seeds", type=int, metavar="N", help="mean and standard deviation of N seeds")
@click.option("--format", "outputs", multiple=True, metavar="FORMAT", help="written when the job ends; h5 by default")
@click.option("--priority", type=click.Choice(["routine", "urgent"]))
@click.option("--max-seconds", type=float, metavar="SECONDS", help="of computing, after which it fails")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="label to find it by")
@click.option("--destination", "destinations", multiple=True, metavar="NAME", help="archive that it is sent to")
@click.option("--template", metavar="DICOM", help="file of the patient's study, which images sent there belong to")
@click.option("--resume", metavar="UPLOAD", help="go on with this upload of the file, which was cut off")
@click.option("--follow", "follow_it", is_flag=True, help="show its progress until it has ended")
@click.option("-o", "--output", metavar="PATH", help="wait, and save the result there: .h5, .npy, .nii.gz, ...")
@service_options
def submit(
    scans: Sequence[str],
    method: str,
    parameters: Sequence[str],
    tags: Sequence[str],
    template: str | None,
    resume: str | None,
    follow_it: bool,
    output: str | None,
    url: str | None,
    key: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Submit scans, files or ids, for reconstruction.

    Files are uploaded. Prints the id of the job of each scan.
    """
    if len(scans) > 1 and (output is not None or resume is not None):
        raise click.UsageError(f"-o and --resume are for one scan, and there are {len(scans)}")
    options = {name: _list_or_none(value) for name, value in options.items()}
    labels = dict(_pair(each, "--tag") for each in tags)
    values = {name: _value(text) for name, text in (_pair(each, "--set") for each in parameters)}
    with connection(url, key) as client:
        if output is not None:
            _check_output(output, None)
        for scan in scans:
            stored = _uploaded(client, scan, template, resume)
            job = client.submit(stored, {"method": method, **values}, tags=labels or None, **options)
            if not follow_it and output is None:
                _print(job, as_json, f"{job.id}  {scan}")
                continue
            click.echo(f"{job.id}  {scan}", err=True)
            job = _follow(client, job.id).check()
            if output is not None:
                client.result(job, output)
            _print(job, as_json, _verdict(job))
    return 0


@click.command("follow")
@click.argument("job")
@service_options
def follow(job: str, url: str | None, key: str | None, as_json: bool) -> int:
    """Follow a job until it has ended; with --json each event is a line."""
    with connection(url, key) as client:
        if as_json:
            for event in client.follow(job):
                click.echo(_json(event))
            client.job(job).check()
            return 0
        click.echo(_verdict(_follow(client, job).check()))
    return 0


@click.command("result")
@click.argument("job")
@click.option("-o", "--output", required=True, metavar="PATH", help="file to write: .h5, .npy, .nii.gz, ...")
@click.option("--format", "format_", metavar="FORMAT", help="where the suffix does not tell")
@click.option("--wait", is_flag=True, help="until the job has ended")
@service_options
def result(
    job: str, output: str, format_: str | None, wait: bool, url: str | None, key: str | None, as_json: bool
) -> int:
    """Download the result of a job; it is compared with its SHA-256."""
    from udig_client.progress import bar

    with connection(url, key) as client:
        _check_output(output, format_)
        if wait:
            _follow(client, job).check()
        with bar() as tell:
            client.result(job, output, format=format_, progress=tell)
        if as_json:
            click.echo(json.dumps({"job_id": job, "path": output, "size_bytes": Path(output).stat().st_size}))
    return 0


@click.command("jobs")
@click.option("--status", type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled"]))
@click.option("--scan", metavar="ID", help="of this scan")
@click.option("--tag", metavar="KEY[:VALUE]", help="with this label")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="so many, newest first")
@service_options
def jobs(
    status: str | None,
    scan: str | None,
    tag: str | None,
    limit: int,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> int:
    """List jobs, newest first."""
    with connection(url, key) as client:
        found = client.jobs(status=status, scan=scan, tag=tag, page_size=min(limit, 200))
        for _, job in zip(range(limit), found, strict=False):
            done = f"{job.progress.fraction:4.0%}"
            created = f"{job.created_at.astimezone():%Y-%m-%d %H:%M}"
            rating = job.quality.rating if job.quality else ""
            _print(job, as_json, f"{job.id}  {job.status:<9}  {done}  {created}  {job.method}  {rating}".rstrip())
    return 0


@click.command("cancel")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@service_options
def cancel(jobs: Sequence[str], url: str | None, key: str | None, as_json: bool) -> int:
    """Cancel jobs that have not ended."""
    with connection(url, key) as client:
        for each in jobs:
            job = client.cancel(each)
            _print(job, as_json, f"{job.id}  {'to be cancelled' if not job.ended else job.status}")
    return 0


@click.command("destinations")
@service_options
def destinations(url: str | None, key: str | None, as_json: bool) -> int:
    """List the archives that jobs may be sent to."""
    with connection(url, key) as client:
        for each in client.destinations():
            identity = "with the patient's identifiers" if each.identifiers else "without identifiers"
            _print(each, as_json, f"{each.name}  {each.kind}  {identity}")
    return 0


def _check_output(path: str, format_: str | None) -> None:
    """Refuse a file that cannot be written, before a job is computed for it. Raises ValueError and UsageError."""
    from udig_client.files import format_of

    if format_ is None:
        format_of(path)
    if Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
        raise click.UsageError(f"-o {path}: expected the name of a file in a folder that is there")


def _uploaded(client: Client, scan: str, template: str | None, resume: str | None) -> Any:
    from udig_client.progress import bar

    if not Path(scan).exists() and re.fullmatch(r"[0-9a-fA-F-]{32,36}", scan):
        return scan
    with bar() as tell:
        return client.upload(scan, template=template, resume=resume, progress=tell)


def _follow(client: Client, job: str) -> Job:
    """The job when it has ended, with a bar meanwhile."""
    from udig_client.progress import bar

    try:
        with bar() as tell:
            return client.follow_to_end(job, tell)
    except KeyboardInterrupt:
        click.echo(f"job {job} goes on: `follow {job}` shows it again, `cancel {job}` ends it", err=True)
        raise


def _verdict(job: Job) -> str:
    quality = f"{job.quality.rating}: {'; '.join(job.quality.reasons)}" if job.quality else ""
    return "\n".join([f"{job.id}  {job.status}  {quality}".rstrip(), *(f"warning: {each}" for each in job.warnings)])


def _print(thing: Any, as_json: bool, line: str) -> None:
    click.echo(_json(thing) if as_json else line)


def _json(thing: Any) -> str:
    return json.dumps(asdict(thing), default=lambda value: value.isoformat())


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(f"{option} {text}: expected NAME=VALUE")
    return name, value


def _value(text: str) -> Any:
    """A parameter as JSON has it: a number, true, false or null; else it is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _list_or_none(value: Any) -> Any:
    return (list(value) or None) if isinstance(value, tuple) else value


@click.group("udig-client", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="udig-recon-client", prog_name="udig-client")
def udig_client() -> None:
    """Commands for a uDiG Recon service; `udig` has them too where udig-recon is installed."""


COMMANDS: tuple[click.Command, ...] = (submit, follow, result, jobs, cancel, destinations)
for _command in COMMANDS:
    udig_client.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status. Errors are one line on standard error."""
    try:
        status = udig_client.main(arguments, prog_name="udig-client", standalone_mode=False)
    except click.UsageError as error:
        where = f"; see {error.ctx.command_path} --help" if error.ctx is not None else ""
        sys.stderr.write(f"error: {error.format_message().removesuffix('.')}{where}\n")
        return USAGE_ERROR
    except click.ClickException as error:
        sys.stderr.write(f"error: {error.format_message()}\n")
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    return status if isinstance(status, int) else 0

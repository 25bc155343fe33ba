"""The console script `udig`: help that loads nothing heavy, and refusals in one line."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from pkgutil import resolve_name

import click
import pytest

from udig_recon.core.cli import UDIG, main
from udig_recon.core.cli.main import COMMANDS
from udig_recon.core.cli.options import repeat_names
from udig_recon.worker.settings import Settings

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "scipy", "h5py", "skimage", "PIL", "sqlalchemy", "psycopg", "celery", "redis", "fastapi", "uvicorn")
SETTINGS_COMMANDS = ("serve", "worker", "api", "mrd-stream", "health")
SUBCOMMANDS = {
    "keys": ("create", "list", "rotate", "revoke"),
    "tenants": ("show", "list", "set"),
    "storage": ("copy",),
    "data-folder": ("show", "adopt"),
    "audit": ("export", "verify"),
}
NESTED = [(group, name) for group, names in SUBCOMMANDS.items() for name in names]
LINES = [(), *((name,) for name in COMMANDS), *NESTED]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command line of `udig` without any settings."""
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run([*UDIG, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_the_console_script_is_this_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert resolve_name(project["scripts"]["udig"]) is main.main


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_help_is_printed_and_nothing_heavy_is_loaded(line: tuple[str, ...]) -> None:
    script = (
        "import sys; from udig_recon.core.cli.main import main; status = main(sys.argv[1:]);"
        f"print(status, sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *line, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "0 []\n"
    assert done.stdout.startswith(" ".join(["Usage: udig", *line]))


def test_help_lists_every_command_with_what_it_is_for() -> None:
    told = run("--help").stdout
    shown = {line.split()[0]: line for line in told.partition("Commands:")[2].splitlines() if line.strip()}
    assert [name for name, entry in COMMANDS.items() if entry.help[:30] not in shown[name]] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_exists_and_bears_its_name(name: str) -> None:
    command = resolve_name(COMMANDS[name].target)
    assert isinstance(command, click.Command)
    assert command.name == name


@pytest.mark.parametrize("command", SETTINGS_COMMANDS)
def test_help_lists_every_setting(command: str) -> None:
    told = run(command, "--help").stdout
    assert [name for name in Settings.model_fields if f"  {name.upper()} (" not in told] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *(((command, "--port", "1"), "No such option '--port'") for command in ("migrate", *SETTINGS_COMMANDS)),
        (("serve", "now"), "Got unexpected extra argument (now)"),
        (("reconstruct", "scan.h5"), "No such command 'reconstruct'"),
        (("recon",), "Missing argument 'SCAN'"),
        (("recon", "scan.h5", "-o", "out.h5", "--method", "magic"), "'magic' is none of udig_dip, "),
        (("recon", "scan.h5", "-o", "out.h5", "--slices", "one"), "'one' is not a valid integer"),
        (("recon", "scan.h5", "-o", "out.h5", "--set"), "expected at least one value"),
        (("compare", "scans", "-o", "out", "--methods"), "expected at least one value"),
        (("convert-prior", "a.pt", "--layout", "zip"), "'zip' is none of auto, adm, ncsnpp"),
        (("postgres",), "Missing argument 'PROGRAM'"),
    ],
)
def test_a_command_that_is_not_understood_is_refused_in_one_line(line: tuple[str, ...], message: str) -> None:
    done = run(*line)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ")
    assert message in said
    assert said.endswith("--help")


def test_options_of_several_values_take_them_up_to_the_next_option() -> None:
    typed = ["scan.h5", "--set", "a=1", "b=-2", "--slices", "-1", "3", "-o", "out.h5", "--set", "c=3", "--", "--set"]
    read = ["scan.h5", "--set=", "--set=a=1", "--set=b=-2", "--slices=", "--slices=-1", "--slices=3"]
    rest = ["-o", "out.h5", "--set=", "--set=c=3", "--", "--set"]
    assert repeat_names(typed, {"--set": True, "--slices": True}) == [*read, *rest]


def test_an_option_of_several_values_that_is_given_again_replaces_or_extends() -> None:
    typed = ["--widths", "1", "2", "--widths", "3"]
    assert repeat_names(typed, {"--widths": True}) == [
        "--widths=",
        "--widths=1",
        "--widths=2",
        "--widths=",
        "--widths=3",
    ]
    assert repeat_names(typed, {"--widths": False}) == ["--widths=", "--widths=3"]


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "engine"), ("matplotlib", "report"), ("celery", "service")],
)
def test_a_library_that_is_not_installed_is_named_with_the_extra_that_brings_it(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("methods")
    def lacking() -> None:
        raise ModuleNotFoundError(f"No module named '{module}'", name=f"{module}.part")

    monkeypatch.setattr("udig_recon.core.cli.commands.methods", lacking)
    assert main.main(["methods"]) == 1
    assert capsys.readouterr().err == (
        f"error: udig methods needs {module}, which is not installed: pip install 'udig-recon[{extra}]'\n"
    )


@click.command("denoise")
def denoise() -> int:
    """Give another distribution's command a status of its own."""
    return 3


def test_other_distributions_add_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    points = [
        EntryPoint("denoise", f"{__name__}:denoise", main.GROUP),
        EntryPoint("recon", f"{__name__}:denoise", main.GROUP),
        EntryPoint("broken", f"{__name__}:ROOT", main.GROUP),
    ]
    monkeypatch.setattr(main, "entry_points", lambda group: [point for point in points if point.group == group])
    assert main.main(["denoise"]) == 3
    assert main.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"^  denoise +Give another distribution's command", told, re.MULTILINE)
    assert re.search(r"^  broken +Of ", told, re.MULTILINE)
    assert main.main(["recon", "--help"]) == 0
    assert "SCAN" in capsys.readouterr().out
    assert main.main(["broken"]) == 1
    assert "is no click.Command" in capsys.readouterr().err

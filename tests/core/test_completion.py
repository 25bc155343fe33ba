"""Completion of `udig` by a shell."""

import shutil
import subprocess
import sys

import pytest

from udig_recon.core.cli.completion import SHELLS, VARIABLE
from udig_recon.core.cli.main import COMMANDS, main, udig
from udig_recon.core.parameters import METHODS
from udig_recon.core.results.outputs import OUTPUTS


def completed(*words: str) -> list[str]:
    """What can stand in place of the last word."""
    shell = SHELLS["bash"](udig, {}, "udig", VARIABLE)
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_commands_are_completed_without_importing_them():
    assert set(COMMANDS) <= set(completed(""))
    assert completed("conv") == ["convert-prior"]
    script = f"import os, sys; os.environ.update({VARIABLE}='bash_complete', COMP_WORDS='udig w', COMP_CWORD='1')\n"
    script += "from udig_recon.core.cli.main import main\ntry: main([])\nexcept SystemExit: pass\n"
    script += "print([name for name in sys.modules if name in ('torch', 'pydantic', 'numpy', 'fastapi', 'sqlalchemy')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[0] == "plain,worker"
    assert done.stdout.splitlines()[-1] == "[]"


def test_options_and_their_values_are_completed_every_value_like_the_first():
    assert completed("run", "a.h5", "--form") == ["--format"]
    assert completed("run", "a.h5", "--format", "") == completed("run", "a.h5", "--format", "h5", "") == [*OUTPUTS]
    assert completed("run", "a.h5", "--method", "tv", "udig") == [name for name in METHODS if name.startswith("udig")]
    assert completed("recon", "--method", "cg") == ["cg_sense"]
    assert completed("keys", "cr") == ["create"]


@pytest.mark.parametrize("shell", list(SHELLS))
def test_each_shell_gets_a_script_that_asks_udig(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert VARIABLE in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)

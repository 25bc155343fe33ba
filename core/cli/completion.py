"""Completion in bash, zsh and fish: `udig completion SHELL` prints what a shell needs, and the shell asks `udig`.

It is click's own mechanism, with one addition: options that take several values.
"""

import sys
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

from udig_recon.core.cli.options import SeveralValues

VARIABLE = "_UDIG_COMPLETE"
"""Environment variable by which a shell asks; click reads it."""


class _SeveralValues(ShellComplete):
    """Completes the second value of an option of several values as it does the first."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """What can stand in place of the incomplete word."""
        return super().get_completions(_without_values(self.cli, args), incomplete)


class _Bash(_SeveralValues, BashComplete):
    pass


class _Zsh(_SeveralValues, ZshComplete):
    pass


class _Fish(_SeveralValues, FishComplete):
    pass


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def register_shells() -> None:
    """Have click complete by these classes."""
    for shell in SHELLS.values():
        add_completion_class(shell)


@click.command("completion")
@click.argument("shell", type=click.Choice([*SHELLS]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> int:
    r"""Print the completion of commands, options and values for SHELL.

    \b
    bash: echo 'eval "$(udig completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(udig completion zsh)"' >> ~/.zshrc
    fish: udig completion fish > ~/.config/fish/completions/udig.fish
    """
    root = ctx.find_root().command
    sys.stdout.write(SHELLS[shell](root, {}, "udig", VARIABLE).source())
    return 0


def _without_values(root: click.Command, args: Sequence[str]) -> list[str]:
    """The words without the values at their end, where the option before them takes more of them."""
    several = _options_of_several_values(root, args)
    for position in reversed(range(len(args))):
        if args[position].startswith("-"):
            return list(args[: position + 1] if args[position] in several else args)
    return list(args)


def _options_of_several_values(command: click.Command, args: Sequence[str]) -> set[str]:
    context = click.Context(command)
    for word in args:
        if not isinstance(command, click.Group):
            break
        found = None if word.startswith("-") else command.get_command(context, word)
        if found is None:
            return set()
        command = found
    return {name for each in command.params if isinstance(each, SeveralValues) for name in each.opts}


def complete_methods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:  # noqa: ARG001
    """Names of methods, for an option whose value begins with one."""
    from udig_recon.core.parameters import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]

"""Command-line options that click lacks: several values after one name, and choices that are looked up late."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click
from click.shell_completion import CompletionItem

from udig_recon.core.batch.shards import Shard
from udig_recon.core.errors import ReconstructionError

PATH: click.Path[Path] = click.Path(path_type=Path)
"""A file or a folder; the command itself says what is wrong with it."""

_VALUE_LIKE_AN_OPTION = re.compile(r"-\.?\d")


class SeveralValues(click.Option):
    """An option that takes the values up to the next option, as in `--slices 3 4 5`.

    Given again, its values replace those of before, or with `extend=True` join them. With `empty=True` it may be given
    without a value, which means none at all rather than the default.
    """

    def __init__(self, *declarations: Any, extend: bool = False, empty: bool = False, **settings: Any) -> None:
        settings["metavar"] = f"{settings.get('metavar', 'VALUE')} ..."
        settings["multiple"] = True
        super().__init__(*declarations, **settings)
        self.extend = extend
        self.empty = empty

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """The values, without the mark that `--name` without a value leaves."""
        given = [each for each in value or () if each != ""]
        if value and not given and not self.empty:
            raise click.BadParameter("expected at least one value", ctx, self)
        return super().type_cast_value(ctx, given)


class Command(click.Command):
    """A command whose options may be of SeveralValues."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the name of an option of several values before each of them, as click reads it.

        The arguments as they were typed are left in `ctx.meta["arguments"]`.
        """
        ctx.meta["arguments"] = list(args)
        several = [each for each in self.params if isinstance(each, SeveralValues)]
        extend = {name: each.extend for each in several for name in each.opts}
        return super().parse_args(ctx, repeat_names(args, extend))


class FieldOptions(Command):
    """A command that has an option for each field of a pydantic model, after its own parameters.

    `model` is "module:Model", imported when the options are asked for. They have the fields' names, with dashes, and
    descriptions; `type` and `metavar` are the same for all.
    """

    def __init__(self, *arguments: Any, model: str, type: Any = str, metavar: str, **settings: Any) -> None:  # noqa: A002
        super().__init__(*arguments, **settings)
        self.model = model
        self.settings = {"type": type, "metavar": metavar}

    @cached_property
    def field_options(self) -> list[click.Option]:
        """The options of the model."""
        fields = resolve_name(self.model).model_fields
        return [
            click.Option([f"--{name.replace('_', '-')}"], help=field.description, **self.settings)
            for name, field in fields.items()
        ]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The declared parameters, the options of the model, and --help."""
        *declared, help_option = super().get_params(ctx)
        return [*declared, *self.field_options, help_option]


def repeat_names(arguments: Sequence[str], extend: Mapping[str, bool]) -> list[str]:
    """`--set a b` becomes `--set= --set=a --set=b`, for each option of several values.

    `extend` has these options by name, with whether a later `--set` joins an earlier one rather than replaces it.
    """
    repeated: list[str] = []
    current: str | None = None
    """The option of several values that the next value belongs to."""
    for position, argument in enumerate(arguments):
        if argument == "--":
            return repeated + list(arguments[position:])
        if argument in extend:
            current = argument
            if not extend[current]:
                repeated = [each for each in repeated if not each.startswith(f"{current}=")]
            repeated.append(f"{current}=")
        elif argument.startswith("-") and not _VALUE_LIKE_AN_OPTION.match(argument):
            current = None
            repeated.append(argument)
        elif current is not None:
            repeated.append(f"{current}={argument}")
        else:
            repeated.append(argument)
    return repeated


class LazyChoice(click.ParamType[str]):
    """One of the values of a collection or enumeration that is imported only when a value is given: "module:NAME"."""

    name = "choice"

    def __init__(self, target: str) -> None:
        self.target = target

    def choices(self) -> list[str]:
        """The values that are allowed."""
        return [str(each) for each in resolve_name(self.target)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value itself; refused when it is none of the choices."""
        if ctx is not None and ctx.resilient_parsing:
            return str(value)  # a shell asks for completions, at once
        if value not in (choices := self.choices()):
            self.fail(f"{value!r} is none of {', '.join(choices)}", param, ctx)
        return str(value)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        """The choices that begin like this."""
        return [CompletionItem(each) for each in self.choices() if each.startswith(incomplete)]


class ShardParameter(click.ParamType[Shard]):
    """A part of the work, `I/N`."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        """The shard; refused unless 1 <= I <= N."""
        try:
            return Shard.parse(str(value))
        except ReconstructionError as error:
            self.fail(str(error), param, ctx)

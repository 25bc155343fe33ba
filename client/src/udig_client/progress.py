"""Progress of uploads, reconstructions and downloads: what is told, and a bar that shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

SECONDS_BETWEEN = 0.1


@dataclass(frozen=True)
class Progress:
    """How far something is: `done` of `total`, None where that is not known yet, at a `stage`.

    The stages are `upload` and `download`, counted in bytes, and `reconstruct`, in slices.
    """

    stage: str
    done: float
    total: float | None = None
    text: str = ""

    @property
    def fraction(self) -> float | None:
        """The part that is done, 0 to 1."""
        return self.done / self.total if self.total else None


Listener = Callable[[Progress], None]
ProgressOption = bool | Listener | None
"""True: a bar on standard error; a function: it is told; False or None: nothing."""


@contextmanager
def listener(option: ProgressOption) -> Iterator[Listener]:
    """The function to tell of progress; a bar is closed at the end."""
    if option is True:
        with bar() as shown:
            yield shown
    elif callable(option):
        yield option
    else:
        yield _ignore


def _ignore(progress: Progress) -> None:
    """Tell nobody."""


@contextmanager
def bar(stream: TextIO | None = None) -> Iterator[Listener]:
    """A bar on standard error: rich's where it is installed (`udig-recon-client[cli]`), else a plain line."""
    stream = sys.stderr if stream is None else stream
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError:
        with _line(stream) as shown:
            yield shown
    else:
        with _rich_bar(stream) as shown:
            yield shown


@contextmanager
def _line(stream: TextIO) -> Iterator[Listener]:
    width, stage, whole = 0, "", ""

    def show(progress: Progress) -> None:
        nonlocal width, stage, whole
        if stage and stage != progress.stage and stream.isatty():
            stream.write("\n")
        share = "" if progress.fraction is None else f" {progress.fraction:4.0%}"
        text = f"{progress.stage}{share} {progress.text}".rstrip()
        if stream.isatty():
            stream.write(f"\r{text:<{width}}")
        elif progress.stage not in (stage, whole) or (progress.done == progress.total and progress.stage != whole):
            stream.write(f"{text}\n")
            whole = progress.stage if progress.done == progress.total else whole
        width, stage = len(text), progress.stage
        stream.flush()

    try:
        yield show
    finally:
        if stage and stream.isatty():
            stream.write("\n")


@contextmanager
def _rich_bar(stream: TextIO) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    bars = Bars(*columns, console=Console(file=stream))
    tasks: dict[str, TaskID] = {}

    def show(progress: Progress) -> None:
        if not tasks:  # not before there is something to show: an error then has its line alone
            bars.start()
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total, text="")
        bars.update(tasks[progress.stage], completed=progress.done, total=progress.total, text=progress.text)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()

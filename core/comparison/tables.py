"""Table 1 of the paper over one's own scans, as Markdown, CSV and LaTeX."""

import csv
import io
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from udig_recon.core.acquisition import Modality
from udig_recon.core.comparison.entries import ENTRY_METRICS, Entry, methods_of, samplings_of
from udig_recon.core.comparison.printed import Printed, printed

NOTE = (
    "Mean and standard deviation over scans, slices and seeds; in brackets what Table 1 of Liang et al. (2025) prints, "
    "of its own data on a GPU, minutes as seconds: other images, so that only the order can be compared."
)


class TableForm(StrEnum):
    """How a table is written."""

    MD = "md"
    CSV = "csv"
    TEX = "tex"

    @property
    def media_type(self) -> str:
        """Media type of its files."""
        return {"md": "text/markdown", "csv": "text/csv", "tex": "application/x-tex"}[self]


class Spread(NamedTuple):
    """Mean and standard deviation of `n` values; of one value there is none."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Cell:
    """One method at one sampling: what was found over scans, slices and seeds, and what the paper prints."""

    runs: int
    psnr: Spread | None
    ssim: Spread | None
    nmse: Spread | None
    data_residual: Spread | None
    seconds: Spread | None
    prior_evaluations: Spread | None
    optimizer_steps: Spread | None
    printed: Printed | None


class _Column(NamedTuple):
    """A measure, its number of digits, and the paper's figure for it with its standard deviation."""

    title: str
    found: Callable[[Cell], Spread | None]
    digits: int
    paper: Callable[[Printed], tuple[float | None, float | None]]


COLUMNS = (
    _Column("PSNR, dB", lambda cell: cell.psnr, 2, lambda paper: (paper.psnr, paper.psnr_sd)),
    _Column("SSIM", lambda cell: cell.ssim, 3, lambda paper: (paper.ssim, None)),
    _Column("s", lambda cell: cell.seconds, 1, lambda paper: (60 * paper.minutes, None)),
    _Column("prior calls", lambda cell: cell.prior_evaluations, 0, lambda paper: (paper.prior_evaluations, None)),
    _Column("updates", lambda cell: cell.optimizer_steps, 0, lambda paper: (paper.optimizer_steps, None)),
)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that are known and finite; None where there are none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def summary(entries: Sequence[Entry]) -> dict[tuple[str, str], Cell]:
    """The cells of the table, by label and sampling."""
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        found.setdefault((entry.method, entry.sampling), []).append(entry)
    return {
        key: Cell(
            runs=len(runs),
            printed=printed(*key),
            **{name: spread(getattr(run, name) for run in runs) for name in ENTRY_METRICS},
        )
        for key, runs in found.items()
    }


def render(entries: Sequence[Entry], form: TableForm) -> str:
    """The table of all entries: rows of methods, column groups of samplings, MRI and CT apart."""
    return {TableForm.MD: _markdown, TableForm.CSV: _csv, TableForm.TEX: _latex}[form](entries)


def _rows(entries: Sequence[Entry], modality: Modality, samplings: Sequence[str]) -> list[list[str]]:
    """Label and cells of each method of a modality, in plain text."""
    cells = summary(entries)
    methods = methods_of(entry for entry in entries if entry.modality is modality)
    return [
        [method, *(_text(cells.get((method, sampling)), column) for sampling in samplings for column in COLUMNS)]
        for method in methods
    ]


def _text(cell: Cell | None, column: _Column) -> str:
    if cell is None:
        return ""
    found = column.found(cell)
    ours = "" if found is None else _plus_minus(found.mean, found.sd if column.digits else None, column.digits)
    figure, sd = (None, None) if cell.printed is None else column.paper(cell.printed)
    if figure is None:
        return ours
    return f"{ours or '-'} [{_plus_minus(figure, sd, column.digits)}]"


def _plus_minus(mean: float, sd: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _markdown(entries: Sequence[Entry]) -> str:
    parts = []
    for modality, samplings in samplings_of(entries).items():
        heads = [f"{sampling}: {column.title}" for sampling in samplings for column in COLUMNS]
        rows = [["method", *heads], ["---"] * (1 + len(heads)), *_rows(entries, modality, samplings)]
        parts.append("\n".join(map(markdown_row, rows)))
    return "\n\n".join([*parts, NOTE]) + "\n"


def markdown_row(cells: Iterable[str]) -> str:
    """A line of a Markdown table, whatever the cells hold."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _csv(entries: Sequence[Entry]) -> str:
    """A line for each method and sampling, nothing rounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"{name}_{part}" for name in ENTRY_METRICS for part in ("mean", "sd")]
    writer.writerow(["method", "sampling", "runs", *names, *(f"paper_{name}" for name in Printed._fields)])
    cells = summary(entries)
    for samplings in samplings_of(entries).values():
        for method, sampling in itertools.product(methods_of(entries), samplings):
            if (cell := cells.get((method, sampling))) is not None:
                spreads = [getattr(cell, name) for name in ENTRY_METRICS]
                ours = [value for each in spreads for value in ((None, None) if each is None else each[:2])]
                writer.writerow([method, sampling, cell.runs, *ours, *(cell.printed or [None] * len(Printed._fields))])
    return stream.getvalue()


def _latex(entries: Sequence[Entry]) -> str:
    """Tables that need no package."""
    parts = []
    for modality, samplings in samplings_of(entries).items():
        groups = [rf"\multicolumn{{{len(COLUMNS)}}}{{c}}{{{_escaped(sampling)}}}" for sampling in samplings]
        heads = ["method", *(column.title for _ in samplings for column in COLUMNS)]
        lines = [
            ["", *groups],
            heads,
            *([_escaped(cell) for cell in row] for row in _rows(entries, modality, samplings)),
        ]
        top, head, *rows = [f"{' & '.join(line)} \\\\" for line in lines]
        parts += [
            r"\begin{table}",
            rf"\caption{{{modality.upper()}. {_escaped(NOTE)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            *(r"\hline", top, head, r"\hline", *rows, r"\hline"),
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: _SPECIAL.get(found[0], "\\" + found[0]), text)

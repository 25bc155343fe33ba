"""Comparison tables as Markdown, CSV and LaTeX: rows of methods, columns of samplings, beside the paper's Table 1."""

import csv
import io
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from udig_recon.core.acquisition import Modality
from udig_recon.core.comparison.entries import ENTRY_METRICS, Entry, methods_of, samplings_of
from udig_recon.core.metrics import METRICS, Metric
from udig_recon.core.quality.rating import LEVELS

NOTE = (
    "Mean and standard deviation over scans, slices and seeds. In brackets: Table 1 of Liang et al. (2025), measured "
    "on other images on a GPU, minutes as seconds; only the order of the methods can be compared."
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


class Statistics(NamedTuple):
    """Mean and standard deviation of `n` values; `sd` is None for one value."""

    mean: float
    sd: float | None
    n: int


class PublishedResult(NamedTuple):
    """What the paper prints for a method at a sampling, and the settings that it names."""

    psnr: float  # dB
    psnr_sd: float | None
    ssim: float
    minutes: float  # mean of both samplings
    prior_evaluations: int | None = None  # sampling steps, as the paper counts them
    optimizer_steps: int | None = None


PAPER_STEPS = 500
PAPER_UPDATES = 4000
PAPER_PURIFICATIONS = 2000 * 150  # K times M, as the text says; the printed minutes allow for about 600

TABLE_1: Mapping[tuple[str, str], PublishedResult] = {
    ("score_mri", "4x"): PublishedResult(33.53, 0.01, 0.840, 6.2, prior_evaluations=PAPER_STEPS),
    ("score_mri", "8x"): PublishedResult(32.27, 0.032, 0.818, 6.2, prior_evaluations=PAPER_STEPS),
    ("ref_guided_dip", "4x"): PublishedResult(33.17, 0.02, 0.892, 2.5, optimizer_steps=PAPER_UPDATES),
    ("ref_guided_dip", "8x"): PublishedResult(30.67, 0.018, 0.872, 2.5, optimizer_steps=PAPER_UPDATES),
    ("dip", "4x"): PublishedResult(30.21, 0.012, 0.865, 1.5, optimizer_steps=PAPER_UPDATES),
    ("dip", "8x"): PublishedResult(28.75, 0.021, 0.842, 1.5, optimizer_steps=PAPER_UPDATES),
    ("udig_dip", "4x"): PublishedResult(34.46, 0.02, 0.932, 3.5, PAPER_PURIFICATIONS, PAPER_UPDATES),
    ("udig_dip", "8x"): PublishedResult(33.20, 0.03, 0.912, 3.5, PAPER_PURIFICATIONS, PAPER_UPDATES),
    ("mcg", "30 views"): PublishedResult(35.70, None, 0.965, 6.4, prior_evaluations=PAPER_STEPS),
    ("mcg", "18 views"): PublishedResult(33.60, None, 0.950, 6.4, prior_evaluations=PAPER_STEPS),
    ("fbp", "30 views"): PublishedResult(22.92, None, 0.750, 0.2),
    ("fbp", "18 views"): PublishedResult(19.52, None, 0.670, 0.2),
    ("ref_guided_dip", "30 views"): PublishedResult(31.20, None, 0.892, 2.5, optimizer_steps=PAPER_UPDATES),
    ("ref_guided_dip", "18 views"): PublishedResult(28.31, None, 0.842, 2.5, optimizer_steps=PAPER_UPDATES),
    ("dip", "30 views"): PublishedResult(26.41, None, 0.790, 1.5, optimizer_steps=PAPER_UPDATES),
    ("dip", "18 views"): PublishedResult(24.50, None, 0.772, 1.5, optimizer_steps=PAPER_UPDATES),
    ("udig_dip", "30 views"): PublishedResult(36.70, None, 0.972, 3.2, PAPER_PURIFICATIONS, PAPER_UPDATES),
    ("udig_dip", "18 views"): PublishedResult(33.96, None, 0.954, 3.2, PAPER_PURIFICATIONS, PAPER_UPDATES),
}
"""Table 1 of Liang et al. (ICASSP 2025) by method and sampling: fastMRI knees and AAPM abdomens.

At 4x and 8x the paper prints the SSIM of `ref_guided_dip` as .0892 and .0872, and at 4x that of `udig_dip` as .0932.
These are misprints. The text names the CT columns 18 and 30, but the first is of 30 views: every method is better in
it.
"""


def published_result(label: str, sampling: str) -> PublishedResult | None:
    """The paper's result for the method that a label begins with, whatever settings follow; None: there is none."""
    return TABLE_1.get((label.partition(" ")[0], sampling))


@dataclass(frozen=True)
class Cell:
    """One method at one sampling: statistics over scans, slices and seeds, and the paper's result."""

    runs: int
    psnr: Statistics | None
    ssim: Statistics | None
    nmse: Statistics | None
    data_residual: Statistics | None
    seconds: Statistics | None
    prior_evaluations: Statistics | None
    optimizer_steps: Statistics | None
    published: PublishedResult | None


class _Column(NamedTuple):
    """A metric, and the paper's value for it with its standard deviation."""

    metric: Metric
    published: Callable[[PublishedResult], tuple[float | None, float | None]]


REFERENCE_COLUMNS = (
    _Column(METRICS["psnr"], lambda paper: (paper.psnr, paper.psnr_sd)),
    _Column(METRICS["ssim"], lambda paper: (paper.ssim, None)),
)
RESIDUAL_COLUMN = _Column(METRICS["data_residual"], lambda _: (None, None))
COST_COLUMNS = (
    _Column(METRICS["seconds"], lambda paper: (60 * paper.minutes, None)),
    _Column(METRICS["prior_evaluations"], lambda paper: (paper.prior_evaluations, None)),
    _Column(METRICS["optimizer_steps"], lambda paper: (paper.optimizer_steps, None)),
)


def columns_of(entries: Sequence[Entry], modality: Modality) -> Sequence[_Column]:
    """Columns of a table: the residual where a scan has no reference, PSNR and SSIM unless none has one."""
    unknown = [entry.psnr is None for entry in entries if entry.modality is modality]
    quality: tuple[_Column, ...] = () if all(unknown) else REFERENCE_COLUMNS
    return (*quality, *([RESIDUAL_COLUMN] if any(unknown) else []), *COST_COLUMNS)


def statistics_of(values: Iterable[float | None]) -> Statistics | None:
    """Statistics of the known and finite values; None where there are none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    return Statistics(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def cells(entries: Sequence[Entry]) -> dict[tuple[str, str], Cell]:
    """The cells of the table, by label and sampling."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.method, entry.sampling), []).append(entry)
    return {
        key: Cell(
            runs=len(runs),
            published=published_result(*key),
            **{name: statistics_of(getattr(run, name) for run in runs) for name in ENTRY_METRICS},
        )
        for key, runs in groups.items()
    }


def render(entries: Sequence[Entry], form: TableForm) -> str:
    """The table of all entries: rows of methods, column groups of samplings, MRI and CT apart."""
    match form:
        case TableForm.MD:
            return _markdown(entries)
        case TableForm.CSV:
            return _csv(entries)
        case TableForm.TEX:
            return _latex(entries)


class SamplingTable(NamedTuple):
    """The table of one sampling: headings, and rows of a method's label and its cells, all in plain text."""

    sampling: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def sampling_tables(entries: Sequence[Entry]) -> list[SamplingTable]:
    """A table for each sampling of the entries, MRI first, those with most data first."""
    return [
        SamplingTable(
            sampling,
            _headings(entries, modality),
            [row for row in _rows(entries, modality, [sampling]) if any(row[1:])],
        )
        for modality, samplings in samplings_of(entries).items()
        for sampling in samplings
    ]


def _headings(entries: Sequence[Entry], modality: Modality) -> list[str]:
    return [column.metric.heading for column in columns_of(entries, modality)]


def _rows(entries: Sequence[Entry], modality: Modality, samplings: Sequence[str]) -> list[list[str]]:
    """Label and cells of each method of a modality, in plain text."""
    cell_of, columns = cells(entries), columns_of(entries, modality)
    rows = []
    for method in methods_of(entry for entry in entries if entry.modality is modality):
        row = [method]
        for sampling in samplings:
            row += [_text(cell_of.get((method, sampling)), column) for column in columns]
        rows.append(row)
    return rows


def _text(cell: Cell | None, column: _Column) -> str:
    """The measured value, and in brackets the paper's."""
    if cell is None:
        return ""
    measured: Statistics | None = getattr(cell, column.metric.name)
    digits = column.metric.digits
    text = ""
    if measured is not None:
        # Counts are given without their deviation.
        text = _plus_minus(measured.mean, measured.sd if digits else None, digits)
    if cell.published is None:
        return text
    value, sd = column.published(cell.published)
    if value is None:
        return text
    return f"{text or '-'} [{_plus_minus(value, sd, digits)}]"


def _plus_minus(mean: float, sd: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def _markdown(entries: Sequence[Entry]) -> str:
    parts = []
    for modality, samplings in samplings_of(entries).items():
        heads = [f"{sampling}: {heading}" for sampling in samplings for heading in _headings(entries, modality)]
        parts.append(markdown_table(["method", *heads], _rows(entries, modality, samplings)))
    return "\n\n".join([*parts, NOTE]) + "\n"


RATING_HEADINGS = ("method", "sampling", *LEVELS, METRICS["data_residual"].heading)


def rating_rows(entries: Sequence[Entry]) -> list[Sequence[str]]:
    """How many images of each method at each sampling have which rating, and their data residual, in plain text."""
    rows: list[Sequence[str]] = []
    for (method, sampling), cell in cells(entries).items():
        ratings = [each.rating for each in entries if (each.method, each.sampling) == (method, sampling)]
        counts = [str(ratings.count(level)) for level in LEVELS]
        rows.append((method, sampling, *counts, _text(cell, RESIDUAL_COLUMN)))
    return rows


def render_ratings(entries: Sequence[Entry]) -> str:
    """Markdown of `rating_rows`."""
    return markdown_table(RATING_HEADINGS, rating_rows(entries)) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells may hold any text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _csv(entries: Sequence[Entry]) -> str:
    """A line for each method and sampling, nothing rounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [f"{name}_{part}" for name in ENTRY_METRICS for part in ("mean", "sd")]
    writer.writerow(["method", "sampling", "runs", *names, *(f"paper_{name}" for name in PublishedResult._fields)])
    cell_of = cells(entries)
    for samplings in samplings_of(entries).values():
        for method, sampling in itertools.product(methods_of(entries), samplings):
            cell = cell_of.get((method, sampling))
            if cell is None:
                continue
            measured: list[float | None] = []
            for name in ENTRY_METRICS:
                statistics_of_metric: Statistics | None = getattr(cell, name)
                if statistics_of_metric is None:
                    measured += [None, None]
                else:
                    measured += [statistics_of_metric.mean, statistics_of_metric.sd]
            published = cell.published or [None] * len(PublishedResult._fields)
            writer.writerow([method, sampling, cell.runs, *measured, *published])
    return stream.getvalue()


def _latex(entries: Sequence[Entry]) -> str:
    """Tables that need no package."""
    parts = []
    for modality, samplings in samplings_of(entries).items():
        columns = columns_of(entries, modality)
        groups = [rf"\multicolumn{{{len(columns)}}}{{c}}{{{_escape_latex(sampling)}}}" for sampling in samplings]
        heads = ["method", *(column.metric.heading for _ in samplings for column in columns)]
        rows = [[_escape_latex(cell) for cell in row] for row in _rows(entries, modality, samplings)]
        top, head, *body = [" & ".join(line) + r" \\" for line in (["", *groups], heads, *rows)]
        parts += [
            r"\begin{table}",
            rf"\caption{{{modality.upper()}. {_escape_latex(NOTE)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            *(r"\hline", top, head, r"\hline", *body, r"\hline"),
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}


def _escape_latex(text: str) -> str:
    return re.sub(r"[\\~^±&%$#_{}]", lambda match: _LATEX.get(match[0], "\\" + match[0]), text)

"""Comparison report: tables, ranking and figures of the runs that are finished so far."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from udig_recon.core.comparison.entries import Entry
from udig_recon.core.comparison.figures import write_curves, write_images, write_noise_sweep, write_panels
from udig_recon.core.comparison.ranking import rank_methods, render_rankings
from udig_recon.core.comparison.running import FinishedRun
from udig_recon.core.comparison.tables import TableForm, render, render_ratings
from udig_recon.core.files.atomic import atomic_write

FIGURES = ("panels", "iterations", "noise")
"""Figures 3 and 4 of the paper, its figure 5, and its figure 1."""


def write_tables(finished: Sequence[FinishedRun], made_by: Mapping[str, str], output: Path) -> None:
    """`table-1.md`, `.csv` and `.tex`; `runs.csv`, each run; `comparison.md`: how it was made, tables and figures."""
    entries = [each.entry for each in finished]
    for form in TableForm:
        _write(output / f"table-1.{form}", render(entries, form))
    with atomic_write(output / "runs.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Entry)])
        writer.writerows(asdict(entry).values() for entry in entries)

    engines = sorted({each.result.fields["engine"] for each in finished})
    engine = ", ".join(engines)
    if len(engines) > 1:
        engine += "; the results come from several states of the engine"
    facts = "\n".join(f"- {name}: {value}" for name, value in {**made_by, "engine": engine}.items())
    parts = ["# Comparison", facts, "## Table 1", render(entries, TableForm.MD).strip()]
    parts += ["## Ratings", render_ratings(entries).strip()]
    parts += ["## Ranking", render_rankings(rank_methods(entries)).strip()]
    pictures = sorted([*output.glob("*.png"), *(output / "panels").rglob("*.png")])
    if pictures:
        parts += ["## Figures", "\n\n".join(f"![{path.stem}]({path.relative_to(output)})" for path in pictures)]
    _write(output / "comparison.md", "\n\n".join(parts) + "\n")


def write_figures(
    finished: Sequence[FinishedRun], probes: Sequence[FinishedRun], figures: Sequence[str], output: Path
) -> None:
    """Write the volumes, and the named FIGURES of runs whose PSNR, if there is one, is finite.

    `probes` are the runs of the noise sweep.
    """
    write_images(finished, output / "images")
    measured = [each for each in finished if each.entry.psnr is None or math.isfinite(each.entry.psnr)]
    if "panels" in figures:
        write_panels(measured, output / "panels")
    if "iterations" in figures:
        write_curves(measured, output)
    if "noise" in figures:
        write_noise_sweep(probes, output)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)

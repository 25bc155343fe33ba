"""What a comparison writes: tables, ranking and figures of the runs that are finished so far."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from udig_recon.core.comparison.entries import Entry
from udig_recon.core.comparison.figures import write_curves, write_noise_sweep, write_panels
from udig_recon.core.comparison.ranking import rankings, render_rankings
from udig_recon.core.comparison.running import Finished
from udig_recon.core.comparison.tables import TableForm, render
from udig_recon.core.files.atomic import replacing

FIGURES = ("panels", "iterations", "noise")
"""The paper's 3 and 4, its 5, and its 1."""


def write_tables(finished: Sequence[Finished], made_by: Mapping[str, str], output: Path) -> None:
    """`table-1.md`, `.csv` and `.tex`; `runs.csv`, each run; `comparison.md`: how it was made, tables and figures."""
    entries = [each.entry for each in finished]
    for form in TableForm:
        _write(output / f"table-1.{form}", render(entries, form))
    with replacing(output / "runs.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Entry)])
        writer.writerows(asdict(entry).values() for entry in entries)
    engines = sorted({each.result.fields["engine"] for each in finished})
    states = ", ".join(engines) + ("; the results are of several states of the engine" if len(engines) > 1 else "")
    facts = "\n".join(f"- {name}: {value}" for name, value in {**made_by, "engine": states}.items())
    pictures = [path.relative_to(output) for path in sorted([*output.glob("*.png"), *output.glob("panels/*.png")])]
    shown = "\n\n".join(f"![{path.stem}]({path})" for path in pictures)
    parts = ["# Comparison", facts, "## Table 1", render(entries, TableForm.MD).strip()]
    parts += ["## Ranking", render_rankings(rankings(entries)).strip(), *(["## Figures", shown] if pictures else [])]
    _write(output / "comparison.md", "\n\n".join(parts) + "\n")


def write_figures(
    finished: Sequence[Finished], probes: Sequence[Finished], chosen: Sequence[str], output: Path
) -> None:
    """The chosen ones of FIGURES, of the runs whose PSNR is a number; `probes` are those of the noise sweep."""
    seen = [each for each in finished if each.entry.psnr is not None and math.isfinite(each.entry.psnr)]
    if "panels" in chosen:
        write_panels(seen, output / "panels")
    if "iterations" in chosen:
        write_curves(seen, output)
    if "noise" in chosen:
        write_noise_sweep(probes, output)


def _write(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(text)

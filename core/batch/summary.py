"""Summary of a batch: a row for each scan and method, from the result files that are there."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from udig_recon.core.batch.volumes import RECORD, BatchVolume
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.quality.rating import Rating, worst
from udig_recon.core.results import hdf5


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """A scan by a method; means over its slices, the seconds of all of them, and their worst rating."""

    scan: str
    method: str  # empty: the scan itself cannot be used
    status: str  # done, missing or failed
    file: str = ""  # of the result, in the folder of the batch
    slices: int | None = None
    rating: str = ""
    reasons: str = ""
    data_residual: float | None = None  # |A x - y| / |y|
    noise_discrepancy: float | None = None
    psnr: float | None = None  # dB
    ssim: float | None = None
    seconds: float | None = None  # of the clock
    error: str = ""


def summary_row(volume: BatchVolume) -> SummaryRow:
    """The row of a volume: `done` with its metrics where its result file is there, else `missing`."""
    missing = SummaryRow(scan=volume.scan.file.name, method=volume.label, status="missing")
    if not volume.is_computed():
        return missing
    path = volume.path(RECORD)
    with hdf5.open_result(path) as stored:
        slices = [(each.curves, each.rating) for each in stored.slices()]
    ratings = {number: rating for number, (_, rating) in zip(volume.slices, slices, strict=True) if rating is not None}
    rating = worst(ratings) if ratings else Rating("unrated", ())
    curves = [curves for curves, _ in slices]
    return replace(
        missing,
        status="done",
        file=path.relative_to(volume.options.output).as_posix(),
        slices=len(slices),
        rating=rating.level,
        reasons="; ".join(rating.reasons),
        seconds=math.fsum(values[-1] for each in curves if (values := each.get("seconds"))),
        data_residual=_mean(curves, "data_residual"),
        noise_discrepancy=_mean(curves, "noise_discrepancy"),
        psnr=_mean(curves, "psnr"),
        ssim=_mean(curves, "ssim"),
    )


def write_summary(rows: Sequence[SummaryRow], path: Path) -> None:
    """Write the rows as CSV, nothing rounded. Raises OSError."""
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(SummaryRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _mean(curves: Sequence[Mapping[str, list[float]]], name: str) -> float | None:
    """Mean over the slices of the last value of a curve; None where a slice has none."""
    last = [values[-1] for each in curves if (values := each.get(name))]
    return statistics.fmean(last) if last and len(last) == len(curves) else None

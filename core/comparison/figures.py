"""Figures of a comparison, as in the paper: noise sweep (1), panels (3 and 4), PSNR during the run (5)."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from udig_recon.core import formats
from udig_recon.core.batch.volumes import file_name
from udig_recon.core.comparison.line_plots import Curve, line_plot
from udig_recon.core.comparison.running import FinishedRun
from udig_recon.core.comparison.stored import Image
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.metrics import METRICS
from udig_recon.core.parameters.setting import Setting
from udig_recon.core.results import nifti
from udig_recon.core.results.output_format import ResultInfo, scan_attributes
from udig_recon.core.results.outputs import write_result
from udig_recon.core.results.png import insets_png
from udig_recon.core.results.store import SliceResult

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Standard deviations of the noise on the truth that is the network's input, in units of the normalised image."""


def noise_sweep(updates: int) -> list[Setting]:
    """The runs of figure 1, `updates` long: the input is the truth with noise of each level, or noise alone."""
    parameters = {"method": "dip_probe", "iterations": updates}
    return [
        Setting(f"dip_probe input_noise={sigma}", {**parameters, "input_noise": sigma}) for sigma in (*SIGMAS, None)
    ]


def write_noise_sweep(finished: Iterable[FinishedRun], folder: Path) -> None:
    """`noise.png` and `noise.csv`: highest PSNR of a run, mean over the runs, by sampling and noise of the input."""
    best: dict[str, dict[float | None, list[float]]] = {}
    for run, result in finished:
        levels = best.setdefault(run.scan.sampling, {})
        levels.setdefault(getattr(run.method, "input_noise", None), []).append(max(result.fields["curves"]["psnr"]))
    curves: dict[str, Curve] = {}
    rows: list[Sequence[Any]] = []
    for sampling, levels in best.items():
        means = {sigma: float(np.mean(values)) for sigma, values in levels.items()}
        rows += [(sampling, "noise alone" if sigma is None else sigma, mean) for sigma, mean in means.items()]
        sigmas = [sigma for sigma in means if sigma is not None]
        curves[sampling] = (sigmas, [means[sigma] for sigma in sigmas])
        if None in means:
            curves[f"{sampling}, noise alone"] = ((SIGMAS[0], SIGMAS[-1]), (means[None], means[None]))
    if curves:
        title = "Deep image prior whose input is the truth with noise"
        axes = ("sigma of the noise on the input", "best PSNR, dB")
        with atomic_write(folder / "noise.png") as part:
            part.write_bytes(line_plot(title, axes, curves, logarithmic=True))
    _write_csv(folder / "noise.csv", ("sampling", "sigma", "best_psnr"), rows)


def write_panels(finished: Iterable[FinishedRun], folder: Path) -> None:
    """A picture for each slice, of the first seed: the reference, then each method with zoom and error of one part.

    Without a reference: the methods, with the same part enlarged.
    """
    slices: dict[str, list[FinishedRun]] = {}
    for each in finished:
        if each.run.seed == 0:
            slices.setdefault(f"{each.run.scan.name}-{each.run.slice}", []).append(each)
    for name, runs in slices.items():
        run = runs[0].run
        scan = formats.read(run.scan.path, [run.slice])
        truth = None if scan.reference is None else scan.reference[0]
        images = [(_title(each), each.result.image) for each in runs]
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as part:
            title = f"reference\n{run.scan.sampling}"
            part.write_bytes(insets_png(title, truth, images, spacing_mm=scan.pixel_spacing_mm))


def write_images(finished: Iterable[FinishedRun], folder: Path) -> None:
    """`SCAN/METHOD.nii.gz`, the volumes of which all slices are there; `-seed-N` is in the names of further seeds.

    Spacing, orientation and position are the scan's.
    """
    volumes: dict[tuple[str, str, int], dict[int, FinishedRun]] = {}
    for each in finished:
        volumes.setdefault((each.run.scan.name, each.run.label, each.run.seed), {})[each.run.slice] = each
    for (scan_name, label, seed), slices in volumes.items():
        scan = next(iter(slices.values())).run.scan
        name = f"{file_name(label)}{f'-seed-{seed}' if seed else ''}{nifti.FORMAT.suffix}"
        path = folder / scan_name / name
        if slices.keys() != set(scan.slices):
            path.unlink(missing_ok=True)  # of other parameters or slices
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        header = asdict(scan.header)
        attributes = {"slice_numbers": list(scan.slices), **scan_attributes(header, scan.slices)}
        results = (_as_slice(slices[number].result.image) for number in scan.slices)
        write_result(results, ResultInfo(len(slices), attributes), {path: nifti.FORMAT})


def _as_slice(image: Image) -> SliceResult:
    return SliceResult(image=image, image_complex=None, direct=image, reference=None, curves={})


def write_curves(finished: Iterable[FinishedRun], folder: Path) -> None:
    """PSNR during the run, mean over the runs of a method at a sampling, as plots and `curves.csv`.

    `updates-*.png` holds the methods that fit a network, by their updates, `iterations-*.png` the others. Of scans
    without references `residual-updates-*.png` and `residual-iterations-*.png` show the data residual.
    """
    groups: dict[tuple[str, str, str], dict[str, list[Curve]]] = {}
    for run, result in finished:
        curves = result.fields["curves"]
        axis, x = ("iterations", curves["iteration"])
        if result.fields["optimizer_steps"] > 0:
            axis, x = ("updates", curves["optimizer_steps"])
        metric = "psnr" if "psnr" in curves else "data_residual"
        group = groups.setdefault((metric, axis, run.scan.sampling), {})
        group.setdefault(run.label, []).append((x, curves[metric]))
    rows: list[Sequence[Any]] = []
    for (metric, axis, sampling), methods in groups.items():
        means = {label: _mean(curves) for label, curves in methods.items()}
        for label, (positions, values) in means.items():
            rows += [(label, sampling, axis, at, metric, value) for at, value in zip(positions, values, strict=True)]
        lines = {label: curve for label, curve in means.items() if len(curve[0]) > 1}
        if lines:
            kind = "" if metric == "psnr" else "residual-"
            with atomic_write(folder / f"{kind}{axis}-{sampling}.png".replace(" ", "-")) as part:
                title = f"{METRICS[metric].title} during the run, {sampling}"
                part.write_bytes(line_plot(title, (axis, METRICS[metric].heading), lines))
    _write_csv(folder / "curves.csv", ("method", "sampling", "axis", "at", "metric", "value"), rows)


def _title(finished: FinishedRun) -> str:
    entry = finished.entry
    if entry.psnr is not None:
        return f"{entry.method}\nPSNR {entry.psnr:.2f} dB, SSIM {entry.ssim:.3f}"
    return f"{entry.method}\nresidual {entry.data_residual:.4f}{'' if entry.rating is None else f', {entry.rating}'}"


def _mean(curves: Sequence[Curve]) -> Curve:
    """Mean of curves, at the positions of the longest one; a curve that ends earlier keeps its last value."""
    positions = max((x for x, _ in curves), key=lambda x: x[-1])
    return positions, np.mean([np.interp(positions, x, y) for x, y in curves], axis=0).tolist()


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)

"""Figures of a comparison, as in the paper: noise sweep (1), panels (3 and 4), PSNR during the run (5)."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from udig_recon.core import formats
from udig_recon.core.comparison.line_plots import Curve, line_plot
from udig_recon.core.comparison.plan import Setting
from udig_recon.core.comparison.running import FinishedRun
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.results.png import insets_png

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
    """A picture for each slice, of the first seed: the reference, then each method with zoom and error of one part."""
    slices: dict[str, list[FinishedRun]] = {}
    for each in finished:
        if each.run.seed == 0:
            slices.setdefault(f"{each.run.scan.name}-{each.run.slice}", []).append(each)
    folder.mkdir(parents=True, exist_ok=True)
    for name, runs in slices.items():
        run = runs[0].run
        scan = formats.read(run.scan.path, [run.slice])
        truth = np.asarray(scan.reference)[0]
        images = [
            (f"{each.run.label}\nPSNR {each.entry.psnr:.2f} dB, SSIM {each.entry.ssim:.3f}", each.result.image)
            for each in runs
        ]
        with atomic_write(folder / f"{name}.png") as part:
            title = f"reference\n{run.scan.sampling}"
            part.write_bytes(insets_png(title, truth, images, spacing_mm=scan.pixel_spacing_mm))


def write_curves(finished: Iterable[FinishedRun], folder: Path) -> None:
    """PSNR during the run, mean over the runs of a method at a sampling, as plots and `curves.csv`.

    `updates-*.png` holds the methods that fit a network, by their updates, `iterations-*.png` the others.
    """
    groups: dict[tuple[str, str], dict[str, list[Curve]]] = {}
    for run, result in finished:
        curves = result.fields["curves"]
        axis, x = ("iterations", curves["iteration"])
        if result.fields["optimizer_steps"] > 0:
            axis, x = ("updates", curves["optimizer_steps"])
        groups.setdefault((axis, run.scan.sampling), {}).setdefault(run.label, []).append((x, curves["psnr"]))
    rows: list[Sequence[Any]] = []
    for (axis, sampling), methods in groups.items():
        means = {label: _mean(curves) for label, curves in methods.items()}
        for label, (positions, values) in means.items():
            rows += [(label, sampling, axis, at, psnr) for at, psnr in zip(positions, values, strict=True)]
        lines = {label: curve for label, curve in means.items() if len(curve[0]) > 1}
        if lines:
            with atomic_write(folder / f"{axis}-{sampling}.png".replace(" ", "-")) as part:
                part.write_bytes(line_plot(f"PSNR during the run, {sampling}", (axis, "PSNR, dB"), lines))
    _write_csv(folder / "curves.csv", ("method", "sampling", "axis", "at", "psnr"), rows)


def _mean(curves: Sequence[Curve]) -> Curve:
    """Mean of curves, at the positions of the longest one; a curve that ends earlier keeps its last value."""
    positions = max((x for x, _ in curves), key=lambda x: x[-1])
    return positions, np.mean([np.interp(positions, x, y) for x, y in curves], axis=0).tolist()


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_write(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)

"""Early stopping against the best iterate by the truth: PSNR lost, updates saved, cost of a refit. Prints Markdown.

`python -m benchmarks.accuracy.selection --images DATA --output FOLDER`: slices of two people held out of training, at
192 x 192 pixels, the brain's own matrix; 6 coils, lines at 4x and 8x, complex noise of 0.5, 2 and 5 % of the maximum;
30 and 18 views with 1e6, 1e5 and 1e4 photons a ray. Each method runs once without the held-out measurements, stopped as
`udig_recon.core.selection.early_stopping` does, and once with all of them; every iterate is compared with the truth.
Results in FOLDER are computed once.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from benchmarks.data.cases import Case, Source, crop_or_pad, mask, person
from udig_recon.core import algorithms, metrics
from udig_recon.core.acquisition import Acquisition, CTAcquisition, Modality, MRIAcquisition
from udig_recon.core.comparison.stored import Made, Measurement, Result, measure_once, read_result
from udig_recon.core.inputs import Inputs
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.parameters import EarlyStoppingParameters, parse
from udig_recon.core.problem import slice_problem
from udig_recon.core.selection.early_stopping import EXPLAINED_DISCREPANCY, MIN_GAIN, VALIDATIONS, HoldoutValidation
from udig_recon.core.selection.holdout import train_mask
from udig_recon.core.selection.output_variance import with_variance
from udig_recon.core.simulation import WATER_1_PER_MM, birdcage_maps, simulate_ct, simulate_mri
from udig_recon.core.training.augmentation import with_phase
from udig_recon.core.training.dataset import normalise

CPU = torch.device("cpu")
SIZE = 192
COILS = 6
SOURCES = {
    "first": (
        Source("mri/brain_gd_t1.nii.gz", 2, (50, 80), Modality.MRI),
        Source("ct/upper_abdomen_hu.nii.gz", 2, (4, 16), Modality.CT),
    ),
    "check": (
        Source("mri/brain_gd_t1.nii.gz", 2, (40, 65, 100), Modality.MRI),
        Source("ct/upper_abdomen_hu.nii.gz", 2, (6, 8, 12), Modality.CT),
    ),
    "unseen": (
        Source("mri/brain_gd_t1.nii.gz", 2, (45, 72, 92), Modality.MRI),
        Source("ct/upper_abdomen_hu.nii.gz", 2, (2, 10, 18), Modality.CT),
    ),
}
"""The slices that the rule was found on, those that its limits were set by, and those that it then met first."""
NOISE = (0.005, 0.02, 0.05)
PHOTONS = (1e6, 1e5, 1e4)
METHODS: dict[str, dict[str, Any]] = {
    "cg_sense": {"iterations": 40},
    "sirt": {"iterations": 400},
    "red_diff": {"steps": 100},
    "dip": {"iterations": 300, "learning_rate": 3e-3, "averaging": 0.9},
}
"""Budgets that reach the best iterate in most cases; with the defaults of `dip` that would take hours."""
LEFT_OUT: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "lines or views, 0.1": {"holdout_share": 0.1, "holdout": "lines"},
    "samples, 0.1": {"holdout_share": 0.1},
    "samples, 0.2": {"holdout_share": 0.2},
    "lines or views, 0.25": {"holdout_share": 0.25, "holdout": "lines"},
}
TRIED = {"cg_sense": 5, "sirt": 5, "red_diff": 2, "dip": 1}
"""How many of them, by what a run costs."""
PATIENCE = (None, 0.15, 0.4)
"""Each method's own first."""


class Curves(NamedTuple):
    """Of a run, one value for each iterate that was looked at, and the PSNR of every one."""

    psnr: NDArray[np.float64]  # dB, by step
    steps: NDArray[np.int64]  # that were looked at
    residual: NDArray[np.float64]
    discrepancy: NDArray[np.float64]
    variance: NDArray[np.float64]


def cases(folder: Path, sources: Sequence[Source], slices: int, size: int) -> Iterator[tuple[Modality, str, Case]]:
    """Modality, noise and scan, of the first slices of each source."""
    for source in sources:
        mri = source.modality is Modality.MRI
        volume = nibabel.load(folder / source.file)
        values = np.asarray(volume.dataobj, np.float32)
        values = normalise(values, source.modality) if mri else WATER_1_PER_MM * np.clip(1 + values / 1000, 0, None)
        for index in source.slices[:slices]:
            plane = np.rot90(np.take(values, index, source.axis))
            extent = max(plane.shape)
            pixel_mm = float(volume.header.get_zooms()[0]) * extent / size
            plane = crop_or_pad(plane, extent)
            for sampling in ("4x", "8x") if mri else ("30 views", "18 views"):
                for level in NOISE if mri else PHOTONS:
                    name = f"{level:.1%}" if mri else f"{level:.0e} photons"
                    simulate = partial(mri_scan if mri else ct_scan, plane, size, pixel_mm, sampling, index, level)
                    yield source.modality, name, Case(person(source), f"{sampling}, {name}", index, simulate)


def mri_scan(
    plane: NDArray[np.float32], size: int, _: float, sampling: str, index: int, noise: float
) -> MRIAcquisition:
    image = torch.from_numpy(reduced(plane, size))[None, None]
    channels = with_phase(image, torch.Generator().manual_seed(index))[0].numpy()
    numbers = np.random.default_rng((index, int(sampling[0])))
    return simulate_mri(
        (channels[0] + 1j * channels[1]).astype(np.complex64),
        birdcage_maps(COILS, (size, size)),
        mask(sampling, (size, size), numbers),
        numbers,
        noise_level=noise,
        with_maps=True,
    )


def ct_scan(
    plane: NDArray[np.float32], size: int, pixel_mm: float, sampling: str, index: int, photons: float
) -> CTAcquisition:
    fine = reduced(plane, 2 * size)
    offset = np.arange(2 * size) - size + 0.5
    fine[np.hypot(offset[:, None], offset) > size - 2] = 0
    views = int(sampling.split()[0])
    numbers = np.random.default_rng((index, views))
    return simulate_ct(fine, views, photons, numbers, pixel_size_mm=pixel_mm, supersampling=2)


def reduced(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The means of a square image over the pixels of a coarser grid."""
    return F.interpolate(torch.from_numpy(image)[None, None], size=(size, size), mode="area")[0, 0].numpy()


def followed(scan: Acquisition, method: EarlyStoppingParameters) -> Made:
    """A run to its end: what every iterate is worth, by the truth and by what is left out."""
    problem = slice_problem(scan, 0, CPU)
    assert problem.reference is not None
    A, rng = problem.operator, torch.Generator().manual_seed(0)
    estimate = Inputs(problem.measurements, A).cg_estimate()
    scale = intensity_scale(estimate)
    y = problem.measurements / scale
    kept = train_mask(A, method, rng)
    inputs = Inputs(y, A, problem.side_images(estimate, scale))
    validation = HoldoutValidation(inputs, A.measured.clone() if kept is None else kept)
    told: dict[str, list[float]] = {name: [] for name in Curves._fields}
    bare = method.model_copy(update={"holdout_share": 0.0})
    for it in with_variance(algorithms.run(validation.training, bare, rng), None):
        told["psnr"].append(metrics.psnr(problem.magnitude(it.image * scale), problem.reference))
        if it.step == it.steps or it.step % max(1, it.steps // VALIDATIONS) == 0:
            residual, discrepancy, _ = validation.score(it.image)
            assert it.iterate_variance is not None
            told["steps"].append(it.step)
            told["residual"].append(residual)
            told["discrepancy"].append(discrepancy)
            told["variance"].append(float(it.iterate_variance))
    return None, told


def curves(result: Result) -> Curves:
    return Curves(*(np.asarray(result.fields[name]) for name in Curves._fields))


class Row(NamedTuple):
    """A method on a scan."""

    modality: Modality
    noise: str
    method: str
    left_out: str
    part: Curves
    whole: Curves


class Choice(NamedTuple):
    """What a rule made of a run."""

    best: float  # dB, of its best iterate
    loss: float  # dB, of the one chosen against that
    step: int  # chosen
    stopped: int  # updates done
    steps: int

    @property
    def saved(self) -> float:
        return 1 - self.stopped / self.steps


def by_least(
    told: Curves,
    values: NDArray[np.float64],
    patience: float,
    enough: NDArray[np.bool_],
    gain: float = 0.0,
    earliest: float = 0.0,
    explained: float = np.inf,
) -> Choice:
    """The iterate of the least value up to where it had not fallen by `gain` for a share of the run or was `enough`.

    Iterates are compared anew from the first one of discrepancy `explained`, and the run waits for that one.
    """
    steps = len(told.psnr)
    looks = np.flatnonzero(told.steps >= earliest * steps)
    best = mark = looks[0]
    waits = True
    for look in looks:
        step = told.steps[look]
        if waits and told.discrepancy[look] <= explained:
            best, mark, waits = look, look, False
        if values[look] < values[best]:
            best = look
        if values[look] < (1 - gain) * values[mark]:
            mark = look
        if enough[look] or (not waits and step - told.steps[mark] >= patience * steps):
            break
    at = int(told.steps[best])
    top = float(told.psnr.max())
    return Choice(top, top - float(told.psnr[at - 1]), at, int(step), steps)


def choices(row: Row, patience: float | None = None) -> dict[str, Choice]:
    """What each rule makes of a run; the first is the engine's."""
    parameters, told = parse({"method": row.method}), row.part
    assert isinstance(parameters, EarlyStoppingParameters)
    patience = patience or parameters.patience
    looks = np.arange(len(told.steps))
    explained, enough = told.discrepancy <= EXPLAINED_DISCREPANCY, told.discrepancy <= parameters.discrepancy
    until = explained.argmax() if explained.any() else looks[-1]
    errors, never, earliest = told.residual**2, np.zeros(len(looks), bool), parameters.min_progress
    return {
        "the engine's": by_least(told, errors, patience, enough, MIN_GAIN, earliest, EXPLAINED_DISCREPANCY),
        "any gain waited for": by_least(told, errors, patience, enough, 0, earliest, EXPLAINED_DISCREPANCY),
        "from the first iterate on": by_least(told, errors, patience, enough, MIN_GAIN, 0, EXPLAINED_DISCREPANCY),
        "before noise explains the misfit, too": by_least(told, errors, patience, enough, MIN_GAIN, earliest),
        "whatever the discrepancy": by_least(told, errors, patience, never, MIN_GAIN, earliest, EXPLAINED_DISCREPANCY),
        "held-out residual alone": by_least(told, errors, patience, never, MIN_GAIN),
        "its running mean of 5": by_least(told, smoothed(errors), patience, never, MIN_GAIN),
        "or discrepancy 1": by_least(told, errors, patience, explained, MIN_GAIN, earliest),
        "discrepancy 1 alone": by_least(told, np.abs(looks - until).astype(float), 1.0, explained),
        "output variance alone": by_least(told, told.variance, patience, never),
    }


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray([values[max(0, k - 4) : k + 1].mean() for k in range(len(values))])


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Each method on each scan, from the disk or else computed."""
    for name in options.methods:
        for modality, noise, case in cases(options.images, SOURCES[options.sources], options.slices, options.size):
            parameters = {"method": name, **METHODS[name]}
            if modality not in parse(parameters).modalities:
                continue
            whole = of(case, options, {**parameters, "holdout_share": 0.0})
            for left_out in list(LEFT_OUT)[: TRIED[name] if options.sources == "first" else 1]:
                part = of(case, options, {**parameters, **LEFT_OUT[left_out]})
                if part is not None and whole is not None:
                    yield Row(modality, noise, name, left_out, part, whole)


def of(case: Case, options: argparse.Namespace, parameters: Mapping[str, Any]) -> Curves | None:
    """The curves of a run; None where it is not on disk and nothing is to be computed."""
    method = parse(dict(parameters))
    assert isinstance(method, EarlyStoppingParameters)
    run = Measurement(method.method, {"parameters": parameters, "size": options.size, "coils": COILS})
    folder = options.output / case.name
    if options.report_only:
        result = read_result(folder, run)
        return None if result is None else curves(result)
    return curves(measure_once(folder, run, lambda: followed(case.scan, method)))


def report(table: Sequence[Row]) -> str:
    """Tables: by method and noise, with the price; by what is left out, rule and patience."""
    own = [row for row in table if row.left_out == "as it comes"]
    lines = [
        "| method | scan | noise | runs | best dB | lost, mean | worst | saved | with refit | price | refit lost, mean "
        "| worst | against the end, mean | least |",
        "|" + "---|" * 14,
    ]
    for method, modality, noise in dict.fromkeys((row.method, row.modality, row.noise) for row in own):
        some = [row for row in own if (row.method, row.modality, row.noise) == (method, modality, noise)]
        lines.append(f"| `{method}` | {modality.upper()} | {noise} | {summary(some)} |")
    for method in dict.fromkeys(row.method for row in own):
        lines.append(f"| `{method}` | | | {summary([row for row in own if row.method == method])} |")
    lines += [f"| all | | | {summary(own)} |", ""]
    lines += ["| methods | left out | chosen by | patience | runs | lost, mean | worst | saved |", "|" + "---|" * 8]
    for patience in PATIENCE:
        lines += list(by_rule(own, "all", "as it comes", patience))[: None if patience is None else 1]
    for count in sorted(set(TRIED.values()) - {1}, reverse=True):
        methods = [method for method in TRIED if TRIED[method] >= count]
        for left_out in list(LEFT_OUT)[:count]:
            some = [row for row in table if row.left_out == left_out and row.method in methods]
            lines += list(by_rule(some, ", ".join(f"`{method}`" for method in methods), left_out))[:1]
    return "\n".join(lines) + "\n"


def summary(some: Sequence[Row]) -> str:
    picked = [choices(row)["the engine's"] for row in some]
    price = np.mean([row.whole.psnr.max() - row.part.psnr.max() for row in some])
    # The run on all data has the same random numbers, so that its iterate of that number is what a refit gives.
    both = list(zip(some, picked, strict=True))
    missed = np.asarray([row.whole.psnr.max() - row.whole.psnr[choice.step - 1] for row, choice in both])
    end = np.asarray([row.whole.psnr[choice.step - 1] - row.whole.psnr[-1] for row, choice in both])
    best, loss = (np.asarray([getattr(choice, name) for choice in picked]) for name in ("best", "loss"))
    saved = np.mean([choice.saved for choice in picked])
    refit = np.mean([(choice.stopped + choice.step) / choice.steps for choice in picked])
    return (
        f"{len(some)} | {best.mean():.2f} | {loss.mean():.2f} | {loss.max():.2f} | {saved:.0%} | {refit:.0%} | "
        f"{price:.2f} | {missed.mean():.2f} | {missed.max():.2f} | {end.mean():+.2f} | {end.min():+.2f}"
    )


def by_rule(some: Sequence[Row], methods: str, left_out: str, patience: float | None = None) -> Iterator[str]:
    picked = [choices(row, patience) for row in some]
    for rule in picked[0] if picked else ():
        loss = np.asarray([choice[rule].loss for choice in picked])
        saved = np.mean([choice[rule].saved for choice in picked])
        cells = f"{len(some)} | {loss.mean():.2f} | {loss.max():.2f} | {saved:.0%}"
        yield f"| {methods} | {left_out} | {rule} | {patience or 'its own'} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="all by default")
    parser.add_argument("--sources", choices=list(SOURCES), default="first", help="slices that the rule was found on")
    parser.add_argument("--slices", type=int, default=3, help="of each person, at most")
    parser.add_argument("--size", type=int, default=SIZE, help="pixels a side")
    parser.add_argument("--report-only", action="store_true", help="compute nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    text = report(list(rows(options)))
    (options.output / "selection.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

"""The ablation of `standard`, and the paper's figures 1 and 5 drawn anew, on people kept out of all training.

`python -m benchmarks.figures --images FOLDER --output FOLDER [ablation figure1 figure5]`. Results are stored under the
output and never computed twice, as those of `benchmarks.quality`; they may share a folder.

Figures 1 and 5 take the middle 128 x 128 pixels of a brain, 15 coils with known maps, 4x lines; the updates of the
network are Adam's with the paper's step 1e-4.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.cases import Case, Source, ct_cases, mri_cases, mri_images, mri_scan, person
from benchmarks.plots import Curve, lines_png
from benchmarks.quality import CPU, compute, of_engine
from benchmarks.stored import Made, Result, Run, measured
from core import algorithms, metrics
from core.acquisition import Modality
from core.cards import find_card
from core.iterates import Iterates
from core.parameters import DIPProbe, complete, parse
from core.reconstruct import SliceProblem, reconstruct, slice_problem
from core.unit import unit

BRAIN = Source("mri/brain_gd_t1.nii.gz", 2, (80,), Modality.MRI)
BODY = Source("ct/upper_abdomen_hu.nii.gz", 2, (10,), Modality.CT)
SEEDS = (1, 2)
"""Further ones of `standard`: what differences mean nothing."""
SIZE = 128
RATE = 1e-4
SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the noise on the truth that is the network's input, in units of the normalised image."""
JUDGED_EVERY = 10  # updates

CHANGES: tuple[dict[str, Any], ...] = (
    *({"start": start} for start in ("adjoint", "cg_sense", "fbp", "sirt", "tv")),
    *({"noise_level": level} for level in (0.05, 0.2, 0.5)),
    *({"final_noise_level": level} for level in (0.002, 0.02)),
    *({"noise_scale": scale} for scale in (0.0, 0.5, 1.0)),
    {"noise_scale": 1.0, "last_noisy_level": 0.05},
    *({"noise_scale": 1.0, "samples": samples} for samples in (1, 4)),
    {"prior_calls": 4},
    {"noise_scale": 1.0, "prior_calls": 4, "sampler": "ancestral"},
    {"purification_period": 2},
    *({"consistency_iterations": iterations} for iterations in (0, 3, 16)),
    *({"consistency_weight": weight} for weight in (0.01, 1.0)),
    {"symmetries": False},
    {"fit_maps": False},
    *({"inner_iterations": updates} for updates in (0, 2)),
    {"inner_iterations": 2, "network": "unet"},
    {"inner_iterations": 2, "autoencoding_weight": 0.0},
    {"inner_iterations": 2, "learning_rate": 1e-3},
    *({"output": output} for output in ("last", "mean", "consistent")),
    *({"held_out_share": share} for share in (0.0, 0.05)),
    *({"outer_iterations": iterations} for iterations in (25, 50, 100)),
)
"""What is changed against `standard`, one at a time. A knob that tells only with noise is changed together with it."""


def ablation(options: argparse.Namespace) -> str:
    """Markdown: dB of `standard`, and of each change the difference."""
    cases = [
        *mri_cases(options.images, BRAIN, ("4x",)),
        *ct_cases(options.images, BODY, (18,)),
    ]
    changes = [change for change in CHANGES if not options.knobs or set(change) & set(options.knobs)]
    columns = []
    for case in cases:
        base = compute(case, [_run(case, {}, options)], options.output)[0]
        again = [compute(case, [_run(case, {}, options, seed)], options.output)[0] for seed in SEEDS]
        changed = [_changed(case, change, base, options) for change in changes]
        columns.append([f"{base.psnr:.2f} dB, {base.fields['seconds']:.0f} s"])
        columns[-1] += [_difference(result, base) for result in (*again, *changed)]
    fixed = "".join(f", `{knob}` {value}" for knob, value in options.set.items())
    labels = [f"`standard`{fixed}", *(f"seed {seed}" for seed in SEEDS), *map(_label, changes)]
    head = (
        f"| against `standard`, dB (SSIM) | {' | '.join(case.name for case in cases)} |\n{'|---' * (len(cases) + 1)}|"
    )
    rows = [(label, *cells) for label, *cells in zip(labels, *columns, strict=True) if any(cells)]
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _run(case: Case, change: Mapping[str, Any], options: argparse.Namespace, seed: int = 0) -> Any:
    modality = Modality.CT if case.sampling.endswith("views") else Modality.MRI
    knobs = {"method": "udig_dip", "preset": "standard", **options.set, **change}
    return of_engine(_label(change) if change else "standard", knobs, modality, options.priors, seed)


def _changed(case: Case, change: Mapping[str, Any], base: Result, options: argparse.Namespace) -> Result | None:
    """The result of a change; None where it changes nothing or is not for this modality."""
    is_ct = case.sampling.endswith("views")
    if change.get("start") in (() if is_ct else ("fbp", "sirt")):
        return None
    run, make = _run(case, change, options)
    if run.key["parameters"] == base.fields["key"]["parameters"]:
        return None
    return compute(case, [(run, make)], options.output)[0]


def _label(change: Mapping[str, Any]) -> str:
    return ", ".join(f"{knob} {value}" for knob, value in change.items())


def _difference(result: Result | None, base: Result) -> str:
    if result is None:
        return ""
    return f"{result.psnr - base.psnr:+.2f} ({result.fields['ssim'] - base.fields['ssim']:+.3f})"


class Small(NamedTuple):
    """A slice small enough for thousands of updates, its truth known with its phase."""

    name: str
    problem: SliceProblem
    truth: Tensor  # (1, 2, SIZE, SIZE), normalised
    scale: float  # the scan's unit is that many of it


def small(images: Path, index: int) -> Small:
    source = BRAIN._replace(slices=(index,))
    ((_, image),) = mri_images(images, source, SIZE)
    problem = slice_problem(mri_scan(image, "4x", index, with_maps=True), 0, CPU)
    rough = algorithms.start(problem.measurements, problem.operator, "cg_sense", torch.Generator().manual_seed(0))
    truth = torch.from_numpy(np.stack([image.real, image.imag])[None].copy())
    scale = unit(rough)
    return Small(f"{person(source)}-{index}-4x-{SIZE}", problem, truth / scale, scale)


def figure_1(options: argparse.Namespace) -> str:
    """DIP whose input is the truth with noise: best PSNR on its way against the noise. Markdown of the values."""
    scan = small(options.images, options.slice)
    folder = options.output / scan.name
    reached, inputs = [], []
    for sigma in (*SIGMAS, math.inf):
        key = {"figure": 1, "sigma": sigma, "updates": options.updates, "rate": RATE, "every": JUDGED_EVERY}
        run = Run(f"figure 1 sigma {sigma:g}", key)
        fields = measured(folder, run, partial(_best_of_dip, scan, sigma, options.updates)).fields
        print(f"{scan.name}: {run.label}: {fields['best']:.2f} dB at update {fields['best_at']}", flush=True)
        reached.append(fields["best"])
        inputs.append(fields["input"])
    curves: dict[str, Curve] = {
        "DIP, input truth + noise": (SIGMAS, reached[:-1]),
        "the input itself": (SIGMAS, inputs[:-1]),
        "DIP, input of noise alone": (SIGMAS[:: len(SIGMAS) - 1], [reached[-1]] * 2),
    }
    title = f"DIP by the noise of its input: {SIZE} x {SIZE} brain, 4x, {options.updates} updates"
    axes = ("sigma of the noise on the input", "best PSNR, dB")
    (options.output / "figure-1.png").write_bytes(lines_png(title, axes, curves, logarithmic=True))
    rows = zip((*SIGMAS, "noise alone"), inputs, reached, strict=True)
    return "\n".join(
        ["| sigma | input dB | DIP's best dB |", "|---|---|---|", *(f"| {s} | {a:.2f} | {b:.2f} |" for s, a, b in rows)]
    )


def _best_of_dip(scan: Small, sigma: float, updates: int) -> Made:
    """min |A f(z) - y|^2 from z = truth + sigma n, or from n alone where sigma is infinite."""
    noise = None if math.isinf(sigma) else sigma
    method = DIPProbe(iterations=updates, learning_rate=RATE, input_noise=noise)
    A, y, images = scan.problem.operator, scan.problem.measurements / scan.scale, {"reference": scan.truth}
    iterates = algorithms.run(y, A, method, torch.Generator().manual_seed(0), None, None, images)
    levels = {it.step: _psnr(scan, it.image) for it in iterates if it.step % JUDGED_EVERY == 0}
    best_at = max(levels, key=lambda step: levels[step])
    z = algorithms.network_input(y, A, method, images, torch.Generator().manual_seed(0))
    told = {"best": levels[best_at], "best_at": best_at, "input": _psnr(scan, z)}
    return None, {**told, "steps": list(levels), "levels": list(levels.values())}


def _psnr(scan: Small, image: Tensor) -> float:
    """Of a normalised image."""
    assert scan.problem.reference is not None
    return metrics.psnr(scan.problem.magnitude(image * scan.scale), scan.problem.reference)


def figure_5(options: argparse.Namespace) -> str:
    """PSNR against updates of the network: DIP, uDiG-DIP with and without its autoencoding term. Markdown."""
    scan = small(options.images, options.slice)
    card = find_card(options.prior, Modality.MRI, options.priors)
    dip = {"method": "dip", "iterations": options.updates, "learning_rate": RATE, "averaging": 0.0}
    dip["held_out_share"] = 0.0
    paper = {"method": "udig_dip", "preset": "paper", "prior": options.prior, "prior_calls": options.prior_calls}
    paper["outer_iterations"] = max(1, options.updates // 2)
    methods = {"DIP": dip} | {
        f"uDiG-DIP, lambda = {weight:g}": {**paper, "autoencoding_weight": weight} for weight in (1.0, 0.0)
    }
    curves: dict[str, Curve] = {}
    for name, knobs in methods.items():
        method = complete(parse(knobs), Modality.MRI)
        updates = getattr(method, "inner_iterations", 1)
        key = {"figure": 5, "parameters": method.model_dump(mode="json"), "prior": card.sha256, "every": JUDGED_EVERY}
        make = partial(_curve, scan, partial(reconstruct, scan.problem, method, seed=0, priors=options.priors), updates)
        fields = measured(options.output / scan.name, Run(f"figure 5 {name}", key), make).fields
        print(f"{scan.name}: {name}: {max(fields['levels']):.2f} dB, {fields['seconds']:.0f} s", flush=True)
        curves[name] = (fields["steps"], fields["levels"])
    title = f"{SIZE} x {SIZE} brain, 4x; the paper's settings, {options.prior_calls} call of the prior a purification"
    axes = ("updates of the network", "PSNR, dB")
    (options.output / "figure-5.png").write_bytes(lines_png(title, axes, curves))
    rows = [
        f"| {name} | {max(levels):.2f} | {steps[levels.index(max(levels))]} | {levels[-1]:.2f} |"
        for name, (steps, levels) in ((name, (list(x), list(y))) for name, (x, y) in curves.items())
    ]
    return "\n".join([f"| method | best dB | at update | dB after {options.updates} |", "|---|---|---|---|", *rows])


def _curve(scan: Small, iterates: Callable[[], Iterates], updates: int) -> Made:
    """PSNR on the way; `updates` of the network a step."""
    steps, levels = [], []
    assert scan.problem.reference is not None
    for it in iterates():
        if it.state is not None and (it.step % (JUDGED_EVERY // updates or 1) == 0 or it.step == it.steps):
            steps.append(it.step * updates)
            levels.append(metrics.psnr(scan.problem.magnitude(it.image), scan.problem.reference))
    return None, {"steps": steps, "levels": levels}


FIGURES: dict[str, Callable[[argparse.Namespace], str]] = {
    "ablation": ablation,
    "figure1": figure_1,
    "figure5": figure_5,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.figures or FIGURES:
        text = FIGURES[name](options)
        (options.output / f"{name}.md").write_text(text + "\n")
        print(text, flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", choices=list(FIGURES), help="all by default")
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--priors", type=Path, help="folder of priors beside the bundled ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--knobs", nargs="+", help="ablation: only the changes of these")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KNOB=JSON", help="ablation: of `standard` and every change alike"
    )
    parser.add_argument("--slice", type=int, default=80, help="figures 1 and 5: of the brain")
    parser.add_argument("--updates", type=int, default=4000, help="figures 1 and 5: of the network")
    parser.add_argument("--prior", help="figure 5: name of the MRI prior; the bundled one by default")
    parser.add_argument("--prior-calls", type=int, default=1, help="figure 5: a purification")
    options = parser.parse_args(arguments)
    options.set = {knob: json.loads(value) for knob, _, value in (pair.partition("=") for pair in options.set)}
    return options


if __name__ == "__main__":
    main()

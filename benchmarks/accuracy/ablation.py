"""The ablation of `standard` on people kept out of all training. Prints Markdown.

`python -m benchmarks.accuracy.ablation --images FOLDER --output FOLDER`. Results are stored under the output and
never computed twice, as those of `benchmarks.accuracy.quality`; they may share a folder.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.quality import compute, of_engine
from benchmarks.data.cases import BODY, BRAIN, Case, ct_cases, mri_cases
from udig_recon.core.acquisition import Modality
from udig_recon.core.comparison.stored import Result

SEEDS = (1, 2)
"""Further ones of `standard`: what differences mean nothing."""

CHANGES: tuple[dict[str, Any], ...] = (
    *({"start": start} for start in ("adjoint", "cg_sense", "fbp", "sirt", "tv")),
    *({"noise_level": level} for level in (0.05, 0.2, 0.5)),
    *({"final_noise_level": level} for level in (0.002, 0.02)),
    *({"noise_scale": scale} for scale in (0.0, 0.5, 1.0)),
    {"noise_scale": 1.0, "noise_until": 0.05},
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
    *({"holdout_share": share} for share in (0.0, 0.05)),
    *({"outer_iterations": iterations} for iterations in (25, 50, 100)),
)
"""Changes against `standard`, one at a time; a parameter that matters only with noise is changed together with it."""


def ablation(options: argparse.Namespace) -> str:
    """Markdown: dB of `standard`, and of each change the difference."""
    cases = [
        *mri_cases(options.images, BRAIN._replace(slices=(80,)), ("4x",)),
        *ct_cases(options.images, BODY._replace(slices=(10,)), (18,)),
    ]
    changes = [change for change in CHANGES if not options.parameters or set(change) & set(options.parameters)]
    columns = []
    for case in cases:
        base = compute(case, [_run(case, {}, options)], options.output)[0]
        again = [compute(case, [_run(case, {}, options, seed)], options.output)[0] for seed in SEEDS]
        changed = [_changed(case, change, base, options) for change in changes]
        columns.append([f"{base.psnr:.2f} dB, {base.fields['seconds']:.0f} s"])
        columns[-1] += [_difference(result, base) for result in (*again, *changed)]
    fixed = "".join(f", `{name}` {value}" for name, value in options.set.items())
    labels = [f"`standard`{fixed}", *(f"seed {seed}" for seed in SEEDS), *map(_label, changes)]
    head = (
        f"| against `standard`, dB (SSIM) | {' | '.join(case.name for case in cases)} |\n{'|---' * (len(cases) + 1)}|"
    )
    rows = [(label, *cells) for label, *cells in zip(labels, *columns, strict=True) if any(cells)]
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _run(case: Case, change: Mapping[str, Any], options: argparse.Namespace, seed: int = 0) -> Any:
    modality = Modality.CT if case.sampling.endswith("views") else Modality.MRI
    parameters = {"method": "udig_dip", "preset": "standard", **options.set, **change}
    return of_engine(_label(change) if change else "standard", parameters, modality, options.priors, seed)


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
    return ", ".join(f"{name} {value}" for name, value in change.items())


def _difference(result: Result | None, base: Result) -> str:
    if result is None:
        return ""
    return f"{result.psnr - base.psnr:+.2f} ({result.fields['ssim'] - base.fields['ssim']:+.3f})"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    text = ablation(options)
    (options.output / "ablation.md").write_text(text + "\n")
    print(text, flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--priors", type=Path, help="folder of priors beside the bundled ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parameters", nargs="+", help="only the changes of these")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="PARAMETER=JSON", help="of `standard` and every change alike"
    )
    options = parser.parse_args(arguments)
    options.set = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in options.set)}
    return options


if __name__ == "__main__":
    main()

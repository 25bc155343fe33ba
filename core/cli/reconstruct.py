"""Reconstruct a scan file without the service: `python -m udig_recon.core scan.h5 -o out.h5`."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from tqdm import tqdm

from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.cli.arguments import chosen_slices, invalid_knob, knobs
from udig_recon.core.device import prepared
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.formats.sandbox.client import ReaderLost
from udig_recon.core.formats.sandbox.local import opened_scan
from udig_recon.core.parameters import MAX_SEEDS, METHODS, Parameters, complete, parse, require, require_random
from udig_recon.core.priors.card import card_of, sha256_of
from udig_recon.core.quality.assess import assess
from udig_recon.core.quality.curves import Curves, with_quality
from udig_recon.core.quality.ensemble import ensemble
from udig_recon.core.reconstruct import Quality, slice_problem
from udig_recon.core.results import store as results
from udig_recon.core.slice_order import WarmStart, processing_order, reference_slices

COMMANDS = {
    "compare": "udig_recon.core.cli.compare",
    "train-prior": "udig_recon.core.cli.train_prior",
    "calibrate-ood": "udig_recon.core.cli.calibrate_ood",
    "convert-prior": "udig_recon.core.cli.convert_prior",
}
"""Further commands, `python -m udig_recon.core NAME ...`: the module whose main(arguments) runs each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the volume is written, 2 when the input cannot be used."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return int(importlib.import_module(COMMANDS[given[0]]).main(given[1:]))
    options = _parser().parse_args(given)
    try:
        _run(options)
    except ReconstructionError as error:
        return _refuse(str(error))
    except ReaderLost:
        return _refuse("the process that reads scans is killed again and again")
    except ValidationError as error:
        return _refuse(invalid_knob(error))
    except OSError as error:
        return _refuse(f"{error.filename or options.scan}: {error.strerror or error}")
    return 0


def _parser() -> argparse.ArgumentParser:
    others = f"further commands, each with a --help of its own: {', '.join(COMMANDS)}"
    parser = argparse.ArgumentParser(prog="python -m udig_recon.core", description=__doc__, epilog=others)
    parser.add_argument("scan", type=Path, help="fastMRI or sinogram HDF5, .npy or .npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="volume to write: .h5, .npy, .nii.gz or .png")
    parser.add_argument("--method", default="udig_dip", choices=list(METHODS))
    parser.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="KNOB=VALUE",
        help="knobs of the method, as preset=preview",
    )
    parser.add_argument("--slices", type=int, nargs="*", action="extend", help="slice numbers; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="mean and deviation of N seeds from --seed on"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N; a GPU by default where there is one")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; with more than one, rare runs differ a little"
    )
    parser.add_argument("--priors", type=Path, help="folder of diffusion priors beside the bundled ones")
    return parser


def _run(options: argparse.Namespace) -> None:
    target = _format(options.output)
    with opened_scan(options.scan) as scan:
        _reconstruct(options, target, scan)


def _reconstruct(options: argparse.Namespace, target: results.OutputFormat, scan: PreparedScan) -> None:
    header = scan.header
    method = complete(parse({"method": options.method, **knobs(options.set, "--set")}), header.modality)
    require(method, header.images)
    if not 1 <= options.seeds <= MAX_SEEDS:
        raise ReconstructionError(f"--seeds {options.seeds}: expected 1 to {MAX_SEEDS}")
    require_random(method, options.seeds)
    for warning in header.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    chosen = chosen_slices(options.slices, header)
    torch.set_num_threads(max(1, options.threads))
    device = prepared(options.device)
    volume = _volume(options, scan, method, chosen, device)
    finished = [volume[index] for index in chosen]
    _write(options.output, target, finished, _attributes(options, method, header, chosen, device))
    for index, result in zip(chosen, finished, strict=True):
        if result.prior_check is not None:
            sys.stderr.write(f"slice {index}: {result.prior_check.reason}\n")
        if result.rating is not None:
            sys.stderr.write(f"slice {index}: {result.rating}\n")


def _write(
    path: Path, target: results.OutputFormat, finished: list[results.SliceResult], attributes: dict[str, Any]
) -> None:
    if target is results.OutputFormat.H5:
        results.write_hdf5(path, finished, attributes)
        return
    volume = path.with_name(path.name + ".volume.h5")
    try:
        results.write_hdf5(volume, finished, attributes)
        results.convert(volume, path, target)
    finally:
        volume.unlink(missing_ok=True)


def _format(path: Path) -> results.OutputFormat:
    """What the name of the output asks for. Raises ReconstructionError where it cannot be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ReconstructionError(f"--output {path}: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK) or path.is_dir():
        raise ReconstructionError(f"--output {path}: cannot be written")
    for target in results.OutputFormat:
        if path.name.endswith(target.suffix):
            return target
    suffixes = ", ".join(target.suffix for target in results.OutputFormat)
    raise ReconstructionError(f"--output {path.name}: the name must end in one of {suffixes}")


def _volume(
    options: argparse.Namespace, scan: PreparedScan, method: Parameters, chosen: Sequence[int], device: torch.device
) -> dict[int, results.SliceResult]:
    """Each slice once, reference slices before those that depend on them."""
    led = reference_slices(chosen, method)
    finished: dict[int, results.SliceResult] = {}
    for index in processing_order(chosen, led):
        prior_check = finished[led[index]].prior_check if index in led else None
        warm_start = None if prior_check is None else WarmStart.from_check(led[index], prior_check.as_json())
        finished[index] = _slice(options, scan, method, index, warm_start, device)
    return finished


def _slice(
    options: argparse.Namespace,
    scan: PreparedScan,
    method: Parameters,
    index: int,
    warm_start: WarmStart | None,
    device: torch.device,
) -> results.SliceResult:
    problem = slice_problem(scan.read([index]), 0, device, fit_maps=method.fits_maps)
    curves: Curves = {}
    iterates = ensemble(
        problem, method, seed=options.seed, seeds=options.seeds, priors=options.priors, warm_start=warm_start
    )
    with tqdm(desc=f"slice {index}", unit="it") as bar:
        for iterate, quality in with_quality(problem, iterates, curves):
            bar.total = iterate.steps
            bar.update(iterate.step - bar.n)
            if quality is not None:
                bar.set_postfix(_shown(quality))
    image, found = iterate.image, assess(problem, method, iterate)
    return results.SliceResult(
        image=problem.magnitude(image),
        image_complex=problem.complex_image(image),
        plain=problem.magnitude(problem.plain()),
        reference=problem.reference_for(image),
        curves=curves,
        prior_check=iterate.prior_check,
        rating=found.rating,
        deviation=None if iterate.deviation is None else problem.shown(iterate.deviation),
        hallucination=found.hallucination,
    )


def _shown(quality: Quality) -> dict[str, str]:
    psnr = {} if quality.psnr is None else {"psnr": f"{quality.psnr:.2f} dB"}
    return {"residual": f"{quality.data_residual:.4f}", **psnr}


def _attributes(
    options: argparse.Namespace, method: Parameters, header: ScanHeader, chosen: Sequence[int], device: torch.device
) -> dict[str, Any]:
    attributes = {
        "parameters": method.model_dump_json(),
        "seed": options.seed,
        "seeds": options.seeds,
        "slices": list(chosen),
        "scan_sha256": sha256_of(options.scan),
        "modality": header.modality.value,
        "pixel_spacing_mm": list(header.pixel_spacing_mm),
        **results.about(asdict(header)),
        "torch": str(torch.__version__),
        "device": str(device),
    }
    if (card := card_of(method, header.modality, options.priors)) is not None:
        attributes |= {"prior": card.name, "prior_sha256": card.sha256}
    return attributes


def _refuse(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())

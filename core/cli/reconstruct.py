"""`udig recon`: reconstruct a scan file without the service."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from tqdm import tqdm

from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.cli.arguments import chosen_slices, invalid_knob, knobs, refuse
from udig_recon.core.device import prepared
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.formats.sandbox.local import open_scan
from udig_recon.core.formats.sandbox.pool import ReaderLost
from udig_recon.core.parameters import MAX_SEEDS, Parameters, complete, parse, require, require_random
from udig_recon.core.priors.card import card_of, sha256_of
from udig_recon.core.problem import ImageMetrics, slice_problem
from udig_recon.core.reconstruct import Finished, Progress, reconstruct_slice
from udig_recon.core.results.output_format import OutputFormat, ResultInfo, scan_attributes
from udig_recon.core.results.outputs import OUTPUTS, write_result
from udig_recon.core.results.store import SliceResult
from udig_recon.core.slice_order import WarmStart, processing_order, reference_slices


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig recon`; no slices: all of them."""

    scan: Path
    output: Path
    method: str
    parameters: Sequence[str]
    slices: Sequence[int]
    seed: int
    seeds: int
    device: str
    threads: int
    priors: Path | None


def run(options: Options) -> int:
    """Reconstruct a scan file; 0 when the volume is written, 2 when the input cannot be used."""
    try:
        _run(options)
    except ReconstructionError as error:
        return refuse(str(error))
    except ReaderLost:
        return refuse("the process that reads scans is killed again and again")
    except ValidationError as error:
        return refuse(invalid_knob(error))
    except OSError as error:
        return refuse(f"{error.filename or options.scan}: {error.strerror or error}")
    return 0


def _run(options: Options) -> None:
    target = _format(options.output)
    with open_scan(options.scan) as scan:
        _reconstruct(options, target, scan)


def _reconstruct(options: Options, target: OutputFormat, scan: PreparedScan) -> None:
    header = scan.header
    method = complete(parse({"method": options.method, **knobs(options.parameters, "--set")}), header.modality)
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
    info = ResultInfo(len(chosen), _attributes(options, method, header, chosen, device))
    write_result(finished, info, {options.output: target})
    for index, result in zip(chosen, finished, strict=True):
        if result.prior_check is not None:
            sys.stderr.write(f"slice {index}: {result.prior_check.reason}\n")
        if result.rating is not None:
            sys.stderr.write(f"slice {index}: {result.rating}\n")


def _format(path: Path) -> OutputFormat:
    """What the name of the output asks for. Raises ReconstructionError where it cannot be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ReconstructionError(f"--output {path}: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK) or path.is_dir():
        raise ReconstructionError(f"--output {path}: cannot be written")
    for target in OUTPUTS.values():
        if path.name.endswith(target.suffix):
            return target
    raise ReconstructionError(f"--output {path.name}: the name must end in one of {_suffixes()}")


def _suffixes() -> str:
    return ", ".join(target.suffix for target in OUTPUTS.values())


def _volume(
    options: Options, scan: PreparedScan, method: Parameters, chosen: Sequence[int], device: torch.device
) -> dict[int, SliceResult]:
    """Each slice once, reference slices before those that depend on them."""
    led = reference_slices(chosen, method)
    finished: dict[int, SliceResult] = {}
    for index in processing_order(chosen, led):
        prior_check = finished[led[index]].prior_check if index in led else None
        warm_start = None if prior_check is None else WarmStart.from_check(led[index], prior_check.as_json())
        finished[index] = _slice(options, scan, method, index, warm_start, device)
    return finished


def _slice(
    options: Options,
    scan: PreparedScan,
    method: Parameters,
    index: int,
    warm_start: WarmStart | None,
    device: torch.device,
) -> SliceResult:
    problem = slice_problem(scan.read([index]), 0, device, fit_maps=method.fits_maps)
    events = reconstruct_slice(
        problem, method, seed=options.seed, seeds=options.seeds, priors=options.priors, warm_start=warm_start
    )
    with tqdm(desc=f"slice {index}", unit="it") as bar:
        for event in events:
            match event:
                case Progress():
                    bar.total = event.iterate.steps
                    bar.update(event.iterate.step - bar.n)
                    if event.metrics is not None:
                        bar.set_postfix(_postfix(event.metrics))
                case Finished():
                    finished = event
    return finished.result


def _postfix(metrics: ImageMetrics) -> dict[str, str]:
    psnr = {} if metrics.psnr is None else {"psnr": f"{metrics.psnr:.2f} dB"}
    return {"residual": f"{metrics.data_residual:.4f}", **psnr}


def _attributes(
    options: Options, method: Parameters, header: ScanHeader, chosen: Sequence[int], device: torch.device
) -> dict[str, Any]:
    attributes = {
        "parameters": method.model_dump_json(),
        "seed": options.seed,
        "seeds": options.seeds,
        "slice_numbers": list(chosen),
        "scan_sha256": sha256_of(options.scan),
        **scan_attributes(asdict(header)),
        "torch": str(torch.__version__),
        "device": str(device),
    }
    if (card := card_of(method, header.modality, options.priors)) is not None:
        attributes |= {"prior": card.name, "prior_sha256": card.sha256}
    return attributes

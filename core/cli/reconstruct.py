"""`udig recon`: reconstruct a scan file without the service."""

import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError
from tqdm import tqdm

from udig_recon.core.acquisition import slice_names
from udig_recon.core.cli.arguments import refuse
from udig_recon.core.cli.engine import prepare_engine
from udig_recon.core.cli.failures import describe_failure
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.sandbox.local import open_template
from udig_recon.core.formats.sandbox.pool import ReaderLost
from udig_recon.core.identity import Identity
from udig_recon.core.parameters.text import parse_pairs
from udig_recon.core.problem import ImageMetrics
from udig_recon.core.reconstruct import Event, Progress
from udig_recon.core.results.nifti import lost_orientation
from udig_recon.core.results.output_format import OutputFormat
from udig_recon.core.results.outputs import OUTPUTS, output_for, write_result
from udig_recon.core.volume import Volume, open_scan, reconstruct_volume

FOLDER = ".dicom"
"""Suffix of an output that is a folder of DICOM objects."""


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
    projectors: Path | None = None
    max_projector_bytes: int = 0
    template: Path | None = None


def run(options: Options) -> int:
    """Reconstruct a scan file; 0 when the volume is written, 2 when the input cannot be used."""
    try:
        _run(options)
    except (ReconstructionError, ReaderLost, ValidationError, OSError) as error:
        return refuse(describe_failure(error, options.scan))
    return 0


def _run(options: Options) -> None:
    output = _output(options.output)
    identity = None if options.template is None else _identity(options.template, output)
    method = {"method": options.method, **parse_pairs(options.parameters, "--set")}
    prepare_engine(options.threads, options.projectors, options.max_projector_bytes)
    with open_scan(options.scan) as scan, _Bars() as bars:
        for correction in scan.header.corrections:
            sys.stderr.write(f"corrected: {correction}\n")
        for warning in scan.header.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        volume = reconstruct_volume(
            scan,
            method,
            slices=options.slices,
            seed=options.seed,
            seeds=options.seeds,
            device=options.device,
            priors=options.priors,
            on_event=bars.show,
        )
    _write(volume, options.output, output, identity)
    if ".nii" in options.output.suffixes and (lost := lost_orientation(volume.info)) is not None:
        sys.stderr.write(f"warning: {lost}\n")
    names = slice_names(volume.info.slice_numbers, scan.header.frames)
    for name, result in zip(names, volume.slices, strict=True):
        if result.prior_check is not None:
            sys.stderr.write(f"{name}: {result.prior_check.reason}\n")
        if result.rating is not None:
            sys.stderr.write(f"{name}: {result.rating}\n")


def _identity(template: Path, output: OutputFormat) -> Identity:
    """Patient, study and frame of reference of a template. Raises ReconstructionError."""
    if output.name not in ("dicom", "dicom_maps"):
        raise ReconstructionError.at("--template", f"an output of format {output.name}", "one that ends in .dicom.zip")
    return open_template(template)


def _write(volume: Volume, path: Path, output: OutputFormat, identity: Identity | None) -> None:
    """Write the volume to its file, or to a folder with what a zip would hold."""
    if path.suffix != FOLDER and identity is None:
        write_result(volume.slices, volume.info, {path: output})
        return
    with tempfile.TemporaryDirectory(dir=path.absolute().parent) as folder:
        written = Path(folder) / f"objects{output.suffix}"
        write_result(volume.slices, volume.info, {written: output})
        if identity is not None:
            from udig_recon.core.results.dicom.identify import identify_archive

            identified = Path(folder) / f"identified{output.suffix}"
            identify_archive(written, identified, identity)
            written = identified
        if path.suffix != FOLDER:
            written.replace(path)
            return
        with zipfile.ZipFile(written) as archive:
            archive.extractall(Path(folder) / "objects")
        (Path(folder) / "objects").replace(path)


def _output(path: Path) -> OutputFormat:
    """The format that the name of the output has. Raises ReconstructionError where it cannot be written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ReconstructionError(f"--output {path}: there is no folder {folder}")
    if path.suffix == FOLDER and path.exists():
        raise ReconstructionError(f"--output {path}: is there already")
    if not os.access(path if path.exists() else folder, os.W_OK) or path.is_dir():
        raise ReconstructionError(f"--output {path}: cannot be written")
    return OUTPUTS["dicom"] if path.suffix == FOLDER else output_for(path.name)


class _Bars(AbstractContextManager["_Bars"]):
    """A progress bar for each slice, one after the other."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._number: int | None = None

    def show(self, number: int, event: Event) -> None:
        """Show the progress of a slice."""
        if not isinstance(event, Progress):
            return
        if self._bar is None or number != self._number:
            self.close()
            self._bar, self._number = tqdm(desc=f"slice {number}", unit="it"), number
        self._bar.total = event.iterate.steps
        self._bar.update(event.iterate.step - self._bar.n)
        if event.metrics is not None:
            self._bar.set_postfix(_postfix(event.metrics))

    def close(self) -> None:
        """End the bar that is shown."""
        if self._bar is not None:
            self._bar.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _postfix(metrics: ImageMetrics) -> dict[str, str]:
    psnr = {} if metrics.psnr is None else {"psnr": f"{metrics.psnr:.2f} dB"}
    return {"residual": f"{metrics.data_residual:.4f}", **psnr}

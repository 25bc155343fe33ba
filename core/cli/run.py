"""`udig run`: reconstruct many scans by several methods into one folder, with one progress bar."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from udig_recon.core.acquisition import slice_names
from udig_recon.core.batch.scan_files import ScanFile, find_scan_files
from udig_recon.core.batch.shards import Shard
from udig_recon.core.batch.summary import SummaryRow, summary_row, write_summary
from udig_recon.core.batch.volumes import BatchOptions, BatchScan, BatchVolume, check_labels, plan_volumes
from udig_recon.core.cli.arguments import print_columns, refuse
from udig_recon.core.cli.engine import prepare_engine
from udig_recon.core.cli.failures import describe_failure
from udig_recon.core.cli.progress import ProgressBar
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError, UnknownFormat
from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.formats.sandbox.local import ScanReader
from udig_recon.core.formats.sandbox.pool import ReaderLost
from udig_recon.core.parameters import MAX_SEEDS
from udig_recon.core.parameters.setting import Setting, parse_settings
from udig_recon.core.reconstruct import Event, Finished, Progress
from udig_recon.core.results.nifti import lost_orientation
from udig_recon.core.results.outputs import OUTPUTS

SUMMARY = "summary.csv"
"""Name of the summary in the folder of results."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig run`; no slices: all of every scan."""

    scans: Sequence[Path]
    output: Path
    method: Sequence[str]
    format: Sequence[str]
    slices: Sequence[int]
    seed: int
    seeds: int
    shard: Shard
    device: str
    threads: int
    priors: Path | None
    projectors: Path | None
    max_projector_bytes: int


def run(options: Options) -> int:
    """Reconstruct; 0 when all is there, 1 when something failed, 2 for input it cannot use, 130 when interrupted."""
    try:
        return _run(options)
    except (ReconstructionError, OSError) as error:
        return refuse(describe_failure(error, options.output))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from here\n")
        return 130


def _run(options: Options) -> int:
    settings = parse_settings(options.method)
    check_labels(settings)
    if not 1 <= options.seeds <= MAX_SEEDS:
        raise ReconstructionError.at("--seeds", str(options.seeds), f"1 to {MAX_SEEDS}")
    files = find_scan_files(options.scans, options.output)
    select_device(options.device)
    prepare_engine(options.threads, options.projectors, options.max_projector_bytes)
    batch = _Batch(settings, options)
    with ScanReader() as reader:
        batch.plan(files, reader)
        options.output.mkdir(parents=True, exist_ok=True)
        try:
            batch.compute(reader)
        finally:
            rows = batch.rows()
            write_summary(rows, options.output / SUMMARY)
    print_columns([HEAD, *map(_cells, rows)])
    sys.stderr.write(f"written to {options.output}; {SUMMARY} holds this table\n")
    return 1 if batch.failures else 0


class _Batch:
    """The volumes of one call of the command, and what went wrong with scans and volumes."""

    def __init__(self, settings: Sequence[Setting], options: Options) -> None:
        self._settings = settings
        self._shard = options.shard
        self._options = BatchOptions(
            output=options.output,
            formats=[OUTPUTS[name] for name in dict.fromkeys(options.format)],
            slices=options.slices,
            seed=options.seed,
            seeds=options.seeds,
            device=options.device,
            priors=options.priors,
        )
        self._formats = set(options.format)
        self._volumes: list[BatchVolume] = []
        self.failures: dict[tuple[str, str], str] = {}  # the reason, by scan and method; no method: the scan itself

    def plan(self, files: Sequence[ScanFile], reader: ScanReader) -> None:
        """Read the header of every file. Raises ReconstructionError where there is nothing that could be computed."""
        notes: dict[str, list[str]] = {}
        for file in files:
            try:
                header, sha256 = reader.probe(file.path)
                for kind, lines in (("corrected", header.corrections), ("warning", header.warnings)):
                    for line in lines:
                        notes.setdefault(f"{kind}: {line}", []).append(file.name)
                for planned in plan_volumes(BatchScan(file, header, sha256), self._settings, self._options):
                    if isinstance(planned, BatchVolume):
                        self._volumes.append(planned)
                    else:
                        label, error = planned
                        self._fail(file.name, label, str(error))
            except UnknownFormat as error:
                if file.asked_for:
                    self._fail(file.name, "", str(error))
                else:
                    sys.stderr.write(f"skipped: {file.path}: {error}\n")
            except (ReconstructionError, ReaderLost, OSError) as error:
                self._fail(file.name, "", describe_failure(error, file.path))
        for note, scans in notes.items():
            others = f" and {len(scans) - 1} more" if len(scans) > 1 else ""
            sys.stderr.write(f"{scans[0]}{others}: {note}\n")
        if not self._volumes and not self.failures:
            raise ReconstructionError("found no scan among the files; see the lines above")

    def compute(self, reader: ScanReader) -> None:
        """Make what is missing of the shard's volumes, scan by scan; one that fails does not stop the others."""
        wanted = [each for each in self._shard.of(self._volumes) if not each.is_written()]
        scans = dict.fromkeys(each.scan for each in wanted)
        with ProgressBar((_kind(each) for each in wanted for _ in each.slices), unit="slice") as bar:
            for scan in scans:
                self._compute_scan(reader, [each for each in wanted if each.scan is scan], bar)

    def _compute_scan(self, reader: ScanReader, volumes: Sequence[BatchVolume], bar: ProgressBar) -> None:
        """The volumes of one scan, which is opened once, and only to compute."""
        with ExitStack() as stack:
            opened: PreparedScan | None = None
            for volume in volumes:
                watch = _Watch(volume, bar)
                try:
                    info = volume.convert() if volume.is_computed() else None
                    if info is None:
                        opened = opened or stack.enter_context(reader.open(volume.scan.file.path))
                        info = volume.compute(opened, watch.show)
                except Exception as error:
                    self._fail(volume.scan.file.name, volume.label, describe_failure(error, volume.scan.file.path), bar)
                else:
                    if "nifti" in self._formats and (lost := lost_orientation(info)) is not None:
                        bar.write(f"{volume.scan.file.name}: warning: {lost}")
                watch.close()

    def rows(self) -> list[SummaryRow]:
        """The rows of the summary: every volume, then what could not be planned."""
        rows = []
        failures = dict(self.failures)
        for volume in self._volumes:
            error = failures.pop((volume.scan.file.name, volume.label), None)
            rows.append(summary_row(volume) if error is None else _failed(volume.scan.file.name, volume.label, error))
        rows += [_failed(scan, method, error) for (scan, method), error in failures.items()]
        return sorted(rows, key=lambda row: row.scan)

    def _fail(self, scan: str, method: str, reason: str, bar: ProgressBar | None = None) -> None:
        self.failures[scan, method] = reason
        line = f"failed: {scan}{', ' * bool(method)}{method}: {reason}"
        if bar is None:
            sys.stderr.write(f"{line}\n")
        else:
            bar.write(line)


class _Watch:
    """Shows the slices of one volume in the bar of all."""

    def __init__(self, volume: BatchVolume, bar: ProgressBar) -> None:
        self._volume, self._bar = volume, bar
        self._names = dict(zip(volume.slices, slice_names(volume.slices, volume.scan.header.frames), strict=True))
        self._number: int | None = None
        self._begun = 0

    def show(self, number: int, event: Event) -> None:
        """Take an event of a slice."""
        if number != self._number:
            self._number = number
            self._begun += 1
            place = f"{self._volume.label}, {self._volume.scan.file.name} {self._names[number]}"
            self._bar.begin(_kind(self._volume), place)
        match event:
            case Progress():
                self._bar.report(event.iterate.step / max(1, event.iterate.steps))
            case Finished():
                self._bar.end()

    def close(self) -> None:
        """The other slices are there already, or none of them will be."""
        self._bar.skip(_kind(self._volume), len(self._volume.slices) - self._begun)


def _kind(volume: BatchVolume) -> tuple[str, str]:
    return volume.label, volume.scan.header.modality


HEAD = ("scan", "method", "rating", "slices", "residual", "PSNR, dB", "seconds", "")


def _cells(row: SummaryRow) -> tuple[str, ...]:
    if row.status != "done":
        return row.scan, row.method, row.status, "", "", "", "", row.error
    psnr = "" if row.psnr is None else f"{row.psnr:.2f}"
    residual = "" if row.data_residual is None else f"{row.data_residual:.4f}"
    return row.scan, row.method, row.rating, str(row.slices), residual, psnr, f"{row.seconds or 0:.1f}", ""


def _failed(scan: str, method: str, error: str) -> SummaryRow:
    return SummaryRow(scan=scan, method=method, status="failed", error=error)

"""Volumes of a batch: each scan by each method, written under readable names, and not computed twice.

`SCAN/METHOD.h5` has everything that is known of a volume, and the other formats are made from it. It tells what it was
computed from; where that is what is wanted, nothing is computed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from udig_recon.core.acquisition import ScanHeader
from udig_recon.core.batch.scan_files import ScanFile
from udig_recon.core.batch.unfinished import UnfinishedVolume
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.files.checksummed_arrays import ARCHIVE_ERRORS
from udig_recon.core.files.locks import exclusive
from udig_recon.core.formats.prepared import PreparedScan
from udig_recon.core.parameters import Parameters, complete, require
from udig_recon.core.parameters.setting import Setting
from udig_recon.core.priors.card import card_of
from udig_recon.core.results import hdf5
from udig_recon.core.results.output_format import OutputFormat, ResultInfo
from udig_recon.core.results.outputs import OUTPUTS, convert, write_result
from udig_recon.core.volume import OnEvent, reconstruct_volume, slice_numbers

RECORD = hdf5.FORMAT
"""The format that has everything."""


@dataclass(frozen=True)
class BatchScan:
    """A scan file, as it was read."""

    file: ScanFile
    header: ScanHeader
    sha256: str


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What holds for all volumes of a batch."""

    output: Path
    formats: Sequence[OutputFormat]
    slices: Sequence[int] = ()  # none: all
    seed: int = 0
    seeds: int = 1
    device: str = "auto"
    priors: Path | None = None


@dataclass(frozen=True)
class BatchVolume:
    """One scan by one method."""

    scan: BatchScan
    label: str
    method: Parameters  # complete
    slices: tuple[int, ...]
    seeds: int  # 1 of a method that gives the same image for each
    prior_sha256: str | None
    options: BatchOptions

    def path(self, output: OutputFormat) -> Path:
        """Its file in a format."""
        return self._stem.with_name(f"{self._stem.name}{output.suffix}")

    @property
    def _stem(self) -> Path:
        return self.options.output / self.scan.file.name / file_name(self.label)

    @property
    def unfinished(self) -> Path:
        """The folder of what is finished of it while it is computed."""
        return self._stem.with_name(f".{self._stem.name}.unfinished")

    @property
    def key(self) -> dict[str, Any]:
        """Everything that its images depend on, apart from the engine: attributes of a result file."""
        return {
            "parameters": json.loads(self.method.model_dump_json()),
            "scan_sha256": self.scan.sha256,
            "slice_numbers": list(self.slices),
            "seed": self.options.seed,
            "seeds": self.seeds,
            "prior_sha256": self.prior_sha256,
        }

    def is_computed(self) -> bool:
        """Whether its result file is there and was computed from just this."""
        path = self.path(RECORD)
        if not path.is_file():
            return False
        with suppress(*ARCHIVE_ERRORS), hdf5.open_result(path) as stored:
            known = stored.info.attributes
            if all(known.get(name) == value for name, value in self.key.items()):
                for each in stored.slices():
                    _ = each.curves, each.rating  # the summary reads them: a damaged file is computed again
                return True
        return False

    def is_written(self) -> bool:
        """Whether it is computed, and there in every format."""
        return all(self.path(each).is_file() for each in self.options.formats) and self.is_computed()

    def compute(self, scan: PreparedScan, on_event: OnEvent) -> ResultInfo:
        """Reconstruct the volume, or what an interrupted run left to do, and write it in all formats.

        Raises what `reconstruct_volume` and `write_result` raise, and ReconstructionError where another process
        computes the volume.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self._stem.with_name(f".{self._stem.name}.lock")))
            except BlockingIOError:
                found = "another process computes it now; the same command takes its result once that has ended"
                raise ReconstructionError(found) from None
            return self._compute(scan, on_event)

    def _compute(self, scan: PreparedScan, on_event: OnEvent) -> ResultInfo:
        options = self.options
        kept = UnfinishedVolume(self.unfinished, self.key)
        volume = reconstruct_volume(
            scan,
            self.method,
            slices=self.slices,
            seed=options.seed,
            seeds=self.seeds,
            device=options.device,
            priors=options.priors,
            on_event=on_event,
            store=kept,
        )
        for each in OUTPUTS.values():
            self.path(each).unlink(missing_ok=True)  # of other parameters or another scan
        write_result(volume.slices, volume.info, {self.path(each): each for each in (RECORD, *self._others)})
        kept.delete()
        return volume.info

    def convert(self) -> ResultInfo | None:
        """Write the formats that are missing from the result file; None where that is damaged. Raises OSError."""
        try:
            for each in self._others:
                if not self.path(each).is_file():
                    convert(self.path(RECORD), self.path(each), each)
            with hdf5.open_result(self.path(RECORD)) as stored:
                return stored.info
        except ARCHIVE_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk; HDF5's own have none
                raise
            return None

    @property
    def _others(self) -> list[OutputFormat]:
        return [each for each in self.options.formats if each.name != RECORD.name]


def file_name(label: str) -> str:
    """A label as the name of a file: letters, digits and a few signs are kept."""
    return re.sub(r"[^-+.,=_0-9A-Za-z]", "-", label).lstrip(".") or "-"


def check_labels(settings: Sequence[Setting]) -> None:
    """Raise ReconstructionError where two methods would be written under one name."""
    names = [file_name(each.label).lower() for each in settings]
    for name, setting in zip(names, settings, strict=True):
        if names.count(name) > 1:
            raise ReconstructionError(f"{setting.label}: two methods would be files {name!r}; call one LABEL=METHOD")


def plan_volumes(
    scan: BatchScan, settings: Sequence[Setting], options: BatchOptions
) -> Iterator[BatchVolume | tuple[str, ReconstructionError]]:
    """The volumes of a scan by the methods for its modality; where one cannot be, its label and the reason.

    Raises ReconstructionError where the scan lacks the slices, or no method is for its modality.
    """
    header = scan.header
    numbers = tuple(slice_numbers(options.slices, header))
    fitting = [each for each in settings if header.modality in each.modalities]
    if not fitting:
        labels = ", ".join(each.label for each in settings)
        raise ReconstructionError.at("scan", header.modality, f"a modality that one of these reconstructs: {labels}")
    for setting in fitting:
        try:
            method = complete(setting.method(), header.modality)
            require(method, header.images)
            seeds = options.seeds if method.is_random else 1
            card = card_of(method, header.modality, options.priors)
        except ReconstructionError as error:
            yield setting.label, error
        else:
            yield BatchVolume(scan, setting.label, method, numbers, seeds, card.sha256 if card else None, options)

"""Run of a comparison: one method on one slice with one seed, with its cost counted, resumed where it was stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from udig_recon.core import formats
from udig_recon.core.comparison.entries import ENTRY_METRICS, Entry
from udig_recon.core.comparison.plan import Run
from udig_recon.core.comparison.stored import Made, Measurement, Result, measure_once, read_result
from udig_recon.core.cost.counter import CostCounter
from udig_recon.core.iterates import Iterate
from udig_recon.core.priors.card import Folders
from udig_recon.core.priors.load import load_prior
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import Checkpoint, Finished, Progress, reconstruct_slice
from udig_recon.core.saved_state import SAVE_SECONDS, load_state, save_state
from udig_recon.core.slice_order import WarmStart


class FinishedRun(NamedTuple):
    """A run and its result."""

    run: Run
    result: Result

    @property
    def entry(self) -> Entry:
        """What tables say of it."""
        run, fields = self.run, self.result.fields
        return Entry(
            method=run.label,
            scan=run.scan.name,
            sampling=run.scan.sampling,
            slice=run.slice,
            seed=run.seed,
            **{name: fields[name] for name in ENTRY_METRICS},
            rating=fields.get("rating", {}).get("rating"),
        )


@dataclass(frozen=True)
class Computer:
    """Where runs are computed, and with which priors."""

    device: torch.device
    priors: Folders = None

    def prior_of(self, run: Run) -> nn.Module | None:
        """The prior that a run evaluates. Raises MissingPrior."""
        if not run.method.needs_prior:
            return None
        return load_prior(getattr(run.method, "prior", None), run.scan.header.modality, self.priors, self.device)

    def finish(self, run: Run, output: Path, report: Callable[[Iterate], None]) -> FinishedRun:
        """A run with its result, read from the folder `output` or computed and stored there."""
        folder, wanted = _folder(run, output), measurement_of(run)
        unfinished = folder / f"{wanted.name}.unfinished.pt"
        result = measure_once(folder, wanted, lambda: self.make(run, _warm_start(run, folder), unfinished, report))
        unfinished.unlink(missing_ok=True)
        return FinishedRun(run, result)

    def make(self, run: Run, warm_start: WarmStart | None, unfinished: Path, report: Callable[[Iterate], None]) -> Made:
        """The image (y, x) of a run, and its metrics, curves and cost.

        The file `unfinished` gets a state every minute; a run that finds one there continues from it.
        """
        counter = CostCounter(self.device)
        acquisition = formats.read(run.scan.path, [run.slice])
        with counter.timing():
            problem = slice_problem(
                acquisition,
                0,
                self.device,
                fit_maps=run.method.fits_maps,
                preprocessing=run.method.preprocessing,
            )
        events = reconstruct_slice(
            problem,
            run.method,
            seed=run.seed,
            priors=self.priors,
            state=load_state(unfinished, self.device),
            warm_start=warm_start,
            counter=counter,
        )
        saved_at = time.monotonic()
        for event in events:
            match event:
                case Progress():
                    report(event.iterate)
                case Checkpoint() if time.monotonic() > saved_at + SAVE_SECONDS:
                    save_state(unfinished, event.make_state())
                    saved_at = time.monotonic()
                case Finished():
                    finished = event
        fields: dict[str, Any] = {
            **finished.metrics,
            "seconds": counter.seconds,
            "curves": finished.result.curves,
            "threads": torch.get_num_threads(),
            "device": str(self.device),
        }
        if finished.result.rating is not None:
            fields["rating"] = finished.result.rating.as_json()
        if finished.result.prior_check is not None:
            fields["prior_check"] = finished.result.prior_check.as_json()
        return finished.result.image, fields


def read_finished(run: Run, output: Path) -> FinishedRun | None:
    """A run with its result in the folder `output`; None where it is not there."""
    result = read_result(_folder(run, output), measurement_of(run))
    return None if result is None else FinishedRun(run, result)


def _folder(run: Run, output: Path) -> Path:
    return output / "results" / run.scan.name


def measurement_of(run: Run) -> Measurement:
    """Under which name its result is stored: whatever its label, it is computed once."""
    return Measurement(run.method.method, run.key)


def _warm_start(run: Run, folder: Path) -> WarmStart | None:
    """What the run's reference_slice, finished before it, has found out of the scan."""
    if run.reference_slice is None:
        return None
    reference_slice = read_result(folder, measurement_of(replace(run, slice=run.reference_slice, reference_slice=None)))
    return (
        None
        if reference_slice is None
        else WarmStart.from_check(run.reference_slice, reference_slice.fields.get("prior_check"))
    )

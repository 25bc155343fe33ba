"""One run of a comparison: computed as the service computes it, its cost counted, resumed where it was stopped."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from udig_recon.core import formats
from udig_recon.core.comparison.entries import ENTRY_METRICS, Entry
from udig_recon.core.comparison.plan import Run
from udig_recon.core.comparison.stored import Made, Measurement, Result, engine, found, measured
from udig_recon.core.cost.counter import CostCounter
from udig_recon.core.files.atomic import replacing
from udig_recon.core.iterates import Iterate
from udig_recon.core.priors.card import Folders
from udig_recon.core.priors.load import load_prior
from udig_recon.core.quality.curves import Curves, with_quality
from udig_recon.core.reconstruct import reconstruct, slice_problem
from udig_recon.core.slice_order import WarmStart

KEPT_EVERY = 60.0
"""Seconds from one kept state of a run to the next."""


class Finished(NamedTuple):
    """A run and its result."""

    run: Run
    result: Result

    @property
    def entry(self) -> Entry:
        """What tables say of it."""
        run, fields = self.run, self.result.fields
        return Entry(
            run.label, run.scan.name, run.scan.sampling, run.slice, run.seed, *(fields[name] for name in ENTRY_METRICS)
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

    def finish(self, run: Run, output: Path, seen: Callable[[Iterate], None]) -> Finished:
        """A run with its result, read from the folder `output` or computed and stored there."""
        folder = output / "results" / run.scan.name
        wanted = measurement_of(run)
        unfinished = folder / f"{wanted.name}.unfinished.pt"
        result = measured(folder, wanted, lambda: self.make(run, _warm_start(run, folder), unfinished, seen))
        unfinished.unlink(missing_ok=True)
        return Finished(run, result)

    def make(self, run: Run, warm_start: WarmStart | None, unfinished: Path, seen: Callable[[Iterate], None]) -> Made:
        """The image (y, x), and what there is to tell: quality, its curves, what was spent.

        The file `unfinished` is given a state every minute; a run that finds one there goes on from it.
        """
        prior, meter, curves = self.prior_of(run), CostCounter(self.device), Curves()
        acquisition = formats.read(run.scan.path, [run.slice])
        with meter.timing():
            problem = slice_problem(acquisition, 0, self.device, fit_maps=run.method.fits_maps)
        kept = self._kept(unfinished)
        if kept is not None:
            curves = kept["curves"]
            meter.resume(kept, kept["seconds"])
        iterates = reconstruct(
            problem,
            run.method,
            seed=run.seed,
            priors=self.priors,
            state=None if kept is None else kept["state"],
            warm_start=warm_start,
        )
        kept_at = time.monotonic()
        with meter.counting(prior):
            for iterate, quality in with_quality(problem, meter.timed(iterates), curves):
                if quality is not None:
                    curves.setdefault("optimizer_steps", []).append(meter.optimizer_steps)
                    last = quality
                seen(iterate)
                if iterate.state is not None and time.monotonic() > kept_at + KEPT_EVERY:
                    spent = {**meter.counts, "seconds": meter.seconds}
                    self._keep(unfinished, {**spent, "curves": curves, "state": iterate.state()})
                    kept_at = time.monotonic()
        spent = {**meter.counts, "seconds": meter.seconds}
        told = {**asdict(last), **spent, "curves": curves, "threads": torch.get_num_threads()}
        if iterate.prior_check is not None:
            told["prior_check"] = iterate.prior_check.as_json()
        return problem.magnitude(iterate.image), {**told, "device": str(self.device)}

    def _keep(self, path: Path, content: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, torch.no_grad():
            torch.save({"engine": engine(), **content}, part)

    def _kept(self, path: Path) -> dict[str, Any] | None:
        """What was kept by this very engine."""
        if not path.is_file():
            return None
        content: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        return content if content["engine"] == engine() else None


def measurement_of(run: Run) -> Measurement:
    """Under which name its result is stored: whatever its label, it is computed once."""
    return Measurement(run.method.method, run.key)


def _warm_start(run: Run, folder: Path) -> WarmStart | None:
    """What the run's reference_slice, finished before it, has found out of the scan."""
    if run.reference_slice is None:
        return None
    reference_slice = found(folder, measurement_of(replace(run, slice=run.reference_slice, reference_slice=None)))
    return (
        None
        if reference_slice is None
        else WarmStart.from_check(run.reference_slice, reference_slice.fields.get("prior_check"))
    )

"""Every method stopped anywhere goes on from its checkpoint file to the very bits of a run that nothing stopped."""

import dataclasses
import json
import uuid
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

from tests.support import scans
from tests.support.checkpoint_folder import checkpoints_in
from tests.support.claim import claim_slice
from tests.support.worker_processes import GUIDED, Desk
from udig_recon.core import formats
from udig_recon.core.acquisition import Acquisition, Modality
from udig_recon.core.iterates import Iterate, State
from udig_recon.core.parameters import METHODS, TV, Parameters, complete, parse
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import reconstruct
from udig_recon.worker.jobs.claims import Claim
from udig_recon.worker.runtime.heartbeat import LeaseKeeper, ProgressReport
from udig_recon.worker.runtime.process import WorkerProcess
from udig_recon.worker.runtime.slice_run import ShutdownRequested, SliceRun
from udig_recon.worker.storage import keys

CPU = torch.device("cpu")
STEPS = 4
SHORTENED = dict.fromkeys(("iterations", "outer_iterations", "steps"), STEPS) | {"prior_calls": 2, "mask_iterations": 3}
STOPS = 2
"""of each run, spread over it, beside one in every stage"""
QUICK = {"cg_sense", "sirt", "tv", "dds", "udig_dip"}  # for make laws; make test runs every method
# What one knob at a time does not reach.
TOGETHER: list[dict[str, Any]] = [
    {"method": "sirt", "iterations": 12},
    {"method": "cg_sense", "iterations": 12, "ridge": 0.01},
    {"method": "dip", "averaging": 0.0},
    {"method": "tv", "weight": 0.01},
    {"method": "l1_wavelet", "weight": 0.01},
    {"method": "udig_dip", "samples": 2, "noise_scale": 1.0, "noise_until": 0.01, "holdout_share": 0.0},
    {"method": "udig_dip", "noise_scale": 1.0, "sampler": "ancestral", "prior_calls": 3},
    {"method": "udig_dip", "inner_iterations": 2, "output": "mean", "averaging": 0.5, "purification_period": 2},
    {"method": "udig_dip", "inner_iterations": 1, "network": "unet", "holdout_share": 0.3, "start": "cg_sense"},
    {"method": "udig_dip", "inner_iterations": 1, "noise_scale": 0.5, "samples": 2, "output": "consistent"},
]


def choices(method: type[Parameters]) -> Iterator[dict[str, Any]]:
    """The method with its defaults, then with each choice of each parameter of its own that has a few.

    What all methods share is done to the measurements before the method runs.
    """
    yield {}
    for name, knob in method.model_fields.items():
        if name in Parameters.model_fields:
            continue
        values = get_args(knob.annotation) if get_origin(knob.annotation) is Literal else ()
        for value in (True, False) if knob.annotation is bool else values:
            if value != knob.default:
                yield {name: value}


def cases() -> Iterator[Any]:
    """Each method of METHODS, whatever methods there are, on each modality that it is for."""
    for name, method in METHODS.items():
        asked = [*({"method": name, **choice} for choice in choices(method)), *TOGETHER]
        for knobs in (each for each in asked if each["method"] == name):
            short = {knob: value for knob, value in SHORTENED.items() if knob in method.model_fields}
            for modality in method.modalities:
                if modality is Modality.CT or knobs.get("start") not in ("fbp", "sirt"):
                    label = "-".join(f"{knob}={value}" for knob, value in knobs.items() if knob != "method")
                    marks = [] if not label and name in QUICK else [pytest.mark.long]
                    yield pytest.param(
                        {**short, **knobs}, modality, id=f"{name}-{modality}-{label or 'default'}", marks=marks
                    )


@pytest.fixture(autouse=True)
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two iterations with each weight that is tried, so that a run has all its stages and few steps."""
    for name in ("tv", "l1_wavelet"):
        monkeypatch.setattr(import_module(f"udig_recon.core.algorithms.{name}"), "TRIAL_ITERATIONS", 2)
    judged = import_module("udig_recon.core.algorithms.udig_dip_guarded")
    monkeypatch.setattr(judged, "ALONE", judged.ALONE._replace(tv=(2, 3)))


@cache
def scan(modality: Modality, folder: Path) -> Acquisition:
    parts = scans.ct(slices=1) if modality is Modality.CT else scans.without(scans.mri(slices=1), "sensitivity_maps")
    parts["guide"] = np.sqrt(parts["reference"])  # some methods need one
    return formats.read(scans.write_hdf5(folder / modality, **parts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@cache
def problem(modality: Modality, folder: Path, fit_maps: bool) -> SliceProblem:
    return slice_problem(scan(modality, folder), 0, CPU, fit_maps=fit_maps)


def iterates(knobs: dict[str, Any], modality: Modality, folder: Path, state: State | None = None) -> Iterator[Iterate]:
    """A run from the file on, as a worker makes it from a job's row."""
    method = parse(json.loads(complete(parse(knobs), modality).model_dump_json()))
    return reconstruct(problem(modality, folder, method.fits_maps), method, seed=5, state=state)


def chosen(points: list[tuple[int, Any]]) -> list[int]:
    """Which points to resume from: the first, the last, some between, and the first and last of every stage."""
    spread = {round(share * (len(points) - 1) / (STOPS - 1)) for share in range(STOPS)}
    stages = [stage for _, stage in points]
    first = {stages.index(stage) for stage in stages}
    last = {len(stages) - 1 - stages[::-1].index(stage) for stage in stages}
    return sorted(spread | first | last)


@pytest.mark.parametrize(("knobs", "modality"), list(cases()))
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(
    knobs: dict[str, Any], modality: Modality, folder: Path, tmp_path: Path
) -> None:
    points: list[tuple[int, Any]] = []
    seen = set()
    for last in iterates(knobs, modality, folder):
        seen.add(last.step)
        if last.state is not None and last.step < last.steps:
            state = last.state()
            # A slice number of its own for each point keeps all their files.
            kept = checkpoints_in(tmp_path, len(points))
            kept.save(last.step, {"state": state, "step": last.step, "seconds": 0.0, "curves": {}})
            kept.wait()
            points.append((last.step, state.get("stage")))
    assert last.step == last.steps
    if last.steps == 1:
        return  # nothing to stop between
    stages = len({stage for _, stage in points})
    without = seen - {step for step, _ in points} - {last.steps, 0}
    assert len(without) <= stages, f"no state to go on from at {sorted(without)}"
    for number in chosen(points):
        found = checkpoints_in(tmp_path, number).load(CPU)
        assert found is not None
        *_, resumed = iterates(knobs, modality, folder, found["state"])
        assert torch.equal(resumed.image, last.image), f"stopped at {points[number]}"
        assert resumed.prior_check == last.prior_check


def run(process: WorkerProcess, claim: Claim) -> SliceRun:
    return SliceRun(process, LeaseKeeper(process.sessions, claim, process.settings, process.storage))


def claimed(process: WorkerProcess, job_id: uuid.UUID) -> Claim:
    with process.sessions.begin() as session:
        claim = claim_slice(session, job_id, 0, process.name, process.settings.lease_seconds)
    assert claim is not None
    process.storage.create_group(keys.job(job_id))
    return claim


def test_another_version_of_anything_begins_anew_and_says_so(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claim = claimed(process, desk.submit(desk.scan(), GUIDED))
    known = process.versions(GUIDED, Modality.CT, "default")
    assert {"software", "torch", "prior_sha256"} <= set(known)

    def resumes(claim: Claim, **versions: str) -> bool:
        """Whether a run of this claim, by these versions, goes on from what the first one kept."""
        kept = run(process, first).checkpoints
        kept.save(1, {"step": 1})
        kept.wait()
        caplog.clear()
        with monkeypatch.context() as other:
            other.setattr(WorkerProcess, "versions", lambda *_: known | versions)
            found = run(process, claim).checkpoints.load(CPU)
        assert (found is None) == ("checkpoint.incompatible" in caplog.messages)
        return found is not None

    first = claim
    assert resumes(claim)
    for name in ("software", "torch", "prior_sha256"):
        assert not resumes(claim, **{name: "another"})
    assert not resumes(dataclasses.replace(claim, parameters={**claim.parameters, "noise_level": 0.3}))
    assert not resumes(dataclasses.replace(claim, seed=1))
    assert not resumes(dataclasses.replace(claim, scan_sha256="another"))


def test_what_was_spent_before_a_stop_counts_after_it(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan_id = desk.scan()
    unbroken = run(process, claimed(process, desk.submit(scan_id, GUIDED))).compute()
    claim = claimed(process, desk.submit(scan_id, GUIDED))
    with monkeypatch.context() as stopping:
        stopping.setattr(LeaseKeeper, "report", lambda *_: process.shutdown.set())
        with pytest.raises(ShutdownRequested):
            run(process, claim).compute()
    process.shutdown.clear()
    resumed = run(process, claim).compute()
    assert resumed.metrics == unbroken.metrics
    assert all(resumed.metrics[name] for name in ("prior_evaluations", "optimizer_steps"))


def test_while_maps_are_fitted_there_is_something_to_see_and_the_end_is_heeded(
    desk: Desk, process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(process, desk.submit(desk.scan(modality=Modality.MRI), complete(TV(iterations=3), Modality.MRI)))
    fitting = run(process, claim)
    told: list[ProgressReport] = []
    monkeypatch.setattr(LeaseKeeper, "report", lambda _, beat: (told.append(beat), process.shutdown.set()))
    with pytest.raises(ShutdownRequested):
        fitting.compute()
    assert [(beat.point.iteration, beat.point.iterations) for beat in told] == [(0, 0)]
    assert told[0].preview is not None
    assert told[0].preview.image.any()

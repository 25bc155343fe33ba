"""The driver of a slice: its events, and that a run continued from any checkpoint ends as if never stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import scans
from tests.support.checkpoint_folder import checkpoints_in
from udig_recon.core import formats
from udig_recon.core.acquisition import Modality
from udig_recon.core.metrics import METRICS
from udig_recon.core.parameters import Parameters, complete, parse
from udig_recon.core.problem import SliceProblem, slice_problem
from udig_recon.core.reconstruct import (
    Checkpoint,
    Event,
    Finished,
    Progress,
    ensemble,
    every_iterations,
    finish,
    reconstruct,
    reconstruct_slice,
)

CPU = torch.device("cpu")
CASES: list[tuple[dict[str, Any], int]] = [
    ({"method": "cg_sense", "iterations": 9}, 1),
    ({"method": "dds", "steps": 5}, 1),
    ({"method": "dip", "iterations": 12}, 2),
]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> SliceProblem:
    path = scans.write_hdf5(tmp_path_factory.mktemp("scan") / "scan", **scans.mri(slices=1))
    return slice_problem(formats.read(path), 0, CPU)


def method_of(parameters: dict[str, Any]) -> Parameters:
    return complete(parse(parameters), Modality.MRI)


def run(problem: SliceProblem, parameters: dict[str, Any], seeds: int, **more: Any) -> list[Event]:
    method = method_of(parameters)
    return list(reconstruct_slice(problem, method, seed=3, seeds=seeds, every=every_iterations(4), **more))


@pytest.mark.parametrize(("parameters", "seeds"), CASES, ids=[case["method"] for case, _ in CASES])
def test_the_result_is_the_last_iterate_with_its_metrics(
    problem: SliceProblem, parameters: dict[str, Any], seeds: int
) -> None:
    *events, finished = run(problem, parameters, seeds)
    *_, last = ensemble(problem, method_of(parameters), seed=3, seeds=seeds)
    assert isinstance(finished, Finished)
    assert np.array_equal(finished.result.image, problem.magnitude(last.image))
    assert finished.result.rating is not None
    assert finished.metrics.keys() <= METRICS.keys()
    assert finished.metrics["psnr"] == problem.image_metrics(last.image).psnr
    assert not any(isinstance(event, Finished) for event in events)
    steps = [event.iterate.step for event in events if isinstance(event, Progress) and event.metrics is not None]
    assert finished.result.curves["iteration"] == steps
    assert steps[-1] == last.steps
    assert all(step % 4 == 0 for step in steps[:-1])
    assert {len(curve) for curve in finished.result.curves.values()} == {len(steps)}


@pytest.mark.long
@pytest.mark.parametrize(("parameters", "seeds"), CASES, ids=[case["method"] for case, _ in CASES])
def test_a_run_continued_from_any_checkpoint_ends_as_if_never_stopped(
    problem: SliceProblem, parameters: dict[str, Any], seeds: int, tmp_path: Path
) -> None:
    states: list[int] = []
    finished = None
    for event in reconstruct_slice(problem, method_of(parameters), seed=3, seeds=seeds, every=every_iterations(4)):
        match event:
            case Checkpoint():
                saved = checkpoints_in(tmp_path, len(states))
                saved.save(event.step, event.make_state())
                saved.wait()
                states.append(event.step)
            case Finished():
                finished = event
    assert finished is not None
    assert states
    for number in range(len(states)):
        state = checkpoints_in(tmp_path, number).load(CPU)
        *events, resumed = run(problem, parameters, seeds, state=state)
        assert isinstance(resumed, Finished)
        assert np.array_equal(resumed.result.image, finished.result.image)
        assert resumed.metrics == finished.metrics
        timeless = {name: curve for name, curve in resumed.result.curves.items() if name != "seconds"}
        for name, curve in timeless.items():
            assert np.array_equal(curve, finished.result.curves[name], equal_nan=True), name
        first = events[0]
        assert isinstance(first, Progress)
        assert first.iterate.step > states[number]


def test_an_unrated_result_has_no_rating_and_costs_no_prior_free_reconstruction(problem: SliceProblem) -> None:
    method = method_of({"method": "dds", "steps": 3})
    finished = finish(reconstruct_slice(problem, method, seed=0, rated=False))
    *_, last = reconstruct(problem, method, seed=0)
    assert finished.result.rating is None
    assert finished.result.hallucination is None
    assert finished.result.curves["iteration"] == [last.steps]
    assert np.array_equal(finished.result.image, problem.magnitude(last.image))


def test_seconds_count_from_where_the_caller_says(problem: SliceProblem) -> None:
    method = method_of({"method": "cg_sense", "iterations": 2})
    events = reconstruct_slice(problem, method, seed=0, began=-1e6)
    assert all(event.seconds > 1e6 for event in events if isinstance(event, Progress))


def test_events_that_end_without_a_result_are_refused() -> None:
    with pytest.raises(ValueError, match="without a result"):
        finish(iter(()))

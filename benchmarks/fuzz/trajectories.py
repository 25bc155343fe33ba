"""Mutators of scans along a trajectory: shapes that do not fit, frequencies of no unit, values that are none."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.fuzz.mutators import Draft, registered, spoilt_array

KIND = "npz_spokes"
Arrays = dict[str, Any]
Change = Callable[[Arrays, np.random.Generator], Arrays]


def trajectory(must_be_refused: bool) -> Callable[[Change], Change]:
    """Register a change of the arrays of a radial scan in .npz."""

    def register(change: Change) -> Change:
        def mutate(draft: Draft) -> None:
            with np.load(draft.path) as archive:
                arrays = dict(archive)
            stream = io.BytesIO()
            np.savez(stream, **change(arrays, draft.rng))
            draft.path.write_bytes(stream.getvalue())

        registered(KIND, must_be_refused, change.__name__, mutate)
        return change

    return register


@trajectory(must_be_refused=True)
def frequencies_that_are_not_finite(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return {**arrays, "trajectory": spoilt_array(arrays["trajectory"], rng)}


@trajectory(must_be_refused=True)
def samples_that_are_not_finite(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return {**arrays, "kspace": spoilt_array(arrays["kspace"], rng)}


@trajectory(must_be_refused=True)
def fewer_readouts_than_k_space(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return {**arrays, "trajectory": arrays["trajectory"][: int(rng.integers(0, len(arrays["trajectory"])))]}


@trajectory(must_be_refused=False)
def frequencies_of_another_size(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return {**arrays, "trajectory": arrays["trajectory"].astype(np.float64) * 10 ** rng.uniform(-38, 38)}


@trajectory(must_be_refused=False)
def axes_in_another_order(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    turned = {name: arrays[name].transpose(rng.permutation(arrays[name].ndim)) for name in ("kspace", "trajectory")}
    return {**arrays, **turned}


@trajectory(must_be_refused=False)
def shapes_of_no_sense(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    shape = tuple(int(side) for side in rng.integers(0, 5, int(rng.integers(0, 7))))
    name = str(rng.choice(["kspace", "trajectory", "density", "noise", "reference", "sensitivity_maps", "mask"]))
    dtype = rng.choice(["f4", "c8", "i2", "f2", "u1", "U3", "f8"])
    return {**arrays, name: np.ones(shape, str(dtype))}


@trajectory(must_be_refused=False)
def another_matrix(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    sizes = (0, -1, 1, 7, 8, 9, 0.5, 1e9, 1e30, np.nan, np.inf, 1024, 1025, 2)
    return {**arrays, "image_size": np.float64(rng.choice(sizes))}

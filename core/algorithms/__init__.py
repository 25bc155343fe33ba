"""Reconstruction methods, one file each: generators of iterates. `run` finds a method by its parameters.

`Parameters.implementation` names a method's function. All have the signature of `core.inputs.Implementation`.
"""

from pkgutil import resolve_name
from typing import cast

from torch import Generator

from udig_recon.core.extensions import BrokenExtension
from udig_recon.core.inputs import Implementation, Inputs
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.parameters import EarlyStoppingParameters, HoldoutParameters, Parameters, require
from udig_recon.core.selection.early_stopping import stop_early, validate_direct


def run(inputs: Inputs, method: Parameters, rng: Generator, state: State | None = None) -> Iterates:
    """Iterates of a method for one slice, from the beginning or after a state of an iterate.

    Held-out measurements choose the iterate of iterative methods and validate the image of direct ones, as the base of
    their parameters says. Raises UnsupportedScan when the method needs an image that the scan does not have.
    """
    require(method, inputs.images)
    implementation = load_implementation(method)
    if isinstance(method, EarlyStoppingParameters):
        return stop_early(implementation, inputs, method, rng, state)
    if isinstance(method, HoldoutParameters):
        return validate_direct(implementation, inputs, method, rng)
    return implementation(inputs, method, rng, state)


def load_implementation(method: Parameters) -> Implementation:
    """The function that makes the iterates of a method. Raises BrokenExtension where it cannot be imported."""
    try:
        return cast(Implementation, resolve_name(method.implementation))
    except (ImportError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise BrokenExtension(f"method {method.method}: cannot import {method.implementation}: {reason}") from error

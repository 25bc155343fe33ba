"""Parameters of the methods, written once for the HTTP schema, the stored job, the command line and the documents.

One module holds the methods of one family; `registry` lists them all. Torch-free: a method's implementation is imported
when it runs.
"""

from collections.abc import Container
from typing import TYPE_CHECKING, Any

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.parameters.base import NoiseLevels, Parameters, check_preprocessing
from udig_recon.core.parameters.classical import FBP, SIRT, TV, CGSense, L1Wavelet, ZeroFilled
from udig_recon.core.parameters.diffusion import (
    DAPS,
    DCDP,
    DDS,
    DPS,
    MCG,
    DiffPIR,
    PredictorCorrector,
    REDDiff,
    Sampler,
    ScoreMRI,
)
from udig_recon.core.parameters.holdout import EarlyStoppingParameters, HoldoutParameters, check_views
from udig_recon.core.parameters.networks import (
    DIP,
    ESDIP,
    OES,
    TVDIP,
    ASeqDIP,
    DIPProbe,
    Fit,
    RandomInput,
    RefGuidedDIP,
    SelfGuidedDIP,
)
from udig_recon.core.parameters.registry import METHODS, method_type, parse
from udig_recon.core.parameters.udig_dip import PAPER, PRESETS, UDiGDIP

__all__ = [
    "DAPS",
    "DCDP",
    "DDS",
    "DIP",
    "DPS",
    "ESDIP",
    "FBP",
    "MAX_SEEDS",
    "MCG",
    "METHODS",
    "OES",
    "PAPER",
    "PRESETS",
    "SIRT",
    "TV",
    "TVDIP",
    "ASeqDIP",
    "CGSense",
    "DIPProbe",
    "DiffPIR",
    "EarlyStoppingParameters",
    "Fit",
    "HoldoutParameters",
    "L1Wavelet",
    "Method",
    "NoiseLevels",
    "Parameters",
    "PredictorCorrector",
    "REDDiff",
    "RandomInput",
    "RefGuidedDIP",
    "Sampler",
    "ScoreMRI",
    "SelfGuidedDIP",
    "UDiGDIP",
    "ZeroFilled",
    "check_views",
    "complete",
    "parse",
    "require",
    "require_random",
]

MAX_SEEDS = 64

if TYPE_CHECKING:
    Method = Parameters


def __getattr__(name: str) -> Any:
    """`Method`, the union of all methods' parameters, is made when it is first imported: see `registry.METHODS`."""
    if name == "Method":
        return method_type()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def complete(method: Parameters, modality: Modality) -> Parameters:
    """Fill in the parameters that were not given and depend on the modality.

    Raises UnsupportedScan when the method, or one of its parameters, does not apply to the modality.
    """
    if modality not in method.modalities:
        name = method.method
        fitting = [key for key, cls in METHODS.items() if modality in cls.modalities]
        raise UnsupportedScan(
            f"method {name} does not reconstruct {modality}; these do: {', '.join(fitting)}",
            field="parameters.method",
            found=name,
            expected=" | ".join(fitting),
        )
    check_preprocessing(method, modality)
    return method.complete(modality)


def require(method: Parameters, arrays: Container[str]) -> None:
    """Raise UnsupportedScan when a method needs an array that is not among those of the scan."""
    if method.needs is None or method.needs in arrays:
        return
    raise UnsupportedScan(
        f"method {method.method} with these parameters needs an image {method.needs!r} in the scan, found none"
        f"{method.needs_cure}",
        field=f"scan.{method.needs}",
        found="none",
        expected=f"an array {method.needs} (slices, y, x)",
    )


def require_random(method: Parameters, seeds: int) -> None:
    """Raise UnsupportedScan when several seeds are requested of a method that gives the same image for each."""
    if seeds == 1 or method.is_random:
        return
    drawing = [name for name in METHODS if parse({"method": name}).is_random]
    raise UnsupportedScan(
        f"method {method.method} with these parameters gives the same image for every seed, so {seeds} seeds have no "
        f"standard deviation; seeds must be 1, or the method one that draws at random: {', '.join(drawing)}",
        field="seeds",
        found=str(seeds),
        expected="1",
    )

"""Every knob of every method, written once: HTTP schema, stored job, function argument and README table alike."""

from collections.abc import Container
from typing import Annotated, Any, get_args

from pydantic import Field, TypeAdapter

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.parameters.base import EarlyStoppingParameters, HoldoutParameters, Levels, Parameters
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
    "Levels",
    "Method",
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

Method = Annotated[
    UDiGDIP
    | DDS
    | DiffPIR
    | DAPS
    | DPS
    | REDDiff
    | DCDP
    | ScoreMRI
    | MCG
    | DIP
    | ESDIP
    | TVDIP
    | ASeqDIP
    | SelfGuidedDIP
    | RefGuidedDIP
    | OES
    | DIPProbe
    | TV
    | L1Wavelet
    | CGSense
    | ZeroFilled
    | SIRT
    | FBP,
    Field(discriminator="method"),
]
METHODS: dict[str, type[Parameters]] = {
    cls.model_fields["method"].default: cls for cls in get_args(get_args(Method)[0])
}
_METHOD: TypeAdapter[Parameters] = TypeAdapter(Method)
MAX_SEEDS = 64
CT_STARTS = ("fbp", "sirt")
LEAST_VIEWS = 2
"""that an image is made of"""


def parse(raw: dict[str, Any]) -> Parameters:
    """Parameters from their JSON form. Raises pydantic.ValidationError where a knob is unknown or out of bounds."""
    return _METHOD.validate_python(raw)


def complete(method: Parameters, modality: Modality) -> Parameters:
    """Fill the knobs that were not given from the preset for this modality.

    Raises UnsupportedScan when the method does not apply to the modality.
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
    if not isinstance(method, UDiGDIP):
        return method
    filled = UDiGDIP(**{**PRESETS[method.preset, modality], **method.model_dump(exclude_unset=True)})
    if modality is Modality.MRI and filled.start in CT_STARTS:
        raise UnsupportedScan(
            f"start {filled.start} needs a CT scan; an MRI scan starts from cg_sense, tv or adjoint",
            field="parameters.start",
            found=filled.start,
            expected="cg_sense | tv | adjoint",
        )
    return filled


def require(method: Parameters, held: Container[str]) -> None:
    """Raise UnsupportedScan when a method needs an array that is not among those the scan holds."""
    if method.needs is None or method.needs in held:
        return
    without = "; the knob guide may be plain" if isinstance(method, RefGuidedDIP) else ""
    raise UnsupportedScan(
        f"method {method.method} with these knobs needs an image {method.needs!r} in the scan, found none{without}",
        field=f"scan.{method.needs}",
        found="none",
        expected=f"an array {method.needs} (slices, y, x)",
    )


def check_views(method: Parameters, views: int) -> None:
    """Raise UnsupportedScan when a method leaves out so many of a scan's views that less than two are kept."""
    share = getattr(method, "holdout_share", None)
    if not share or getattr(method, "holdout", "lines") != "lines":
        return
    left_out = max(1, round(share * views))
    if views - left_out < LEAST_VIEWS:
        raise UnsupportedScan(
            f"holdout_share {share:g} leaves out {left_out} of {views} views, which leaves fewer than {LEAST_VIEWS}",
            field="parameters.holdout_share",
            found=f"{left_out} of {views} views",
            expected=f"{max(0, views - LEAST_VIEWS)} views or fewer; 0 leaves out none",
        )


def require_random(method: Parameters, seeds: int) -> None:
    """Raise UnsupportedScan when several seeds are asked of a method that gives the same image for each."""
    if seeds == 1 or method.is_random:
        return
    drawing = [name for name in METHODS if parse({"method": name}).is_random]
    raise UnsupportedScan(
        f"method {method.method} with these knobs gives the same image for every seed, and {seeds} have no spread; "
        f"seeds must be 1, or the method one that draws at random: {', '.join(drawing)}",
        field="seeds",
        found=str(seeds),
        expected="1",
    )

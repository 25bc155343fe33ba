"""Layout of HelTomo's MATLAB files, as of the Helsinki Tomography Challenge 2022: fan-beam sinograms."""

import math
from collections.abc import Mapping

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import ArraySource, InMemory
from udig_recon.core.formats.containers.matlab_arrays import MatlabStruct
from udig_recon.core.formats.input_format import Contents

_STRUCTS = ("CtDataFull", "CtDataLimited", "CtData")
_LENGTHS = {
    "source_origin_mm": ("distanceSourceOrigin",),
    "source_detector_mm": ("distanceSourceDetector",),
    "detector_spacing_mm": ("pixelSizePost", "pixelSize"),
}
_MOST_ANGLES = 1 << 16
_MOST_BYTES = 256 << 20


def heltomo_contents(variables: MatlabStruct) -> Contents | None:
    """The sinogram (views, detectors) of a struct CtDataFull or CtDataLimited with its geometry; None without one.

    Raises UnreadableScan where the geometry is incomplete.
    """
    data = next((value for name in _STRUCTS if isinstance(value := variables.get(name), Mapping)), None)
    if data is None:
        return None
    sinogram, parameters = data.get("sinogram"), data.get("parameters")
    if not isinstance(sinogram, ArraySource) or not isinstance(parameters, Mapping):
        return None
    angles = parameters.get("angles")
    if not isinstance(angles, ArraySource) or not 0 < math.prod(angles.shape) <= _MOST_ANGLES:
        raise UnreadableScan.at("angles", "none in parameters", "parameters.angles, degrees of each view")
    views = math.prod(angles.shape)
    attributes: dict[str, float | str] = {"geometry": "fan_flat"}
    for ours, theirs in _LENGTHS.items():
        found = [value for name in theirs if isinstance(value := parameters.get(name), ArraySource)]
        if not found or math.prod(found[0].shape) != 1 or found[0].dtype.kind not in "iuf":
            raise UnreadableScan.at(ours, "none in parameters", f"parameters.{theirs[0]}, one number")
        attributes[ours] = float(found[0].whole().reshape(-1)[0])
    # MATLAB's (views, detectors) is seen with its axes reversed.
    if len(sinogram.shape) != 2 or sinogram.shape[1] != views:
        found_shape = f"shape {sinogram.shape[::-1]} beside {views} angles"
        raise UnreadableScan.at("sinogram", found_shape, "(views, detectors), with as many views as angles")
    sinogram.check_stored()
    if sinogram.nbytes > _MOST_BYTES:
        raise UnreadableScan.at("sinogram", f"{sinogram.nbytes} bytes", f"at most {_MOST_BYTES}")
    return Contents(
        format="matlab",
        arrays={
            "sinogram": InMemory("sinogram", sinogram.whole().T.copy()),
            "angles": InMemory("angles", np.deg2rad(angles.whole().reshape(-1).astype(np.float64))),
        },
        attributes=attributes,
        warnings=("a HelTomo file: angles are degrees, the detector is flat",),
    )

"""Preprocessing of sinograms: the axis of rotation and rings, where it was asked for."""

from dataclasses import replace

import numpy as np

from udig_recon.core.acquisition import CTAcquisition
from udig_recon.core.preprocessing.options import Preprocessing, check_rotation_center
from udig_recon.core.preprocessing.rings import correct_rings
from udig_recon.core.preprocessing.rotation import find_axis
from udig_recon.core.scan_geometry import Geometry


def preprocess_sinogram(scan: CTAcquisition, index: int, wanted: Preprocessing) -> CTAcquisition:
    """The scan as asked for. Raises UnsupportedScan for an axis of rotation outside the detector.

    `auto` takes the axis that was found when the scan was read, the same for all its slices, or else finds that of
    slice number `index`; where there is none the file's stays.
    """
    if isinstance(wanted.rotation_center, float):
        check_rotation_center(wanted.rotation_center, scan.sinogram.shape[-1])
        scan = replace(scan, rotation_center=wanted.rotation_center)
    elif wanted.rotation_center == "auto":
        found = scan.found_rotation_center
        if found is None:
            found = find_axis(scan.sinogram[index], scan.angles, scan.measured_of(index), geometry_of(scan)).center
        if found is not None:
            scan = replace(scan, rotation_center=found)
    if wanted.ring_correction:
        sinogram = np.array(scan.sinogram)
        sinogram[index] = correct_rings(sinogram[index], scan.measured_of(index), geometry_of(scan).axis)
        scan = replace(scan, sinogram=sinogram)
    return scan


def geometry_of(scan: CTAcquisition) -> Geometry:
    """Geometry of a scan."""
    fan = scan.geometry != "parallel"
    return Geometry(
        tuple(map(float, scan.angles)),
        scan.image_size,
        scan.sinogram.shape[-1],
        scan.pixel_size_mm,
        scan.detector_spacing_mm,
        scan.rotation_center,
        scan.geometry,
        scan.source_origin_mm if fan and scan.source_origin_mm is not None else float("inf"),
        scan.source_detector_mm if fan and scan.source_detector_mm is not None else float("inf"),
    )

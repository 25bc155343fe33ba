"""Names that other tools give to the arrays and attributes of scan files."""

from collections.abc import Iterable

from udig_recon.core.errors import UnreadableScan

SYNONYMS = {
    "kspace": (
        "ksp", "k_space", "kdata", "kspace_data", "rawdata", "raw_kspace", "kspace_undersampled", "undersampled_kspace",
        "kspace_us", "us_kspace", "kspace_multicoil", "multicoil_kspace",
        "kspace_full", "kspace_sub04", "kspace_sub08", "kspace_sub10", "kspace_single_full", "kspace_single_sub04",
        "kspace_single_sub08", "kspace_single_sub10",
    ),
    "mask": (
        "sampling_mask", "undersampling_mask", "kspace_mask", "ksp_mask", "samp_mask", "sampling_pattern", "us_mask",
        "mask_us", "sample_mask", "acquisition_mask", "mask04", "mask08", "mask10",
    ),
    "sensitivity_maps": (
        "maps", "smap", "sens_map", "coil_map", "coil_sens", "coil_sensitivity", "coil_sensitivity_maps",
        "espirit_maps", "sensitivitymaps", "coilsens",
        "s_maps", "smaps", "sens_maps", "sensmaps", "sens", "csm", "csmap", "csmaps", "coil_maps", "coilmaps",
        "coil_sensitivities", "sensitivities", "sensitivity_map", "sensitivity",
    ),
    "reference": (
        "ground_truth", "groundtruth", "target", "mvue", "gt", "image_gt", "img_gt", "reference_image", "target_image",
    ),
    "trajectory": ("traj", "ktraj", "k_traj", "kspace_trajectory", "coords", "coord", "trajectories", "k_trajectory"),
    "density": ("dcf", "dcomp", "dcf_weights", "density_compensation"),
    "noise": ("noise_scan", "noise_data", "noise_samples"),
    "sinogram": ("sino", "sinograms", "sinord", "sinogram_data"),
    "angles": (
        "theta", "thetas", "angles_rad", "anglesrad", "theta_rad", "angles_radians", "projection_angles_rad",
    ),
    "geometry": ("beam_geometry", "scan_geometry", "geometry_type", "beam_type"),
    "detector_shape": ("detector_type", "detector_geometry"),
    "detector_spacing_mm": ("detector_pitch_mm", "detector_pixel_size_mm", "detector_element_size_mm"),
    "water_attenuation_per_mm": ("mu_water_per_mm", "mu_water_mm", "mu_water", "water_per_mm"),
    "rotation_center": ("rotation_centre", "center_of_rotation", "centre_of_rotation", "axis_of_rotation"),
    "source_origin_mm": (
        "source_origin", "source_to_origin_mm", "source_origin_distance", "distance_source_origin",
        "distance_source_origin_mm", "distancesourceorigin", "source_to_axis_mm", "source_axis_distance",
        "source_to_isocenter_mm", "source_isocenter_distance", "source_object_distance", "source_to_object_mm",
        "sod", "sod_mm", "dso", "dso_mm", "sad", "sad_mm",
    ),
    "source_detector_mm": (
        "source_detector", "source_to_detector_mm", "source_detector_distance", "distance_source_detector",
        "distance_source_detector_mm", "distancesourcedetector", "sdd", "sdd_mm", "dsd", "dsd_mm",
    ),
    "origin_detector_mm": (
        "origin_detector", "origin_to_detector_mm", "origin_detector_distance", "distance_origin_detector",
        "distance_origin_detector_mm", "distanceorigindetector", "object_detector_distance", "odd", "odd_mm", "dod",
    ),
}  # fmt: skip
_OURS = {theirs: ours for ours, others in SYNONYMS.items() for theirs in others}


def match_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The file's spelling of each known name that it has: the same, in other letters, or a synonym.

    Raises UnreadableScan where two names of the file mean the same and neither is the known one.
    """
    listed, wanted = list(names), set(known)
    matched = {name: name for name in listed if name in wanted}
    for name in listed:
        plain = name.lower().replace("-", "_")
        ours = plain if plain in wanted else _OURS.get(plain)
        if ours is None or ours not in wanted or matched.get(ours) in (ours, name):
            continue
        if ours in matched:
            both = " and ".join(sorted((matched[ours], name)))
            raise UnreadableScan.at(ours, both, f"one of them, named {ours}")
        matched[ours] = name
    return matched

"""Names that other tools give to the arrays of k-space files."""

from collections.abc import Iterable

from udig_recon.core.errors import UnreadableScan

SYNONYMS = {
    "kspace": ("ksp", "k_space", "kdata", "kspace_data", "rawdata", "raw_kspace"),
    "mask": ("sampling_mask", "undersampling_mask", "kspace_mask", "ksp_mask", "samp_mask", "sampling_pattern"),
    "sensitivity_maps": (
        "s_maps", "smaps", "sens_maps", "sensmaps", "sens", "csm", "csmap", "csmaps", "coil_maps", "coilmaps",
        "coil_sensitivities", "sensitivities", "sensitivity_map", "sensitivity",
    ),
    "reference": ("ground_truth", "groundtruth", "target", "mvue"),
    "noise": ("noise_scan", "noise_data", "noise_samples"),
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

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


def spelt(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For each known name that a file has, how the file spells it: itself, in other letters, or by a synonym.

    Raises UnreadableScan where two names mean the same and neither is the known one.
    """
    listed, wanted = list(names), set(known)
    found = {name: name for name in listed if name in wanted}
    for name in listed:
        plain = name.lower().replace("-", "_")
        ours = plain if plain in wanted else _OURS.get(plain)
        if ours is None or ours not in wanted or found.get(ours) in (ours, name):
            continue
        if ours in found:
            raise UnreadableScan.at(ours, " and ".join(sorted((found[ours], name))), f"one of them, named {ours}")
        found[ours] = name
    return found

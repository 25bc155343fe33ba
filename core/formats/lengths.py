"""Lengths in millimetres that a file gives as attributes."""

from collections.abc import Mapping

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.limits import quote_safely
from udig_recon.core.formats.with_warnings import WithWarnings

RANGE_MM = (1e-4, 1e3)
"""Shortest and longest length that is taken for one of a scan."""


def length(attributes: Mapping[str, float | str], name: str, most: float = RANGE_MM[1]) -> float | None:
    """A length (mm) of at most `most`; None where the file gives none. Raises UnreadableScan for what is no length."""
    value = attributes.get(name)
    if value is None:
        return None
    if isinstance(value, str) or not RANGE_MM[0] <= value <= most:
        expected = f"a length in millimetres between {RANGE_MM[0]:g} and {most:g}"
        if not isinstance(value, str) and value > most:
            expected += " (micrometres are divided by 1000)"
        if isinstance(value, str):
            expected += ", as a number, not as text"
        raise UnreadableScan.at(name, quote_safely(value), expected)
    return value


def slice_spacing(attributes: Mapping[str, float | str]) -> WithWarnings[float | None]:
    """Distance between the centres of slices (mm): `slice_spacing_mm`, else `slice_thickness_mm`, else None."""
    spacing, thickness = length(attributes, "slice_spacing_mm"), length(attributes, "slice_thickness_mm")
    if spacing is None and thickness is not None:
        warning = f"the file gives no slice_spacing_mm: slice_thickness_mm {thickness:g} is taken for it"
        return WithWarnings(thickness, (warning,))
    return WithWarnings(spacing)

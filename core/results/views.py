"""Views of one slice of a result as PNG: image, plain image, reference, errors, deviation, hallucination map."""

from collections.abc import Sequence
from typing import Literal

from udig_recon.core.quality.rating import HALLUCINATION_THRESHOLD
from udig_recon.core.results import png
from udig_recon.core.results.output_format import ResultSlice

View = Literal["magnitude", "direct", "reference", "error", "direct_error", "deviation", "hallucination"]
VIEWS: tuple[View, ...] = (
    *("magnitude", "direct", "reference", "error", "direct_error", "deviation", "hallucination"),
)
GAIN = 5
"""Of errors and deviations."""


def views_of(result: ResultSlice) -> list[View]:
    """The views that can be drawn of a slice."""
    missing: set[View] = set()
    if result.reference is None:
        missing |= {"reference", "error", "direct_error"}
    if result.deviation is None:
        missing.add("deviation")
    if result.hallucination is None:
        missing.add("hallucination")
    return [view for view in VIEWS if view not in missing]


def draw_view(
    view: View, result: ResultSlice, levels: png.Window | None = None, spacing_mm: Sequence[float] | None = None
) -> bytes | None:
    """The view on a window; without one on that of the image, or for an error that of the reference.

    Errors and deviations are drawn from 0 to the window's width. None where the slice lacks what the view needs.
    """
    window = levels or png.display_window(result.image)
    width = None if levels is None else (0.0, levels[1] - levels[0])  # of a difference
    match view:
        case "magnitude":
            return png.magnitude_png(result.image, window, spacing_mm)
        case "direct":
            return png.magnitude_png(result.direct, window, spacing_mm)
        case "reference" if result.reference is not None:
            return png.magnitude_png(result.reference, window, spacing_mm)
        case "error" if result.reference is not None:
            return png.error_png(result.image, result.reference, GAIN, spacing_mm, width)
        case "direct_error" if result.reference is not None:
            return png.error_png(result.direct, result.reference, GAIN, spacing_mm, width)
        case "deviation" if result.deviation is not None:
            return png.magnitude_png(GAIN * result.deviation, width or window, spacing_mm)
        case "hallucination" if result.hallucination is not None:
            return png.overlay_png(result.image, result.hallucination, 2 * HALLUCINATION_THRESHOLD, spacing_mm, window)
    return None

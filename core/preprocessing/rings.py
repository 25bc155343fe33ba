"""Rings: detectors that read too much or too little in every view, found and corrected in the sinogram. Torch-free."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from udig_recon.core.sinogram_statistics import fill_view

Values = NDArray[np.float64]

NEIGHBOURS = 5
"""Detectors with whose median each one is compared, itself among them; wider rings than two detectors are not seen."""
ALIKE = 0.3
"""Share by which the mirrored edge of a circle may deviate less; of one that deviates less still it is no edge."""
OUTLIER = 4.0
"""Median absolute deviations by which a circle's edges must stand out among the detectors."""
SEEN = 0.004
"""Deviation that a quarter of the detectors exceed, as a share of the sinogram's peak, from which rings are told."""
SURE = 5.0
"""Standard deviations of the noise by which it must exceed what noise explains."""
_SMOOTH = np.array((-21, 14, 39, 54, 59, 54, 39, 14, -21)) / 231  # keeps parabolas (Savitzky, Golay 1964)
_LEAST_VIEWS = 24


def ring_profile(sinogram: NDArray[np.float32], measured: NDArray[np.bool_] | None, axis: float) -> Values:
    """What each detector reads too much in every view, (detectors,), of line integrals (views, detectors).

    It is the median over the views of a ray's difference from the median of its neighbours. Of a body round about the
    axis of rotation the edges differ from their neighbours in every view, too, but at two detectors as far to either
    side of the axis: where two such stand out and are alike they count as a circle, and as 0 here. Rings about the
    axis that the object really has are kept so, unless detectors deviate about as much everywhere, or the mirrored
    detector is beyond the end of the row.
    """
    p = np.asarray(sinogram, np.float64)
    if len(p) < _LEAST_VIEWS or p.shape[1] < 2 * NEIGHBOURS:
        return np.zeros(p.shape[1])
    if measured is not None:
        rows = zip(p, measured, strict=True)
        p = np.stack([fill_view(row, known) if known.any() else row for row, known in rows])
    # On a slope a median is blind to small deviations: slopes that all views have in common are taken away first.
    level = p - np.convolve(np.pad(p.mean(axis=0), len(_SMOOTH) // 2, mode="edge"), _SMOOTH, "valid")
    rough = level - ndimage.median_filter(level, (1, NEIGHBOURS), mode="nearest")
    if measured is None:
        profile = np.median(rough, axis=0)
    else:
        there = measured.any(axis=0)
        masked = np.where(measured, rough, np.nan)[:, there]
        profile = np.zeros(p.shape[1])
        profile[there] = np.nanmedian(masked, axis=0)
    return np.where(_circles(profile, axis), 0.0, profile)


def _circles(profile: Values, axis: float) -> NDArray[np.bool_]:
    """Which detectors stand out as much as the one mirrored at the axis, or a neighbour of it."""
    places = np.arange(len(profile))
    spread = 1.4826 * float(np.median(np.abs(profile)))
    mirrored = np.round(2 * axis - places).astype(np.intp)
    found = np.zeros(len(profile), bool)
    for step in (-1, 0, 1):
        other = mirrored + step
        inside = (other >= 0) & (other < len(profile))
        value = np.where(inside, profile[np.clip(other, 0, len(profile) - 1)], 0.0)
        found |= (value * np.sign(profile) >= (1 - ALIKE) * np.abs(profile)) & (np.abs(value) > OUTLIER * spread)
    return found


def correct_rings(
    sinogram: NDArray[np.float32], measured: NDArray[np.bool_] | None, axis: float
) -> NDArray[np.float32]:
    """Line integrals (views, detectors) without what `ring_profile` finds; missing rays stay as they are."""
    corrected = sinogram - ring_profile(sinogram, measured, axis).astype(np.float32)
    return corrected if measured is None else np.where(measured, corrected, sinogram)


def ring_warning(sinogram: NDArray[np.float32], measured: NDArray[np.bool_] | None, axis: float) -> str | None:
    """A warning where detectors deviate from their neighbours by more than noise explains; None: they do not."""
    p = np.asarray(sinogram, np.float64)
    peak = float(np.percentile(np.abs(p), 99.5))
    profile = ring_profile(sinogram, measured, axis)
    if peak <= 0 or not profile.any():
        return None
    inside = np.abs(p).max(axis=0) > 0.1 * peak
    rough = p[:, :-2] - 2 * p[:, 1:-1] + p[:, 2:]
    noise = float(np.median(np.abs(rough - np.median(rough, axis=0)))) / 0.6745 / 6**0.5 * 1.25 / np.sqrt(len(p))
    size = float(np.percentile(np.abs(profile[inside]), 75)) if inside.any() else 0.0
    if size <= max(SEEN * peak, SURE * noise):
        return None
    return (
        f"a quarter of the detectors differ from their neighbours by {100 * size / peak:.2g} percent of the largest "
        "value or more in every view, which makes rings: ring_correction in the job takes them away, but may weaken "
        "circles about the axis"
    )

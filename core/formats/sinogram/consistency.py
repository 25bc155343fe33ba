"""Consistency conditions of sinograms: warnings where values cannot be line integrals of one object.

Sums over the detectors are the same in all views and their centre of mass follows the angles as a sine (Helgason 1965,
Ludwig 1966, orders 0 and 1), views half a turn apart are mirror images, and rays beside the object read nothing. A
sinogram that breaks them gets a warning with the likely cause and is never refused: an object that reaches beyond the
detector meets none of these conditions.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.sinogram_statistics import end_margin, end_means, fill_missing_rays, fill_view, ray_noise

Values = NDArray[np.float64]

LEAST_VIEWS, LEAST_DETECTORS = 4, 8
CUT = 0.05
"""A view counts as truncated where its edge reads more than this share of the peak."""
MOST_CUT = 0.05
"""Share of the views that may be truncated without a warning."""
UNEVEN = 0.1
"""Sums over the detectors that differ by more than this share (standard deviation) give a warning."""
ALIKE = 0.3
"""Views half a turn apart that are nearer to each other than to their mirror images by this factor give a warning."""
_MOST_NAMED = 8


def consistency_warnings(
    sinogram: NDArray[np.float32], angles: Values, measured: NDArray[np.bool_] | None = None
) -> list[str]:
    """Warnings about one slice's sinogram (views, detectors) of line integrals.

    Angles (views,) are radians, `measured` is False where a ray is missing. Fewer than LEAST_VIEWS views or
    LEAST_DETECTORS detectors give no warnings.
    """
    p = np.asarray(sinogram, np.float64)
    numbers = np.arange(len(p))
    if measured is not None:
        p, views = fill_missing_rays(p, measured)
        numbers = np.flatnonzero(views)
    peak = float(np.percentile(np.abs(p), 99.5)) if p.size else 0.0
    if len(p) < LEAST_VIEWS or p.shape[1] < LEAST_DETECTORS or peak == 0:
        return []
    warnings = _no_logarithm(p) or _swapped_axes(p, peak)
    if warnings:
        return warnings
    dead_views = _dead_views(p)
    known = np.ones(p.shape[1], bool) if measured is None else np.asarray(measured[numbers].all(axis=0))
    dead = _dead_detectors(p[~dead_views], peak, known)
    if dead_views.any():
        warnings.append(f"{format_numbers('view', numbers[dead_views])}: every detector reads the same")
    if dead.any():
        warnings.append(
            f"{format_numbers('detector', np.flatnonzero(dead))}: the same reading in every view (rings); {_LEAVE_OUT}"
        )
        p = np.stack([fill_view(row, ~dead) for row in p])
    if dead_views.any():
        warnings[0] += f"; {_LEAVE_OUT}"
    kept = ~dead_views
    return warnings + _broken_laws(p[kept], angles[numbers][kept], numbers[kept], peak)


_LEAVE_OUT = "an array mask (views, detectors) with 0 there leaves them out"


def _broken_laws(p: Values, angles: Values, numbers: NDArray[np.intp], peak: float) -> list[str]:
    if len(p) < LEAST_VIEWS:
        return []
    warnings = [*_deviating_detectors(p, angles, peak), *_background_level(p, peak)]
    if cut := cut_off_warnings(p, peak):
        return [*warnings, *cut]
    return warnings + _unequal_sums(p, numbers) + _wandering_centre(p, angles) + _not_mirrored(p, angles)


def _no_logarithm(p: Values) -> list[str]:
    """Transmissions or counts: rays beside the object read 1, or i0, and rays through it less."""
    edges = end_means(p)
    level = float(np.median(edges))
    if level <= 0 or np.percentile(np.abs(edges - level), 90) > 0.2 * level:
        return []
    if np.percentile(p, 99) > 1.25 * level or p.min() < -0.05 * level or np.mean(p < 0.9 * level) < 0.02:
        return []
    # Beside an object the beam is even; where one is cut off, its rays become longer or shorter towards the edge.
    margin, inner = end_margin(p), max(1, p.shape[1] // 20)
    slopes = edges.mean(axis=1) - (p[:, inner : inner + margin].mean(), p[:, -inner - margin : -inner].mean())
    if np.abs(slopes).max() > max(0.005 * level, 4 * ray_noise(p) / np.sqrt(margin * len(p))):
        return []
    i0 = "1" if 0.7 < level < 1.4 else f"{level:.3g}"
    return [
        f"values are highest beside the object, about {level:.3g}, and lower within: these look like transmissions or "
        f"counts rather than line integrals; if so, set quantity='counts' and i0={i0}"
    ]


def _swapped_axes(p: Values, peak: float) -> list[str]:
    """Swapped axes: as many views as detectors, and the conditions hold along the wrong axis."""
    if p.shape[0] != p.shape[1]:
        return []
    over_detectors, over_views = _variation(p.sum(axis=1)), _variation(p.sum(axis=0))
    if over_views > 0.05 or over_detectors < max(0.1, 4 * over_views) or end_means(p.T).max() > 0.1 * peak:
        return []
    return [
        "sums over the detectors differ from view to view, sums over the views do not: the axes look swapped, "
        "(detectors, views) rather than (views, detectors); if so, transpose the sinogram"
    ]


def _dead_views(p: Values) -> NDArray[np.bool_]:
    dead: NDArray[np.bool_] = p.max(axis=1) == p.min(axis=1)
    return dead


def _dead_detectors(p: Values, peak: float, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Detectors with one reading in all views between neighbours that see the object in most views."""
    if len(p) < LEAST_VIEWS:
        return np.zeros(p.shape[1], bool)
    constant: NDArray[np.bool_] = (p.max(axis=0) == p.min(axis=0)) & known
    living = np.flatnonzero(~constant)
    dead = constant.copy()
    for index in np.flatnonzero(constant):
        place = int(np.searchsorted(living, index))
        if place in (0, living.size):
            dead[index] = False
            continue
        nearest = np.minimum(p[:, living[place - 1]], p[:, living[place]])
        dead[index] = bool(np.mean(np.abs(nearest - p[0, index]) > 0.05 * peak) > 0.5)
    return dead


def _deviating_detectors(p: Values, angles: Values, peak: float) -> list[str]:
    """Detectors that differ from both neighbours by the same in view after view, which parts of an object do not.

    Except those of a body about the axis itself, which differ at the mirrored detector too. The axis is where the mean
    of all views has its centre.
    """
    folded = np.sort(np.mod(angles, np.pi))
    if len(p) < 12 or np.diff(folded, append=folded[0] + np.pi).max() > np.pi / 2:
        return []
    rough = np.median(p[:, 1:-1] - (p[:, :-2] + p[:, 2:]) / 2, axis=0)
    spread = 1.4826 * float(np.median(np.abs(rough)))
    odd = np.abs(rough) > max(0.03 * peak, 12 * spread)
    # Where the detector alone is off, both neighbours seem off by half of that the other way.
    beside = np.stack((np.roll(rough, 1), np.roll(rough, -1))) / np.where(rough == 0, np.inf, rough)
    odd &= ((beside > -0.75) & (beside < -0.25)).all(axis=0)
    places, mean = np.arange(p.shape[1]), np.clip(p.mean(axis=0) - np.median(end_means(p)), 0, None)
    twice = 2 * float(mean @ places) / max(float(mean.sum()), np.finfo(np.float64).tiny)
    found = [
        int(index) + 1
        for index in np.flatnonzero(odd)
        if np.abs(rough[np.abs(places[1:-1] - (twice - (index + 1))) < 3]).max(initial=0) < 0.3 * np.abs(rough[index])
    ]
    if not found:
        return []
    return [f"{format_numbers('detector', found)}: readings unlike the neighbours' in every view (rings); {_LEAVE_OUT}"]


def _background_level(p: Values, peak: float) -> list[str]:
    """Rays beside the object read 0; where they all read something else, the beam is not what the file says."""
    ends = end_means(p)
    edges = np.concatenate((p[:, : end_margin(p)].ravel(), p[:, -end_margin(p) :].ravel()))
    level, spread = float(np.median(edges)), 1.4826 * float(np.median(np.abs(edges - np.median(edges))))
    if np.percentile(p, 99) < 0.1 * peak and abs(level) < CUT * peak:
        return ["line integrals are negative within the object: the logarithm's sign seems lost; if so, negate them"]
    least, noise = max(0.003 * peak, 6 * spread / np.sqrt(edges.size), 0.01), ray_noise(p) / np.sqrt(end_margin(p))
    inner = np.stack((p[:, end_margin(p) + p.shape[1] // 20], p[:, -1 - end_margin(p) - p.shape[1] // 20])).mean(axis=1)
    # Objects that are cut off end unevenly, or falling steeply.
    uneven = np.percentile(np.abs(ends - level), 90) > 0.1 * level + 4 * noise
    sloping = np.abs(ends.mean(axis=1) - inner).max() > 0.2 * level
    if -peak <= level < -least or (2 * least < level < 0.3 * peak and not uneven and not sloping):
        how = "stronger" if level < 0 else "weaker"
        return [
            f"rays beside the object read {level:.2g} throughout rather than 0: the unattenuated beam (flat field, i0) "
            f"seems {100 * abs(np.expm1(-level)):.2g} percent {how} than it was taken for"
        ]
    return []


_CUT_OFF = "values at the detector's edge are far from 0"


def cut_off_warnings(p: Values, peak: float) -> list[str]:
    """A warning about a sinogram (views, detectors) of an object that reaches beyond the detector."""
    cut = _cut_off(p, peak)
    if np.count_nonzero(cut) <= MOST_CUT * len(p):
        return []
    shares = f"{np.count_nonzero(cut)} of {len(p)} views"
    return [f"{_CUT_OFF} in {shares}: the object reaches beyond the detector, or the flat field is off"]


def is_cut_off(warnings: Iterable[str]) -> bool:
    """Whether one of the warnings is that of `cut_off_warnings`."""
    return any(each.startswith(_CUT_OFF) for each in warnings)


def _cut_off(p: Values, peak: float) -> NDArray[np.bool_]:
    cut: NDArray[np.bool_] = end_means(p).max(axis=0) > CUT * peak + 4 * ray_noise(p) / np.sqrt(end_margin(p))
    return cut


def _unequal_sums(p: Values, numbers: NDArray[np.intp]) -> list[str]:
    sums = p.sum(axis=1)
    usual = float(np.median(sums))
    if usual <= 0:
        return []
    off = np.abs(sums / usual - 1)
    noise = ray_noise(p) * np.sqrt(p.shape[1]) / usual
    outliers = off > max(0.3, 8 * 1.4826 * float(np.median(off)), 8 * noise)
    if 0 < np.count_nonzero(outliers) <= len(p) // 4:
        share = 100 * float(np.median(sums[outliers])) / usual
        return [
            f"{format_numbers('view', numbers[outliers])}: the sum over the detectors is {share:.3g} percent of other "
            f"views', which line integrals of one object never are; {_LEAVE_OUT}"
        ]
    varied = float(sums.std()) / usual
    if varied <= max(UNEVEN, 5 * noise):
        return []
    return [
        f"sums over the detectors differ from view to view by {100 * varied:.2g} percent, which parallel line "
        "integrals of one object never do: check the order of the axes, the geometry, the beam and whether all of the "
        "object is seen"
    ]


def _wandering_centre(p: Values, angles: Values) -> list[str]:
    """The centre of mass is a constant and a sine of the angle."""
    p = p - np.median(end_means(p))
    sums = p.sum(axis=1)
    usual = float(np.median(sums))
    if len(p) < 2 * LEAST_VIEWS or sums.min() < usual / 2 or usual <= 20 * ray_noise(p) * np.sqrt(p.shape[1]):
        return []
    places = np.arange(p.shape[1]) - (p.shape[1] - 1) / 2
    centre = (p * places).sum(axis=1) / sums
    waves = np.stack((np.ones_like(angles), np.cos(angles), np.sin(angles)), axis=1)
    left = centre - waves @ np.linalg.lstsq(waves, centre, rcond=None)[0]
    off = float(np.sqrt(np.mean(left**2)))
    noise = ray_noise(p) * float(np.sqrt((places**2).sum())) / usual
    if off <= max(1.0, 0.01 * p.shape[1]) + 4 * noise:
        return []
    return [
        f"the centre of mass of the views strays {off:.2g} detectors from what the angles say: check that there is one "
        "angle for each view in their order, in radians, that the beam is parallel and that nothing moved"
    ]


def _not_mirrored(p: Values, angles: Values) -> list[str]:
    """Views half a turn apart are mirror images about their common centre of mass, not alike."""
    order = np.argsort(angles)
    step = float(np.median(np.diff(angles[order])))
    partner = order[np.clip(np.searchsorted(angles[order], angles + np.pi), 0, len(p) - 1)]
    pairs = np.flatnonzero(np.abs(angles[partner] - angles - np.pi) <= max(step, 1e-6))
    if pairs.size < LEAST_VIEWS or step > np.pi / 8:
        return []
    # Smoothed, so that what is drawn between detectors is as good as what was measured.
    width = max(3, p.shape[1] // 30)
    p = np.stack([np.convolve(row, np.ones(width) / width, "same") for row in p])
    places = np.arange(p.shape[1], dtype=np.float64)
    same = mirrored = 0.0
    for first, second in zip(pairs, partner[pairs], strict=True):
        sums = p[first].sum(), p[second].sum()
        if min(sums) <= 0:
            return []
        twice = float(p[first] @ places / sums[0] + p[second] @ places / sums[1])
        flipped = np.interp(twice - places, places, p[first], left=0.0, right=0.0)
        same += float(((p[second] - p[first]) ** 2).sum())
        mirrored += float(((p[second] - flipped) ** 2).sum())
    if same >= ALIKE**2 * mirrored or mirrored < 1e-3 * float((p[pairs] ** 2).sum()):
        return []
    return ["views half a turn apart are alike rather than mirror images: the angles may be degrees, not radians"]


def _variation(sums: Values) -> float:
    return float(sums.std() / max(abs(sums.mean()), np.finfo(np.float64).tiny))


def format_numbers(what: str, numbers: Iterable[int]) -> str:
    """Numbers, counted from 0, in words with runs: "detectors 60, 62 to 65"."""
    every = list(map(int, numbers))
    runs: list[list[int]] = []
    for number in every:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:_MOST_NAMED]]
    more = f" and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    return f"{what}{'s' if len(every) > 1 else ''} {', '.join(shown)}{more}"

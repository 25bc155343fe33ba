"""Weights of rays in filtered back-projection, where lines are measured twice, once or by one side of the detector."""

import math

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.angles import LIMITED, angular_weights, folded_gaps
from udig_recon.core.scan_geometry import Geometry

Values = NDArray[np.float64]
Views = NDArray[np.bool_]

TURN = 2 * math.pi
UNEVEN = 3.0
"""Detectors by which one side must be longer than the other for the lines that it alone measures to count twice."""
RAMP = math.pi / 6
"""Way from the end of an arc on which a view's share of a line grows to half."""


def ray_weights(geometry: Geometry, views: Views) -> Values:
    """Weights (radians) of rays, (views, detectors) or (views, 1), in the integral over all views; 0 where not `views`.

    Those through the axis sum to the half turn. Views of a limited angle stand for all others, or the image would be
    too dark by what is missing of the half turn.
    """
    weights = _weights_of_arc(geometry, views)
    total = _sum_at_axis(geometry, weights)
    return weights * (np.pi / total) if 0 < total < np.pi - LIMITED else weights


def is_limited(geometry: Geometry, views: Views) -> bool:
    """Whether more than 15 degrees of the half turn are missing from the measured `views`."""
    return _sum_at_axis(geometry, _weights_of_arc(geometry, views)) < np.pi - LIMITED


def _sum_at_axis(geometry: Geometry, weights: Values) -> float:
    middle = int(np.clip(round(geometry.axis), 0, weights.shape[1] - 1))
    return float(weights[:, middle].sum())


def _weights_of_arc(geometry: Geometry, views: Views) -> Values:
    """Weights of rays for the part of the half turn that was measured.

    The ray of a fan at view beta and fan angle gamma measures the same line as the one at beta + pi - 2 gamma and
    -gamma. Each has the share c / (c + c') of it, where c falls smoothly to 0 towards the ends of the arc (Parker 1982;
    Noo et al. 2002) and towards the edge of a detector's shorter side (Wang 2002): of lines that are measured once it
    is 1.
    """
    angles = np.asarray(geometry.angles)[views]
    weights = np.zeros((len(views), 1))
    if geometry.beam == "parallel" and not (is_offset(geometry) and folded_gaps(angles, TURN).ways.max() < 0.9 * np.pi):
        weights[views, 0] = angular_weights(angles)
        return weights
    weights = np.zeros((len(views), geometry.detectors))
    places = np.arange(geometry.detectors, dtype=np.float64)
    own = _arc_share(angles, angles)[:, None] * _side_share(geometry, places)
    opposite = angles[:, None] + np.pi - 2 * geometry.fan_angles(places)
    other = _arc_share(opposite, angles) * _side_share(geometry, 2 * geometry.axis - places)
    shares = np.divide(own, own + other, out=np.ones_like(other), where=own + other > 0)
    weights[views] = angular_weights(angles, TURN)[:, None] * shares
    return weights


def is_offset(geometry: Geometry) -> bool:
    """Whether one side of the detector is longer, seen from the axis of rotation."""
    return abs(2 * geometry.axis - (geometry.detectors - 1)) > UNEVEN


def _side_share(geometry: Geometry, places: Values) -> Values:
    """C of places (detector indices): 1, but of a detector that is off the middle falling to 0 at its shorter side."""
    if not is_offset(geometry):
        return np.ones_like(places)
    before, after = geometry.axis + 0.5, geometry.detectors - 0.5 - geometry.axis
    inward = places + 0.5 if before < after else geometry.detectors - 0.5 - places
    share = _smooth(inward / min(2 * min(before, after), geometry.detectors / 8))
    return np.where((places >= -0.5) & (places <= geometry.detectors - 0.5), share, 0.0)


def _arc_share(beta: Values, angles: Values) -> Values:
    """C of views at angles beta: 1 within a closed turn, else falling to 0 towards the ends of each arc of `angles`."""
    gaps = folded_gaps(angles, TURN)
    ends = np.mod(angles, TURN)[gaps.order][gaps.wide] + gaps.usual / 2
    away = np.full(beta.shape, np.inf)
    for end, width in zip(ends, gaps.ways[gaps.wide] - gaps.usual, strict=True):
        behind = np.mod(beta - end, TURN)  # from the end of the arc that lies before this gap
        away = np.minimum(away, np.where(behind < width, 0.0, np.minimum(behind - width, TURN - behind)))
    return _smooth(away / RAMP)


def _smooth(share: Values) -> Values:
    rising: Values = np.sin(np.pi / 2 * np.clip(share, 0, 1)) ** 2
    return rising

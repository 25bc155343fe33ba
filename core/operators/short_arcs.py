"""Fans of a little less than a short scan: views beyond the arc, made of the lines that were measured next to them."""

import math

import numpy as np
import torch
from torch import Tensor

from udig_recon.core.angles import LIMITED, folded_gaps
from udig_recon.core.ray_weights import TURN, Views, is_offset
from udig_recon.core.scan_geometry import Geometry


def complete_arc(rays: Tensor, geometry: Geometry, views: Views) -> tuple[Tensor, Geometry, Views]:
    """Rays (..., views, detectors) of fans with views added before the arc to make it a short scan; else themselves.

    `views` (views,) says which were measured. The ray at view beta and fan angle gamma is that of the same line, at
    beta + pi - 2 gamma and -gamma. Where that was not measured either, it is drawn straight, by angle, between the two
    lines measured next that pass the axis at the same distance. Without them the weights of redundant lines (Parker
    1982) would jump at the end of the arc, and leave a bright line in the image. Nothing is added where more than 15
    degrees of the half turn are missing, nor of a detector off the middle.
    """
    angles = np.asarray(geometry.angles)[views]
    if geometry.beam == "parallel" or is_offset(geometry) or len(angles) < 2:
        return rays, geometry, views
    gaps = folded_gaps(angles, TURN)
    if np.count_nonzero(gaps.wide) != 1:
        return rays, geometry, views
    usual = gaps.usual
    gap = int(np.flatnonzero(gaps.wide)[0])
    arc = TURN - float(gaps.ways[gap]) + usual
    gamma = geometry.fan_angles(np.arange(geometry.detectors, dtype=np.float64))
    lacking = math.pi + 2 * float(np.abs(gamma).max()) - arc
    if lacking <= 0 or arc < math.pi - LIMITED:
        return rays, geometry, views
    order = np.roll(gaps.order, -(gap + 1))  # from the first view after the gap to the last one before it
    away = np.mod(angles[order] - angles[order[0]], TURN)
    added = usual * np.arange(1, math.ceil(lacking / usual) + 1)
    opposite = math.pi - 2 * gamma - added[:, None]  # of the same lines, from the first view
    places = np.interp(opposite, away, np.arange(len(away)))
    below = np.minimum(places.astype(np.intp), max(len(away) - 2, 0))
    measured = torch.from_numpy(opposite <= away[-1]).to(rays.device)
    known = rays[..., torch.from_numpy(np.flatnonzero(views)[order]).to(rays.device), :]
    mirrored = known.flip(-1)
    index, share = torch.from_numpy(below).to(rays.device), torch.from_numpy(places - below).to(rays)
    shape = (*rays.shape[:-2], *below.shape)
    lower, upper = (mirrored.gather(-2, (index + step).expand(shape)) for step in (0, 1))
    lines = torch.lerp(lower, upper, share)
    # Between the first view and the last one's opposite, added / (added + what is left to it).
    way = torch.from_numpy(added[:, None] / np.maximum(opposite - away[-1] + added[:, None], usual)).to(rays)
    drawn = torch.lerp(known[..., :1, :].expand(shape), mirrored[..., -1:, :].expand(shape), way.clamp(0, 1))
    first = float(angles[order[0]])
    enlarged = geometry._replace(angles=(*geometry.angles, *(first - added).tolist()))
    whole = torch.cat((rays, torch.where(measured, lines, drawn)), -2)
    return whole, enlarged, np.append(views, np.ones(len(added), bool))

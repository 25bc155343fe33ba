"""Projections of an object wider than the detector, continued beyond it, so that no image has a bright ring there."""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.operators.coverage import ENDED, longer_sides, truncation
from udig_recon.core.quality.rating import DATA_LIMITS
from udig_recon.core.scan_geometry import NEAREST_SOURCE, Geometry
from udig_recon.core.sinogram_statistics import fill_missing_rays

EDGE = 3
"""Detectors at either end by whose mean a projection is continued."""
FLATTEST = 0.95
"""Largest value at an end as a share of a projection's usual largest: a higher one would continue for ever."""
LONGEST = 1.0
"""Length of the continuation, in lengths of the detector, at most."""
LONGEST_ADDED = 0.25
"""The same of what is added to a scan for iterative methods: more makes images larger than they are right."""
WEIGHT = 0.01
"""Weight of a continued ray in the data term, where a measured one has 1 in the mean."""
TRUNCATED = DATA_LIMITS[Modality.CT]["truncation"].check
"""Projections that end at a larger share of the largest value are cut off, as the rating has it."""
WIDEST = 1.4
"""Radians from the middle of a fan beyond which no ray is continued."""
STEPS = 8
"""Continuations differ in length by an eighth of the detector, so that slices of a volume share their projector."""


def continue_rays(
    sinogram: Tensor, geometry: Geometry, smallest: float = 0.0, sides: tuple[bool, bool] = (True, True)
) -> tuple[Tensor, tuple[int, int]]:
    """Projections (B, 1, views, detectors) continued at the `sides` that count, and by how many detectors on each.

    A projection that does not fall to 0 (to the share `smallest` of its largest value) continues as that of an ellipse
    about the axis: of its mean end on that side, and of its largest mean over an eighth of the detector at the axis
    (after Hsieh et al. 2004); rays of fans by their distance from the axis. Where no projection reaches beyond the
    detector by half a detector, it is as it was.
    """
    detectors = sinogram.shape[-1]
    smooth = F.avg_pool1d(sinogram.flatten(0, -2)[:, None], max(1, detectors // 8), stride=1)
    peak = smooth.amax(-1).reshape(*sinogram.shape[:-1], 1).clamp(min=torch.finfo(sinogram.dtype).tiny)
    edges = (geometry.axis + 0.5, detectors - 0.5 - geometry.axis)
    ends = (sinogram[..., :EDGE].mean(-1, keepdim=True), sinogram[..., -EDGE:].mean(-1, keepdim=True))
    added = []
    for edge, end, counts in zip(edges, ends, sides, strict=True):
        length = min(max(1, round(LONGEST * detectors)), _room(geometry, edge)) if counts else 0
        reach = float(_distances(geometry, np.array([edge]))[0])
        least = max(reach, detectors / 8)
        places = edge + 0.5 + np.arange(length, dtype=np.float64)
        beyond = torch.from_numpy(_distances(geometry, places) - reach).to(sinogram)
        share = (end / peak).clamp(0, FLATTEST)
        radius = (least - EDGE / 2) / (1 - share.square()).sqrt()  # the mean end lies so far inside
        chord = (1 - ((least + beyond) / radius).square()).clamp(min=0).sqrt()
        added.append(chord * peak * (share > smallest))
    before, after = added
    if not bool(before.any()) and not bool(after.any()):
        return sinogram, (0, 0)
    return torch.cat((before.flip(-1), sinogram, after), -1), (before.shape[-1], after.shape[-1])


class Added(NamedTuple):
    """What a truncated scan was enlarged by."""

    before: int
    """detectors before the first one"""
    after: int
    """detectors after the last one"""
    pixels: int
    """pixels a side of the image, an even number: half of them on either side"""

    def within(self, detectors: int) -> NDArray[np.bool_]:
        """Which of the enlarged scan's detectors are real."""
        places = np.arange(detectors)
        within: NDArray[np.bool_] = (places >= self.before) & (places < detectors - self.after)
        return within

    def weights(
        self, measured: NDArray[np.bool_] | None, weights: NDArray[np.float32] | None, shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Weights of the enlarged scan's rays by those of the scan, `shape` (views, detectors): 0 where none is."""
        weights = np.ones(shape, np.float32) if weights is None else weights
        weights = weights if measured is None else np.where(measured, weights, np.float32(0))
        seen = (weights > 0).any(axis=1, keepdims=True) * np.float32(WEIGHT)
        return np.concatenate((np.repeat(seen, self.before, 1), weights, np.repeat(seen, self.after, 1)), axis=1)

    def enlarged(self, geometry: Geometry) -> Geometry:
        """The geometry of the enlarged scan."""
        return geometry._replace(
            image_size=geometry.image_size + self.pixels,
            detectors=self.before + geometry.detectors + self.after,
            rotation_center=geometry.axis + self.before,
        )

    def scanned(self, geometry: Geometry) -> Geometry:
        """The scan's own geometry by that of the enlarged one."""
        return geometry._replace(
            image_size=geometry.image_size - self.pixels,
            detectors=geometry.detectors - self.before - self.after,
            rotation_center=geometry.axis - self.before,
        )


NOTHING_ADDED = Added(0, 0, 0)


def continue_truncated(
    sinogram: NDArray[np.float32], measured: NDArray[np.bool_] | None, geometry: Geometry
) -> tuple[NDArray[np.float32], Added]:
    """A sinogram (views, detectors) of an object wider than the detector continued, and what was added; else itself.

    `measured` is False where a ray is missing; None: all are there.
    """
    known = np.ones((len(sinogram), 1), bool) if measured is None else measured
    edges = np.broadcast_to(known, sinogram.shape)[known.any(axis=1)][:, [*range(EDGE), *range(-EDGE, 0)]]
    if (
        not edges.size or edges.reshape(-1, 2, EDGE).mean((0, 2)).min() < 0.5
    ):  # no view at all, or a mask ends the detector, beyond which there may be opposite rays
        return sinogram, NOTHING_ADDED
    filled, views = fill_missing_rays(sinogram.astype(np.float64), known)
    sides = longer_sides(np.asarray(geometry.angles)[views], geometry)
    if truncation(filled, _noise(filled), sides) <= TRUNCATED:
        return sinogram, NOTHING_ADDED
    whole, lengths = continue_rays(torch.from_numpy(filled)[None, None], geometry, ENDED, sides)
    met, step = whole[0, 0].bool().any(0).numpy(), math.ceil(geometry.detectors / STEPS)
    ends = (met[: lengths[0]][::-1], met[lengths[0] + geometry.detectors :])
    wanted = [step * math.ceil((np.flatnonzero(end).max(initial=-1) + 1) / step) for end in ends]
    most = math.ceil(LONGEST_ADDED * geometry.detectors)
    before, after = (min(want, length, most) for want, length in zip(wanted, lengths, strict=True))
    if before == after == 0:
        return sinogram, NOTHING_ADDED
    added = Added(before, after, 0)
    added = added._replace(pixels=_added_pixels(added.enlarged(geometry)))
    rays = np.zeros((len(sinogram), before + geometry.detectors + after), np.float32)
    rays[views] = whole[0, 0, :, lengths[0] - before : lengths[0] + geometry.detectors + after].numpy()
    rays[:, before : before + geometry.detectors] = sinogram
    return rays, added


def _noise(sinogram: NDArray[np.float64]) -> float:
    """Standard deviation of a ray's noise, from second differences along the detectors."""
    rough = sinogram[:, :-2] - 2 * sinogram[:, 1:-1] + sinogram[:, 2:]
    return float(np.median(np.abs(rough))) / 0.6745 / math.sqrt(6) if rough.size else 0.0


def _room(geometry: Geometry, edge: float) -> int:
    """Detectors by which a side that ends at `edge`, from the axis, can be longer."""
    if geometry.beam != "fan_curved":
        return geometry.detectors
    room = WIDEST * geometry.source_detector_mm / geometry.detector_spacing_mm - edge
    return max(0, math.floor(room))


def _added_pixels(geometry: Geometry) -> int:
    """Pixels a side that an image lacks to hold all that the rays meet, as far as the source leaves room; even."""
    edge = max(geometry.axis + 0.5, geometry.detectors - 0.5 - geometry.axis)
    reach = float(_distances(geometry, np.array([edge]))[0]) * geometry.detector_spacing_mm / geometry.magnification
    room = math.inf if geometry.beam == "parallel" else geometry.source_origin_mm / NEAREST_SOURCE / math.sqrt(2)
    lacking = min(reach, room) / geometry.pixel_size_mm - geometry.image_size / 2
    return 2 * max(0, math.floor(lacking))


def _distances(geometry: Geometry, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far rays at `places`, in detectors from the axis, pass by it, in detectors as the axis sees them."""
    if geometry.beam == "parallel":
        return places
    across = geometry.source_detector_mm / geometry.detector_spacing_mm
    angles = np.arctan(places / across) if geometry.beam == "fan_flat" else places / across
    return across * np.sin(np.minimum(angles, WIDEST))

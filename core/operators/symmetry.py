"""Views that quarter turns and mirroring of the image map on each other: they share one part of the projector."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from udig_recon.core.scan_geometry import Geometry

QUARTER = np.pi / 2
SAME = 1e-6
"""Radians by which angles of the same view may differ: a thousandth of a pixel at most."""
MOST_COMPUTED = 1.5
"""Views that are computed in all poses of the image, over those that are wanted: more is not worth the memory."""
LEAST_SAVED = 0.75
"""Share of the views beyond which sharing them is not worth its work."""


class Pose(NamedTuple):
    """The image turned back by quarter turns, then mirrored or not."""

    turns: int
    mirrored: bool


class SharedViews(NamedTuple):
    """Views of a geometry as views of fewer angles, of the image in some poses."""

    geometry: Geometry
    """of the angles that are shared"""
    poses: tuple[Pose, ...]
    places: NDArray[np.intp]
    """(views,): number of the pose * shared views + number of the shared view"""

    def posed(self, x: Tensor) -> Tensor:
        """Images (poses * B, pixels) of images (B, pixels)."""
        return torch.cat([self._pose(x, pose) for pose in self.poses])

    def gathered(self, rays: Tensor) -> Tensor:
        """Rays (B, views * detectors) of those of the posed images (poses * B, shared views * detectors)."""
        each = rays.reshape(len(self.poses), -1, len(self.geometry.angles), self.geometry.detectors)
        each = torch.stack([self._flipped(part, pose) for part, pose in zip(each, self.poses, strict=True)], dim=1)
        return each.flatten(1, 2)[:, self._places(rays)].flatten(1)

    def spread(self, y: Tensor) -> Tensor:
        """The transpose of `gathered`."""
        shared, detectors = len(self.geometry.angles), self.geometry.detectors
        each = y.new_zeros(len(y), len(self.poses) * shared, detectors)
        each.index_add_(1, self._places(y), y.reshape(len(y), -1, detectors))
        parts = each.reshape(len(y), len(self.poses), shared, detectors).unbind(1)
        flipped = [self._flipped(part, pose) for part, pose in zip(parts, self.poses, strict=True)]
        return torch.cat(flipped).flatten(1)

    def summed(self, images: Tensor) -> Tensor:
        """The transpose of `posed`."""
        parts = images.reshape(len(self.poses), -1, images.shape[1])
        total = torch.zeros_like(parts[0])
        for part, pose in zip(parts, self.poses, strict=True):
            total = total + self._unpose(part, pose)
        return total

    def _places(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.places).to(like.device)

    def _pose(self, x: Tensor, pose: Pose) -> Tensor:
        image = torch.rot90(x.reshape(-1, self.geometry.image_size, self.geometry.image_size), -pose.turns, (1, 2))
        return (image.flip(self._mirror) if pose.mirrored else image).flatten(1)

    def _unpose(self, x: Tensor, pose: Pose) -> Tensor:
        image = x.reshape(-1, self.geometry.image_size, self.geometry.image_size)
        return torch.rot90(image.flip(self._mirror) if pose.mirrored else image, pose.turns, (1, 2)).flatten(1)

    def _flipped(self, rays: Tensor, pose: Pose) -> Tensor:
        """Rays (..., detectors) the other way round where a fan is mirrored."""
        return rays.flip(-1) if pose.mirrored and self.geometry.beam != "parallel" else rays

    @property
    def _mirror(self) -> int:
        # View -theta of an image is view theta of it upside down; of fans from left to right, with detectors reversed.
        return 1 if self.geometry.beam == "parallel" else 2


def share_views(geometry: Geometry) -> SharedViews | None:
    """How the views of a geometry share the fewest angles; None where that saves little."""
    found = [shared for shared in _candidates(geometry) if _computed(shared) <= MOST_COMPUTED * len(geometry.angles)]
    best = min(found, key=lambda shared: len(shared.geometry.angles), default=None)
    worth = best is not None and len(best.geometry.angles) <= LEAST_SAVED * len(geometry.angles)
    return best if worth else None


def _computed(shared: SharedViews) -> int:
    return len(shared.poses) * len(shared.geometry.angles)


def _candidates(geometry: Geometry) -> Iterator[SharedViews]:
    # A fan's detectors can be reversed only if the axis is in their middle.
    mirrors = geometry.beam == "parallel" or geometry.axis == (geometry.detectors - 1) / 2
    for quarters in (1, 2):
        for mirror in (False, True)[: 1 + mirrors]:
            yield _shared(geometry, quarters, mirror=mirror)


def _shared(geometry: Geometry, quarters: int, *, mirror: bool) -> SharedViews:
    """Views that turns by so many quarters map on each other, and with `mirror` mirroring too."""
    theta, period = np.asarray(geometry.angles), quarters * QUARTER
    periods = np.floor(theta / period + SAME)
    rest = theta - periods * period
    # theta = periods * period + rest, mirrored periods * period - rest.
    mirrored = (rest > period / 2 + SAME) & mirror
    periods, rest = np.where(mirrored, periods + 1, periods), np.where(mirrored, period - rest, rest)
    turns = (periods * quarters).astype(int) % 4
    order = np.argsort(rest, kind="stable")
    numbers = np.empty(len(rest), np.intp)
    numbers[order] = np.cumsum(np.diff(rest[order], prepend=-math.inf) > SAME) - 1
    angles = rest[order][np.unique(numbers[order], return_index=True)[1]]
    poses, which = np.unique(np.stack((turns, mirrored), axis=1), axis=0, return_inverse=True)
    return SharedViews(
        geometry._replace(angles=tuple(angles.tolist())),
        tuple(Pose(int(turn), bool(flip)) for turn, flip in poses),
        which.reshape(-1) * len(angles) + numbers,
    )

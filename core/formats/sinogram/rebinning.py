"""Single-slice rebinning: cone-beam views of a multi-row CT detector as sinograms of fans, one for each slice.

A ray of the fan in the plane of a slice is replaced by the measured ray that crosses the plane closest to the axis of
rotation, in the view of the same angle that is nearest along the axis (Noo, Defrise, Clackdoyle 1999).
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.containers.arrays import Array, EntryArray

Values = NDArray[np.float64]

TURN = 2 * math.pi
MOST_SPOTS = 4
"""Places of a flying focal spot: two in the plane, two along the axis."""
LEAST_SPACING_MM = 1.0
"""Slices are no closer than this, however low the detector's rows are."""
_SAME_VIEW = 0.02  # steps of views by which an angle may be off a view that is taken as it is
_ALIKE = (0.01, 1e-6, 0.01)  # mm, radians, mm: places of the focal spot that are one
_EVEN = 0.25  # share of a step by which views may lie off an even spacing
_KEPT_BYTES = 768 << 20  # of views that are in memory


@dataclass(frozen=True)
class ConeGeometry:
    """A detector of rows and columns on an arc about the source, and the way of the source about the axis z.

    With the source's angle at phi it lies at (-R sin phi, R cos phi), and columns follow (cos phi, sin phi). The
    detector is centred on its focal centre at (`radius_mm`, `phi`, `z_mm`); a flying focal spot moves the source by
    `shifts` (radius, angle, z) of each view, and not the detector.
    """

    columns: int
    rows: int
    column_mm: float  # along the arc, at the detector
    row_mm: float
    center: tuple[float, float]  # column and row, from 0, of the ray through the axis at right angles to it
    radius_mm: float  # from the focal centre to the axis
    detector_mm: float  # from the focal centre to the detector
    phi: Values  # (views,), radians, unwrapped
    z_mm: Values  # (views,)
    shifts: Values  # (views, 3): radius (mm), angle (radians), z (mm)

    @property
    def fan_angles(self) -> Values:
        """Angle of each column from the one through the axis, (columns,)."""
        return (np.arange(self.columns, dtype=np.float64) - self.center[0]) * (self.column_mm / self.detector_mm)

    @property
    def row_at_axis_mm(self) -> float:
        """Height of a row at the axis."""
        return self.row_mm * self.radius_mm / self.detector_mm


@dataclass(frozen=True)
class _Spot:
    """Views of one place of the focal spot, and how its rays to the nominal fan's columns meet the detector."""

    views: NDArray[np.intp]  # numbers in the scan
    phi: Values  # of the source, unwrapped
    z_mm: Values  # of the source
    focus_mm: Values  # z of the detector's centre
    angles: Values  # (n,) of the sinogram's views
    step: float  # from view to view, with its sign
    offset: Values  # (columns,) by which the source's angle differs from the view's, radians
    column: Values  # (columns,), where the ray meets the detector
    rise: Values  # (columns,): mm along z at the detector for each at the axis
    reach_mm: Values  # (columns,) from the source to the detector, in the plane


class Rebinned(EntryArray):
    """Sinograms (slices, views, columns) of the fans in the planes of slices, rebinned when they are read.

    `read_view` gives the raw values (columns, rows) of a view, which are kept in memory while slices need them; a line
    integral is `slope` times a value and `intercept`.
    """

    def __init__(
        self,
        geometry: ConeGeometry,
        read_view: Callable[[int], NDArray[np.uint16]],
        rescale: tuple[Values, Values],
        stored_bytes: int,
    ) -> None:
        self.geometry = geometry
        self._read_view, (self._slope, self._intercept) = read_view, rescale
        self._spots = _spots(geometry)
        self.spacing_mm, self.z_mm = self._planes()
        self._views: OrderedDict[int, NDArray[np.uint16]] = OrderedDict()
        shape = (len(self.z_mm), sum(len(spot.angles) for spot in self._spots), geometry.columns)
        super().__init__("sinogram", shape, np.dtype(np.float32), stored_bytes)

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        """The views of all places of the focal spot by their angles."""
        return np.argsort(np.concatenate([spot.angles for spot in self._spots]), kind="stable")

    @cached_property
    def angles(self) -> Values:
        """Angles (views,) of the sinograms in the sense of `udig_recon.core.scan_geometry.Geometry`, radians."""
        # Its source lies at (R sin theta, -R cos theta).
        angles = np.concatenate([spot.angles for spot in self._spots])[self._order] + math.pi
        return angles - TURN * math.floor(float(angles[0]) / TURN)

    @property
    def feed_mm(self) -> float:
        """Way along the axis in a turn."""
        spot = self._spots[0]
        turns = float(np.ptp(spot.phi)) / TURN
        return float(np.ptp(spot.z_mm)) / turns if turns > 0 else 0.0

    @property
    def farthest_mm(self) -> float:
        """How far from a slice's plane a ray crosses the axis, where the detector is too low for the table's feed."""
        geometry = self.geometry
        height = geometry.row_at_axis_mm * geometry.rows / 2 * math.cos(float(np.abs(geometry.fan_angles).max()))
        return max(0.0, self.feed_mm / 2 - height)

    def check_stored(self) -> None:
        """Sinograms are made, not stored: what they are made of is bounded by the views."""

    def read(self, indices: Sequence[int]) -> Array:
        """Slices, stacked (len(indices), views, columns)."""
        return np.stack([self._slice(float(self.z_mm[index])) for index in indices])

    def _planes(self) -> tuple[float, Values]:
        """Spacing and places of the slices, as far as a turn (or half, with the fan) of views is about each of them."""
        geometry, starts, ends = self.geometry, [], []
        for spot in self._spots:
            height = geometry.row_at_axis_mm * (geometry.rows - 1) / 2
            if np.ptp(spot.z_mm) < geometry.row_at_axis_mm / 4:  # one turn: every row sees a slice of its own
                height *= math.cos(float(np.abs(geometry.fan_angles).max()))
                starts.append(float(spot.z_mm.mean()) - height)
                ends.append(float(spot.z_mm.mean()) + height)
                continue
            half = abs(float(np.ptp(spot.z_mm)) / float(np.ptp(spot.phi))) * math.pi
            starts.append(float(spot.z_mm.min()) + half)
            ends.append(float(spot.z_mm.max()) - half)
        first, last = max(starts), min(ends)
        spacing = max(min(LEAST_SPACING_MM, 2 * geometry.row_at_axis_mm), geometry.row_at_axis_mm)
        if last < first - 1e-6:
            found = f"{float(np.ptp(geometry.phi)) / TURN:.3g} turns"
            raise UnreadableScan.at("views", found, "a turn about at least one slice: a helix of two turns or more")
        count = int((last - first) / spacing + 1e-6) + 1
        middle = (first + last - (count - 1) * spacing) / 2
        return spacing, middle + spacing * np.arange(count, dtype=np.float64)

    def _slice(self, z: float) -> NDArray[np.float32]:
        """One sinogram (views, columns)."""
        views = np.concatenate([self._rebin(spot, z) for spot in self._spots])
        return views[self._order].astype(np.float32)

    def _rebin(self, spot: _Spot, z: float) -> Values:
        """The views (n, columns) of one focal spot for the slice at z."""
        low, high = float(spot.phi.min()), float(spot.phi.max())
        first, last = (math.floor((low - spot.angles.max()) / TURN), math.ceil((high - spot.angles.min()) / TURN))
        angles = spot.angles[:, None] + TURN * np.arange(first, last + 1)
        places = self._places(spot, angles)
        away = np.abs(np.interp(places, np.arange(len(spot.phi)), spot.z_mm) - z)
        slack = abs(spot.step) / 2
        outside = (angles < low - slack) | (angles > high + slack)
        nearest = np.argmin(np.where(outside, away + 1e9, away), axis=1)
        return np.stack([self._ray(spot, float(place), z) for place in places[np.arange(len(places)), nearest]])

    def _places(self, spot: _Spot, angles: Values) -> Values:
        """Places in the spot's views, fractions included, of these angles of the source."""
        rising = spot.phi if spot.step > 0 else -spot.phi
        found: Values = np.interp(angles if spot.step > 0 else -angles, rising, np.arange(len(rising)))
        near = np.round(found)
        snapped: Values = np.where(np.abs(found - near) < _SAME_VIEW, near, found)
        return snapped

    def _ray(self, spot: _Spot, place: float, z: float) -> Values:
        """The rays (columns,) of the view at a place, linear between two views where it is between them."""
        wanted = place + spot.offset / spot.step
        if not spot.offset.any() and place == int(place):
            return self._measured(spot, int(place), z)
        before = np.clip(np.floor(wanted).astype(int), 0, len(spot.views) - 1)
        total: Values = np.zeros(self.geometry.columns)
        for number in range(int(before.min()), min(int(before.max()) + 2, len(spot.views))):
            share = np.clip(1 - np.abs(np.clip(wanted, 0, len(spot.views) - 1) - number), 0, 1)
            if share.any():
                total = total + share * self._measured(spot, number, z)
        return total

    def _measured(self, spot: _Spot, number: int, z: float) -> Values:
        """The rays (columns,) of one view that cross the plane at z where they are closest to the axis."""
        geometry, view = self.geometry, spot.views[number]
        at_detector = spot.z_mm[number] + (z - spot.z_mm[number]) * spot.rise
        row = geometry.center[1] + (at_detector - spot.focus_mm[number]) / geometry.row_mm
        row = np.clip(row, 0, geometry.rows - 1)
        values = self._values(int(view))
        found = _between(values, np.clip(spot.column, 0, geometry.columns - 1), row)
        rise = (at_detector - spot.z_mm[number]) / spot.reach_mm
        integrals: Values = (found * self._slope[view] + self._intercept[view]) / np.sqrt(1 + rise**2)
        return integrals

    def _values(self, view: int) -> NDArray[np.uint16]:
        if view in self._views:
            self._views.move_to_end(view)
            return self._views[view]
        values = self._read_view(view)
        self._views[view] = values
        while len(self._views) * values.nbytes > _KEPT_BYTES:
            self._views.popitem(last=False)
        return values


def _between(values: NDArray[Any], column: Values, row: Values) -> Values:
    """Values (columns, rows) at places between columns and rows, linear."""
    flat, rows = values.reshape(-1), values.shape[1]
    row0 = np.minimum(row.astype(np.intp), max(rows - 2, 0))
    above = (1 if rows > 1 else 0) * np.ones_like(row0)
    down = row - row0

    def along(at: NDArray[np.intp]) -> Values:
        first: Values = flat[at * rows + row0].astype(np.float64)
        first += down * (flat[at * rows + row0 + above] - first)
        return first

    column0 = np.minimum(column.astype(np.intp), max(values.shape[0] - 2, 0))
    share = column - column0
    found = along(column0)
    if share.any():
        found += share * (along(np.minimum(column0 + 1, values.shape[0] - 1)) - found)
    return found


def _spots(geometry: ConeGeometry) -> list[_Spot]:
    """The views of each place of the focal spot. Raises UnreadableScan and UnsupportedScan."""
    distinct, member = np.unique(np.round(geometry.shifts / _ALIKE), axis=0, return_inverse=True)
    if len(distinct) > MOST_SPOTS:
        raise UnsupportedScan.at("views", f"{len(distinct)} places of the focal spot", f"at most {MOST_SPOTS}")
    return [_spot(geometry, np.flatnonzero(member.reshape(-1) == index)) for index in range(len(distinct))]


def _spot(geometry: ConeGeometry, views: NDArray[np.intp]) -> _Spot:
    phi = geometry.phi[views] + geometry.shifts[views, 1]
    if len(views) < 4:
        raise UnreadableScan.at("views", f"{len(views)} views of a focal spot", "a turn of views")
    steps = np.diff(phi)
    step = float(np.median(steps))
    if step == 0 or np.abs(steps - step).max() > _EVEN * abs(step) or abs(step) > math.pi / 4:
        raise UnreadableScan.at(
            "(7031,1001)", f"steps of {np.rad2deg(steps.min()):.4g} to {np.rad2deg(steps.max()):.4g} degrees",
            "views at even steps, all of one rotation: were files left out?",
        )  # fmt: skip
    step = float(phi[-1] - phi[0]) / (len(phi) - 1)
    turns = abs(float(phi[-1] - phi[0]) + step) / TURN
    count = round(TURN / abs(step))
    if turns < 1 - 0.5 / count:  # an arc
        angles = phi.copy()
    else:
        even = step if abs(TURN / abs(step) - count) < _SAME_VIEW else math.copysign(TURN / count, step)
        angles = phi[0] + even * np.arange(count)
    radius, turned, _ = geometry.shifts[views[0]]
    rays = _rays(geometry, geometry.radius_mm + float(radius), float(turned))
    z = geometry.z_mm[views]
    return _Spot(views, phi, z + geometry.shifts[views, 2], z, angles, step, *rays)


def _rays(geometry: ConeGeometry, radius: float, turned: float) -> tuple[Values, Values, Values, Values]:
    """How the nominal fan's rays leave a source at `radius`, turned by an angle against the detector's focal centre.

    Gives offset, column, rise and reach of `_Spot`.
    """
    gamma = geometry.fan_angles
    leaning = np.arcsin(np.clip(geometry.radius_mm * np.sin(gamma) / radius, -1, 1))
    # The detector's focal centre lies at (0, -R), its central ray along y; the source at an angle `turned` from it.
    source = np.array([radius * math.sin(turned), -radius * math.cos(turned)])
    focus = np.array([0.0, -geometry.radius_mm])
    along = np.stack([np.sin(leaning - turned), np.cos(leaning - turned)])
    between = source - focus
    towards = along.T @ between
    reach = -towards + np.sqrt(towards**2 - (between @ between - geometry.detector_mm**2))
    met = (source - focus)[:, None] + reach * along
    column = geometry.center[0] + np.arctan2(met[0], met[1]) * geometry.detector_mm / geometry.column_mm
    near = np.round(column)
    column = np.where(np.abs(column - near) < 1e-6, near, column)
    foot = radius * np.cos(leaning)
    offset = leaning - gamma
    return np.where(np.abs(offset) < 1e-9, 0.0, offset), column, reach / foot, reach

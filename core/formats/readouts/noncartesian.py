"""Reader of measurements along a trajectory: radial, spiral and other readouts that tell where each sample lies."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Modality, NonCartesianAcquisition, ScanHeader, slice_names
from udig_recon.core.coils.calibration import calibration_of
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.kspace.many_coils import (
    COMPRESS,
    MOST_COILS,
    check_compressible,
    compression_corrections,
    with_few_coils,
)
from udig_recon.core.formats.kspace.noncartesian import (
    MOST_POINTS,
    acceleration,
)
from udig_recon.core.formats.kspace.trajectory import Shape, in_cycles_per_field, in_plane, shape_of
from udig_recon.core.formats.limits import LEAST_SIDE, PEAKS, Limits
from udig_recon.core.formats.readouts.geometry import ImageGrid, slice_geometry
from udig_recon.core.formats.readouts.noise import Prewhitening, prewhitening
from udig_recon.core.formats.readouts.readouts import Readouts
from udig_recon.core.formats.readouts.selection import Selection

Indices = NDArray[np.intp]

_TOLD = ("radial", "spiral")  # trajectories of the header that are a shape of readouts; goldenangle is radial
_REMEDY = (
    "readouts with their trajectory (trajectory_dimensions 2): siemens_to_ismrmrd writes it for spirals; for spokes "
    "add it to each acquisition, k = r (cos, sin) of its angle"
)


class Frame(NamedTuple):
    """One partition of a frame of the measurement."""

    kspace: NDArray[np.complex64]  # (coils, readouts, samples), prewhitened
    trajectory: NDArray[np.float32]  # (readouts, samples, 2): (ky, kx) in cycles per field of view


class NonCartesianReader:
    """Reads a measurement along a trajectory: a slice of the scan is a frame, or a partition of a stack's frame."""

    USED: frozenset[str] = frozenset()

    def __init__(self, readouts: Readouts, selection: Selection) -> None:
        lines = readouts.lines
        if not lines["trajectory_dimensions"][selection.image].all():
            raise UnsupportedScan.at("traj", "readouts without a trajectory", _REMEDY)
        self._readouts = readouts
        self._selection, self._lost = _of_one_length(readouts, selection)
        steps = lines["kspace_encode_step_2"][self._selection.image]
        self._is_stack = bool((steps != steps[0]).any())
        self._partitions = self._count_partitions() if self._is_stack else 1

    @cached_property
    def _whitening(self) -> Prewhitening:
        return prewhitening(self._readouts, self._selection)

    @property
    def _matrix(self) -> tuple[int, int]:
        """(y, x) of the image. Encoded spaces of readouts are the scanner's affair: the trajectory tells what was seen.

        Spirals and spokes are told of in cycles per field of view of the reconstruction.
        """
        space = self._selection.encoding.recon or self._selection.encoding.encoded
        return space.matrix[1], space.matrix[0]

    @cached_property
    def _first(self) -> NDArray[np.float64]:
        """The trajectory (readouts, samples, 2) of the first frame, as it is told."""
        points = self._points(self._of_frame(0, 0))
        return in_plane(points[..., :2] if self._is_stack else points)

    @cached_property
    def _unit(self) -> tuple[float, tuple[str, ...]]:
        """What trajectories are multiplied by, and what was done and is doubtful."""
        cycles, notes = in_cycles_per_field(self._first, self._matrix)
        largest = np.unravel_index(int(np.abs(self._first).argmax()), self._first.shape)
        return float(cycles[largest] / self._first[largest]), notes

    def slice_count(self, contents: Contents) -> int:  # noqa: ARG002
        """Number of frames, times partitions."""
        return len(self._selection.frames) * self._partitions

    def check_limits(self, contents: Contents, limits: Limits) -> None:
        """Refuse a measurement of too many frames, coils or samples."""
        limits.check("data", "slices", self.slice_count(contents), limits.max_slices)
        lines = self._readouts.lines[self._selection.image]
        limits.check("data", "coils", int(lines["coils"][0]), limits.max_coils, remedy=COMPRESS)
        most = int(np.bincount(self._selection.frame_of).max()) * int(lines["samples"][0])
        limits.check("data", "samples of a frame", most, MOST_POINTS, LEAST_SIDE)
        check_compressible("data", int(lines["coils"][0]), most * int(lines["coils"][0]))
        for side in self._matrix:
            limits.check("xml", "pixels a side", side, limits.max_matrix, LEAST_SIDE)

    def probe(self, contents: Contents) -> ScanHeader:
        """Header of the measurement, after a check of all its values."""
        selection, encoding = self._selection, self._selection.encoding
        warnings = [*selection.warnings, *self._lost, *self._whitening.warnings, *self._unit[1][1:]]
        corrections = [*selection.corrections, *self._whitening.corrections, *self._unit[1][:1]]
        peak, empty = 0.0, []
        for index in range(self.slice_count(contents)):
            frame = self._read(index)
            largest = float(np.abs(frame.kspace).max())
            if not np.isfinite(largest):
                raise UnreadableScan.at("data", f"NaN or infinity in frame {index}", "finite numbers")
            peak = max(peak, largest)
            empty += [index] if largest == 0 else []
            if len(frame.kspace) > 1:
                calibration_of(frame.trajectory.reshape(-1, 2), self._matrix)
        if peak == 0:
            raise UnreadableScan.at("data", "nothing but zeros", "measured values")
        if not PEAKS[0] <= peak <= PEAKS[1]:
            expected = f"between {PEAKS[0]:g} and {PEAKS[1]:g}"
            raise UnreadableScan.at("data", f"a largest magnitude of {peak:.3g}", expected)
        if empty:
            warnings.append(f"without any signal: {', '.join(slice_names(empty[:20], selection.frames))}")
        image = self._image
        if image.spacing_mm is None:
            warnings.append("the header gives no field of view: 1 mm is assumed for a pixel")
        geometry = slice_geometry(self._readouts.lines[selection.image], selection, image)
        warnings += geometry.warnings
        affine, spacing = geometry.affine, geometry.slice_spacing_mm
        if self._partitions > 1:
            affine, spacing = None, None if spacing is None else spacing / self._partitions
            corrections.append(f"the stack was transformed along kz to {self._partitions} slices")
        is_one_volume = len(selection.frames) == len(selection.slice_numbers)
        coils = int(self._readouts.lines["coils"][selection.image[0]])
        corrections += compression_corrections(coils)
        return ScanHeader(
            format=contents.format,
            modality=Modality.MRI,
            slices=self.slice_count(contents),
            coils=min(coils, MOST_COILS),
            matrix=self._matrix,
            kspace_matrix=self._matrix,
            pixel_spacing_mm=image.spacing_mm or (1.0, 1.0),
            slice_spacing_mm=spacing,
            affine=affine,
            frames=() if is_one_volume or self._partitions > 1 else selection.frames,
            trajectory=self._shape(encoding.trajectory),
            averages=int(self._readouts.lines["average"][selection.image].max()) + 1,
            prewhitened=self._whitening.matrix is not None,
            corrections=tuple(corrections),
            acceleration=acceleration(self._first * self._unit[0], self._matrix),
            warnings=tuple(warnings),
        )

    def read(self, contents: Contents, slices: Sequence[int]) -> NonCartesianAcquisition:  # noqa: ARG002
        """Read the wanted frames, which have equally many readouts."""
        frames = [self._read(index) for index in slices]
        kspace = np.stack([frame.kspace for frame in frames])
        measured = (kspace != 0).any(axis=1)
        coils = kspace.shape[1]
        found = NonCartesianAcquisition(
            kspace=kspace,
            trajectory=np.stack([frame.trajectory for frame in frames]),
            measured=None if measured.all() or not measured.any() else measured,
            matrix=self._matrix,
            noise_covariance=None if self._whitening.matrix is None else np.eye(coils, dtype=np.complex64),
            recon_size=self._matrix,
            pixel_spacing_mm=self._image.spacing_mm or (1.0, 1.0),
        )
        return with_few_coils(found)

    @property
    def _image(self) -> ImageGrid:
        encoding, (rows, columns) = self._selection.encoding, self._matrix
        space = encoding.recon or encoding.encoded
        x, y, across = space.field_of_view_mm
        spacing = None if x is None or y is None else (y / rows, x / columns)
        return ImageGrid((rows, columns), spacing, (rows // 2, columns // 2), across, ())

    def _shape(self, told: str) -> Shape:
        if told in _TOLD:
            return "radial" if told == "radial" else "spiral"
        return "radial" if told == "goldenangle" else shape_of(self._first)

    def _count_partitions(self) -> int:
        """Partitions of a stack of stars or spirals. Raises UnsupportedScan unless all were measured alike."""
        steps = self._readouts.lines["kspace_encode_step_2"][self._selection.image]
        count = self._selection.encoding.encoded.matrix[2]
        frames = range(len(self._selection.frames))
        sizes = {len(self._of_frame(frame, step)) for frame in frames for step in range(count)}
        if steps.max() >= count or len(sizes) > 1 or 0 in sizes:
            raise UnsupportedScan.at(
                "kspace_encode_step_2",
                f"a stack of {count} partitions that were not all measured alike",
                "every partition measured by the same readouts, or slices already transformed along kz",
            )
        return count

    def _of_frame(self, frame: int, partition: int) -> Indices:
        """The image's readouts of a partition of a frame, in an order that is the same in all partitions."""
        chosen = self._selection.image_of(frame)
        if not self._is_stack:
            return chosen
        chosen = chosen[self._readouts.lines["kspace_encode_step_2"][chosen] == partition]
        lines = self._readouts.lines[chosen]
        ordered: Indices = chosen[np.lexsort((lines["average"], lines["kspace_encode_step_1"]))]
        return ordered

    def _cut(self, indices: Indices) -> tuple[int, int]:
        line = self._readouts.lines[indices[0]]
        return int(line["discard_pre"]), int(line["samples"]) - int(line["discard_post"])

    def _points(self, indices: Indices) -> NDArray[np.float32]:
        """Trajectory (readouts, samples, dimensions) of readouts, as it is told."""
        first, last = self._cut(indices)
        parts = [block.trajectory for block in self._readouts.blocks(indices)]
        if any(part is None for part in parts):
            raise UnsupportedScan.at("traj", "readouts without a trajectory", _REMEDY)
        return np.concatenate([part[:, first:last] for part in parts if part is not None])

    def _samples(self, indices: Indices) -> NDArray[np.complex64]:
        """k-space (coils, readouts, samples), prewhitened."""
        first, last = self._cut(indices)
        parts = [self._whitening.apply(block.samples[..., first:last]) for block in self._readouts.blocks(indices)]
        return np.concatenate(parts).swapaxes(0, 1)

    def _read(self, index: int) -> Frame:
        frame, partition = divmod(index, self._partitions)
        factor, _ = self._unit
        indices = self._of_frame(frame, 0)
        trajectory = (in_plane(self._points(indices)[..., :2]) * factor).astype(np.float32)
        if self._partitions == 1:
            return Frame(np.ascontiguousarray(self._samples(indices)), trajectory)
        count = self._partitions
        limit = self._selection.encoding.limits.get("kspace_encoding_step_2")
        middle = count // 2 if limit is None else limit.center
        total = np.zeros_like(self._samples(indices))
        for step in range(count):
            turn = np.exp(2j * np.pi * (step - middle) * (partition - count // 2) / count) / np.sqrt(count)
            total += self._samples(self._of_frame(frame, step)) * np.complex64(turn)
        return Frame(np.ascontiguousarray(total), trajectory)


def _of_one_length(readouts: Readouts, selection: Selection) -> tuple[Selection, tuple[str, ...]]:
    """The selection with image readouts of the commonest length alone, and a warning where there were others."""
    lines = readouts.lines[selection.image]
    names = ("samples", "discard_pre", "discard_post", "trajectory_dimensions")
    shapes = np.stack([lines[name].astype(np.int64) for name in names], axis=1)
    distinct, which, counts = np.unique(shapes, axis=0, return_inverse=True, return_counts=True)
    usual = int(counts.argmax())
    samples, pre, post, dimensions = (int(value) for value in distinct[usual])
    if samples - pre - post < 1 or dimensions not in (2, 3):
        found = f"readouts of {samples} samples, {pre + post} of them to discard, in {dimensions} dimensions"
        raise UnreadableScan.at("data", found, "samples that are kept, in 2 or 3 dimensions")
    if len(distinct) == 1:
        return selection, ()
    kept = which.reshape(-1) == usual
    warning = (
        f"readouts of {len(distinct)} lengths: the {counts[usual]} of {samples} samples are read, the others are not"
    )
    frames, frame_of = np.unique(selection.frame_of[kept], return_inverse=True)
    return (
        replace(
            selection,
            image=selection.image[kept],
            frame_of=frame_of,
            frames=tuple(selection.frames[number] for number in frames),
        ),
        (warning,),
    )

"""Readouts (lines) of a measurement: their header, what each tells of itself, and their samples block by block.

The names are those of ISMRMRD (Inati et al. 2017), whose data model this is.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.formats.kspace.ismrmrd_header import Space
from udig_recon.core.identity import Identity

COUNTERS = ("contrast", "phase", "repetition", "set")
"""Counters of a readout that tell frames of a slice apart, outermost first."""

READOUT = np.dtype(
    [
        ("flags", "<u8"),  # of `Flag`
        ("samples", "<u2"),  # of each coil, those to discard included
        ("coils", "<u2"),
        ("discard_pre", "<u2"),  # samples at the beginning that are no measurement
        ("discard_post", "<u2"),  # the same at the end
        ("center_sample", "<u2"),  # at the zero frequency, counted from the first sample in the order of time
        ("encoding", "<u2"),  # number of the header's encoding
        ("trajectory_dimensions", "<u2"),  # 0: no trajectory is told
        ("sample_time_us", "<f4"),  # 0: unknown
        ("position", "<f4", 3),  # of the slice's or slab's centre, in patient coordinates (L, P, S), mm
        ("read_dir", "<f4", 3),  # unit vectors in patient coordinates; zeros: unknown
        ("phase_dir", "<f4", 3),
        ("slice_dir", "<f4", 3),
        ("kspace_encode_step_1", "<u2"),
        ("kspace_encode_step_2", "<u2"),
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("segment", "<u2"),
    ]
)
"""What each readout tells of itself."""


class Flag(IntFlag):
    """Flags of a readout that decide what it is good for: bits of READOUT's `flags`."""

    NOISE = 1 << 18
    CALIBRATION = 1 << 19  # of parallel imaging, and nothing else
    CALIBRATION_AND_IMAGE = 1 << 20
    REVERSE = 1 << 21  # measured from the last sample to the first
    NAVIGATION = 1 << 22
    PHASE_CORRECTION = 1 << 23
    HP_FEEDBACK = 1 << 25
    DUMMY = 1 << 26
    RT_FEEDBACK = 1 << 27
    SURFACE_COIL = 1 << 28
    PHASE_STABILIZATION_REFERENCE = 1 << 29
    PHASE_STABILIZATION = 1 << 30


@dataclass(frozen=True)
class Limit:
    """Range of an encoding counter, and its value at the zero frequency."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True, kw_only=True)
class ReadoutEncoding:
    """One encoding of a measurement: the k-space that its readouts fill, and the image meant to come of it."""

    encoded: Space  # (x, y, z), x along the readout with its oversampling
    recon: Space | None
    trajectory: str = "cartesian"  # in lower case: "cartesian", "epi", "radial", "goldenangle", "spiral", "other"
    limits: Mapping[str, Limit] = field(default_factory=dict)  # "kspace_encoding_step_1" ...
    calibration_mode: str | None = None  # in lower case: "embedded", "separate", "interleaved", "external", "other"


@dataclass(frozen=True, kw_only=True)
class ReadoutHeader:
    """What a measurement tells of all its readouts."""

    encodings: tuple[ReadoutEncoding, ...]
    relative_noise_bandwidth: float = 1.0  # of the receiver's noise, relative to that of the noise measurement
    identity: Identity = field(default_factory=Identity)


class ReadoutBlock(NamedTuple):
    """Some readouts of one shape."""

    indices: NDArray[np.intp]  # (lines,) among all readouts
    samples: NDArray[np.complex64]  # (lines, coils, samples), in the order of time
    trajectory: NDArray[np.float32] | None  # (lines, samples, dimensions); None where none is told


class Readouts(ABC):
    """A measurement: all of its readouts, of which no samples are in memory until asked for."""

    def __init__(
        self,
        header: ReadoutHeader,
        lines: NDArray[Any],
        noise: "Readouts | None" = None,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """`lines` (n,) is a structured array of READOUT, in the order of time.

        `noise` is an earlier measurement that this one depends on: its noise readouts count where this has none.
        """
        self.header = header
        self.lines = lines
        self.noise = noise
        self.warnings = warnings

    @abstractmethod
    def blocks(self, indices: NDArray[np.intp]) -> Iterator[ReadoutBlock]:
        """The readouts of these numbers, in that order, in blocks of a few MiB. Raises UnreadableScan."""


def same_shape(lines: NDArray[Any], indices: NDArray[np.intp], most_bytes: int = 4 << 20) -> Iterator[NDArray[np.intp]]:
    """Runs of readouts that have equally many coils, samples and dimensions, each of at most so many bytes or one."""
    if not len(indices):
        return
    chosen = lines[indices]
    shapes = np.stack([chosen["coils"], chosen["samples"], chosen["trajectory_dimensions"]], axis=1).astype(np.int64)
    starts = np.flatnonzero(np.any(shapes[1:] != shapes[:-1], axis=1)) + 1
    for run in np.split(np.arange(len(indices)), starts):
        coils, samples, dimensions = shapes[run[0]]
        count = max(1, most_bytes // max(1, int(samples * (8 * coils + 4 * dimensions))))
        for first in range(0, len(run), count):
            yield indices[run[first : first + count]]

"""What each readout of a measurement is good for, by its flags: image, calibration, noise, or nothing of these."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.acquisition import Frame
from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.formats.readouts.readouts import COUNTERS, Flag, ReadoutEncoding, Readouts

Indices = NDArray[np.intp]

_LEFT_OUT = {
    Flag.NAVIGATION: "navigation",
    Flag.PHASE_CORRECTION: "phase correction",
    Flag.HP_FEEDBACK | Flag.RT_FEEDBACK: "feedback",
    Flag.DUMMY: "dummy",
    Flag.SURFACE_COIL: "surface coil correction",
    Flag.PHASE_STABILIZATION_REFERENCE | Flag.PHASE_STABILIZATION: "phase stabilization",
}
_OF_THE_IMAGE = (None, "embedded", "interleaved")  # modes in which calibration readouts are of the image too
_EPI = (
    "another sequence: EPI needs its lines' phases corrected first (the scanner's own images, or siemens_to_ismrmrd's "
    "data after Gadgetron's EPI reconstruction)"
)


@dataclass(frozen=True)
class Selection:
    """The readouts of a measurement by what they are good for, each as numbers in the order of time."""

    encoding: ReadoutEncoding
    image: Indices
    frame_of: NDArray[np.intp]  # (image readouts,), the number of each one's frame
    frames: tuple[Frame, ...]  # volume after volume: the slices of the first contrast, phase, repetition and set first
    slice_numbers: tuple[int, ...]  # counters `slice` of the readouts by place along the slice direction
    calibration: Indices  # for coil maps alone; where empty, maps come from the image's readouts
    noise: Indices
    warnings: tuple[str, ...]
    corrections: tuple[str, ...]

    def image_of(self, frame: int) -> Indices:
        """The image's readouts of a frame."""
        chosen: Indices = self.image[self.frame_of == frame]
        return chosen


def select(readouts: Readouts) -> Selection:
    """Sort readouts by what they are good for, and the image's by frame.

    Raises UnreadableScan where no readout is of an image, and UnsupportedScan for EPI.
    """
    lines = readouts.lines
    flags = lines["flags"]
    noise = _has(flags, Flag.NOISE)
    other = np.zeros(len(lines), bool)
    left_out = []
    for flag, name in _LEFT_OUT.items():
        these = _has(flags, flag) & ~other & ~noise
        if these.any():
            left_out.append(f"{these.sum()} of {name}")
        other |= these
    remaining = ~noise & ~other
    alone = _has(flags, Flag.CALIBRATION) & remaining & ~_has(flags, Flag.CALIBRATION_AND_IMAGE)
    warnings: list[str] = []
    encoding, image = _main_encoding(readouts, remaining & ~alone, warnings)
    main = lines["encoding"] == encoding
    if alone[~main].any():
        warnings.append(
            f"{(alone & ~main).sum()} calibration readouts are of another encoding than the image: they are not used"
        )
        alone &= main
    _refuse_epi(readouts.header.encodings[encoding], flags, image)
    corrections = [f"readouts that are no measurement of the image are left out: {', '.join(left_out)}"]
    calibration = np.zeros(len(lines), bool)
    if alone.any() and readouts.header.encodings[encoding].calibration_mode in _OF_THE_IMAGE:
        image |= alone
    elif alone.any():
        calibration = alone
        corrections.append("coil maps are of calibration readouts, which are not used for the image")
    image = _same_coils(lines, image, warnings)
    coils = lines["coils"][image][0]
    calibration &= lines["coils"] == coils
    chosen = np.flatnonzero(image)
    numbers, noted = order_slices(lines[chosen])
    warnings += noted
    frames, frame_of = _frames(lines[chosen], numbers)
    return Selection(
        encoding=readouts.header.encodings[encoding],
        image=chosen,
        frame_of=frame_of,
        frames=frames,
        slice_numbers=numbers,
        calibration=np.flatnonzero(calibration),
        noise=np.flatnonzero(noise),
        warnings=(*readouts.warnings, *warnings),
        corrections=tuple(corrections if left_out else corrections[1:]),
    )


def order_slices(lines: NDArray[Any]) -> tuple[tuple[int, ...], list[str]]:
    """Counters of the slices in the order of their positions along the slice direction, and warnings.

    Where positions do not tell, it is the order of the counters.
    """
    numbers, first = np.unique(lines["slice"], return_index=True)
    if len(numbers) == 1:
        return (int(numbers[0]),), []
    positions = lines["position"][first].astype(np.float64)
    normals = lines["slice_dir"][first].astype(np.float64)
    along = positions @ normals[0]
    known = np.isfinite(positions).all() and np.isfinite(normals).all() and bool(normals[0].any())
    if not known or len(np.unique(along)) < len(numbers):
        return tuple(map(int, numbers)), ["slices are in the order of their numbers, as their positions do not tell"]
    return tuple(int(numbers[place]) for place in np.argsort(along)), []


def _frames(lines: NDArray[Any], numbers: tuple[int, ...]) -> tuple[tuple[Frame, ...], NDArray[np.intp]]:
    places = {number: place for place, number in enumerate(numbers)}
    slices = np.array([places[int(number)] for number in lines["slice"]])
    keys = np.stack([*(lines[name] for name in COUNTERS), slices], axis=1)
    distinct, frame_of = np.unique(keys, axis=0, return_inverse=True)
    frames = tuple(
        Frame(slice=int(key[-1]), **{name: int(value) for name, value in zip(COUNTERS, key, strict=False)})
        for key in distinct
    )
    return frames, frame_of.reshape(-1)


def _has(flags: NDArray[np.uint64], flag: Flag) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (flags & np.uint64(flag)) != 0
    return found


def _main_encoding(readouts: Readouts, wanted: NDArray[np.bool_], warnings: list[str]) -> tuple[int, NDArray[np.bool_]]:
    """The encoding that most readouts of images are of, and those readouts."""
    lines = readouts.lines
    wanted = wanted & (lines["samples"] > 0) & (lines["coils"] > 0)
    if not wanted.any():
        held = "readouts without samples" if len(lines) and not (lines["samples"] > 0).any() else "none"
        raise UnreadableScan.at("data", f"{held} among {len(lines)}", "readouts of an image")
    numbers, counts = np.unique(lines["encoding"][wanted], return_counts=True)
    encoding = int(numbers[counts.argmax()])
    if encoding >= len(readouts.header.encodings):
        found = f"readouts of encoding {encoding}"
        raise UnreadableScan.at("data", found, f"one of the header's {len(readouts.header.encodings)} encodings")
    if len(numbers) > 1:
        warnings.append(
            f"readouts of {len(numbers)} encodings: the {counts.max()} of encoding {encoding} are read, the "
            f"{counts.sum() - counts.max()} others are not"
        )
    return encoding, wanted & (lines["encoding"] == encoding)


def _refuse_epi(encoding: ReadoutEncoding, flags: NDArray[np.uint64], image: NDArray[np.bool_]) -> None:
    ramped = _has(flags, Flag.PHASE_CORRECTION).any() and _has(flags[image], Flag.REVERSE).any()
    if encoding.trajectory == "epi" or ramped:
        found = "EPI (echo planar imaging)"
        if encoding.trajectory != "epi":
            found += ": phase correction readouts beside reversed ones"
        raise UnsupportedScan.at("trajectory", found, _EPI)


def _same_coils(lines: NDArray[Any], image: NDArray[np.bool_], warnings: list[str]) -> NDArray[np.bool_]:
    """The image's readouts of as many coils as most of them have."""
    numbers, counts = np.unique(lines["coils"][image], return_counts=True)
    if len(numbers) == 1:
        return image
    coils = int(numbers[counts.argmax()])
    warnings.append(
        f"readouts of {', '.join(map(str, numbers))} coils: the {counts.max()} of {coils} coils are read, the "
        f"{counts.sum() - counts.max()} others are not"
    )
    return np.asarray(image & (lines["coils"] == coils))

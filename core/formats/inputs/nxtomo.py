"""Input format NeXus NXtomo: HDF5 of synchrotrons and micro-CT; frames with an image key, and processed projections."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import ArraySource
from udig_recon.core.formats.containers.hdf5_arrays import (
    Hdf5Array,
    attribute_text,
    find_hdf5,
    has_member,
    is_group,
    open_dataset,
    open_hdf5,
    peek_hdf5,
    small_number,
)
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.containers.views import ChosenEntries
from udig_recon.core.formats.input_format import Contents
from udig_recon.core.formats.sinogram.projections import MOST_FRAMES, millimetres, read_rotation, sinogram_contents

_PROJECTION, _FLAT, _DARK = 0, 1, 2
_MOST_GROUPS = 64
_DETECTORS = ("instrument/detector", "data", "instrument/tomo", "instrument/detector1")
_ANGLES = ("sample/rotation_angle", "data/rotation_angle", "instrument/detector/rotation_angle", "data/theta")
_ELSEWHERE = (
    "NXtomo often keeps its frames in a second file: copy them into one, with h5repack or h5copy of the dataset that "
    "the link names, or nxtomomill"
)


class Nxtomo:
    """HDF5 of NeXus with projections and their rotation angles in an entry."""

    name = "NeXus NXtomo"
    expected = "NXtomo HDF5 with data, image_key and rotation_angle"

    def sniff(self, file: ScanFile) -> bool:
        """Whether an entry holds projections and rotation angles, or says where they are."""
        if not find_hdf5(file):
            return False
        with peek_hdf5(file) as opened:
            return not any(has_member(opened, name) for name in ("kspace", "sinogram")) and bool(_find(opened))

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The projections as sinograms, with flat and dark fields. Links within the file are followed."""
        with open_hdf5(file, soft_links=True, remedy=_ELSEWHERE) as opened:
            yield _contents(opened.file, file.size)

    def samples(self) -> Sequence[bytes]:
        """Frames of all kinds, with a link."""
        stream = io.BytesIO()
        with h5py.File(stream, "w") as file:
            detector = file.create_group("entry/instrument/detector")
            detector["data"] = np.full((13, 1, 8), 9, np.uint16)
            detector["data"][:2] = 99
            detector["image_key"] = np.array([1, 1, 2, *[0] * 10])
            file["entry/sample/rotation_angle"] = np.arange(13.0)
            file["entry/sample/rotation_angle"].attrs["units"] = "degree"
            file["entry/data/data"] = h5py.SoftLink("/entry/instrument/detector/data")
        return (stream.getvalue(),)


FORMAT = Nxtomo()


class _Places(NamedTuple):
    """Paths of a scan's datasets; empty where there is none."""

    data: str
    image_key: str
    rotation_angle: str
    pixel: str


def _find(file: h5py.File) -> list[_Places]:
    """The scans of a file: in its entries and their subentries, by the names that NXtomo has."""
    entries = [name for name in list(file)[:_MOST_GROUPS] if is_group(file, name)]
    inner = [f"{name}/{each}" for name in entries for each in list(file[name])[:_MOST_GROUPS]]
    entries += [path for path in inner if is_group(file, path)]
    found = []
    for entry in entries:
        angle = _first(file, entry, _ANGLES)
        groups = [each for each in _DETECTORS if has_member(file, f"{entry}/{each}/data")]
        keyed = [each for each in groups if has_member(file, f"{entry}/{each}/image_key")]
        if not groups or not (angle or keyed):
            continue
        group = (keyed or groups)[0]
        key = f"{entry}/{group}/image_key" if keyed else ""
        pixel = _first(file, entry, ("instrument/detector/x_pixel_size", "sample/x_pixel_size"))
        found.append(_Places(f"{entry}/{group}/data", key, angle, pixel))
    return found


def _first(file: h5py.File, entry: str, names: Sequence[str]) -> str:
    return next((f"{entry}/{name}" for name in names if has_member(file, f"{entry}/{name}")), "")


def _contents(file: h5py.File, file_bytes: int) -> Contents:
    places = _find(file)
    if len(places) > 1 and len({(each.data, each.rotation_angle) for each in places}) > 1:
        found = f"{len(places)} scans"
        raise UnreadableScan.at("file", found, "one scan a file: copy each entry into a file of its own (h5copy)")
    place = places[0]
    if not place.rotation_angle:
        raise UnreadableScan.at("rotation_angle", "none", f"{' or '.join(_ANGLES[:2])} in the entry, one a frame")
    rotation = open_dataset(file, place.rotation_angle)
    source = Hdf5Array("rotation_angle", rotation, file_bytes)
    angles, noted = read_rotation(source, attribute_text(rotation, "units"))
    frames = Hdf5Array("sinogram", open_dataset(file, place.data), file_bytes)
    warnings = list(noted)
    projections: ArraySource = frames
    beam: dict[str, ArraySource] = {}
    if place.image_key:
        key = _image_key(file, place.image_key, frames, file_bytes)
        projections = ChosenEntries(frames, np.flatnonzero(key == _PROJECTION))
        if len(angles) == len(key):
            angles = angles[key == _PROJECTION]
        for name, number in (("flat", _FLAT), ("dark", _DARK)):
            if (key == number).any():
                beam[name] = ChosenEntries(frames, np.flatnonzero(key == number))
        others = int(np.count_nonzero(~np.isin(key, (_PROJECTION, _FLAT, _DARK))))
        if others:
            warnings.append(f"{others} frames of another image_key than 0, 1 and 2 are not used")
    if "flat" not in beam:
        if frames.dtype.kind != "f":
            found = f"no frame of image_key 1 beside {frames.dtype} counts"
            raise UnreadableScan.at("image_key", found, "frames without an object, or line integrals as data")
        beam = {}
        warnings.append("the file has no flat fields (image_key 1): data are taken for line integrals")
    pixel = None
    if place.pixel:
        dataset = open_dataset(file, place.pixel)
        value = small_number(dataset)
        pixel = None if value is None else millimetres(value, attribute_text(dataset, "units"))
    return sinogram_contents("nxtomo", projections, angles, pixel, beam, warnings)


def _image_key(file: h5py.File, path: str, frames: ArraySource, file_bytes: int) -> np.ndarray:
    source = Hdf5Array("image_key", open_dataset(file, path), file_bytes)
    if source.dtype.kind not in "iuf" or len(source.shape) != 1 or source.shape[0] > MOST_FRAMES:
        raise UnreadableScan.at("image_key", f"shape {source.shape} of {source.dtype}", "one number for each frame")
    if len(frames.shape) != 3 or source.shape[0] != frames.shape[0]:
        found = f"{source.shape[0]} for data of shape {frames.shape}"
        raise UnreadableScan.at("image_key", found, "one for each frame of data (frames, rows, columns)")
    key = source.whole()
    if not (key == _PROJECTION).any():
        raise UnreadableScan.at("image_key", "no 0", "0 for projections, 1 for flat and 2 for dark fields")
    return key

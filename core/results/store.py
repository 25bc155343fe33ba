"""Reconstructions on disk: one slice while a job runs, then the whole result in the formats that are asked for."""

import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import count, pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from udig_recon.core.files.atomic import DamagedFile, Digest, Hashing, replacing
from udig_recon.core.files.checksummed_arrays import opened, sealed
from udig_recon.core.formats.containers.hdf5 import RESULT_MARK
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.interruption import check_interruption
from udig_recon.core.prior_check import PriorCheck
from udig_recon.core.quality.rating import Rating, worst
from udig_recon.core.results.nifti import nifti_header
from udig_recon.core.results.png import contact_sheet_png, magnitude_png

Image = NDArray[np.float32]


class OutputFormat(StrEnum):
    """What a reconstruction can be downloaded as."""

    H5 = "h5"
    NPY = "npy"
    NIFTI = "nifti"
    PNG = "png"

    @property
    def suffix(self) -> str:
        """Suffix of its files."""
        return {"h5": ".h5", "npy": ".npy", "nifti": ".nii.gz", "png": ".png"}[self]

    @property
    def media_type(self) -> str:
        """Media type of its files."""
        types = {"h5": "application/x-hdf5", "npy": "application/octet-stream", "nifti": "application/gzip"}
        return types.get(self, "image/png")


OPTIONAL = ("image_complex", "reference", "deviation", "hallucination")
"""Arrays of a slice that not every one has."""
TOLD = ("prior_check", "verdict", "rating", "grade", "versions")
"""What else a slice may have, stored as JSON."""
_STORED = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
"""How the images of a result file are stored: packed, and each with a checksum that HDF5 compares when it reads."""


@dataclass(frozen=True)
class SliceResult:
    """The reconstruction of one slice, in the scan's own units or 1/mm."""

    image: Image  # (y, x)
    image_complex: NDArray[np.complex64] | None  # (y, x), MRI
    plain: Image  # (y, x): zero-filled or filtered back-projection
    reference: Image | None  # (y, x)
    curves: Mapping[str, list[float]]  # one value per snapshot
    prior_check: PriorCheck | None = None  # where the method has one
    rating: Rating | None = None  # once it is finished
    deviation: Image | None = None  # (y, x): between several seeds, in the image's unit
    hallucination: Image | None = None  # (y, x): see core/quality/hallucination.py, where a prior had a say
    versions: Mapping[str, str] | None = None  # of software and prior that made it, where somebody noted them

    def told(self) -> dict[str, Any]:
        """Its rating and, where the method has one, its prior check."""
        quality = {} if self.rating is None else {"quality": self.rating.as_json()}
        return quality if self.prior_check is None else quality | self.prior_check.as_json()

    @property
    def size_bytes(self) -> int:
        """About what `save` writes."""
        images = (self.image, self.plain, *(getattr(self, name) for name in OPTIONAL))
        return sum(image.nbytes for image in images if image is not None)

    def save(self, path: Path, owner: str | None = None) -> Digest:
        """Write it as .npz, sealed with its own digest; a file of that name is whole. `owner` is whose it is."""
        arrays = {"image": self.image, "plain": self.plain}
        optional = {name: getattr(self, name) for name in OPTIONAL}
        curves = {f"curve_{name}": np.asarray(values, np.float64) for name, values in self.curves.items()}
        present = {name: array for name, array in optional.items() if array is not None}
        if self.prior_check is not None:
            present["prior_check"] = np.asarray(json.dumps(asdict(self.prior_check)))
        if self.rating is not None:
            present["rating"] = np.asarray(json.dumps(self.rating.as_json()))
        if self.versions is not None:
            present["versions"] = np.asarray(json.dumps(dict(self.versions)))
        if owner is not None:
            present["owner"] = np.asarray(owner)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays, **present, **curves)
        content = sealed(buffer.getvalue())
        with replacing(path) as part:
            part.write_bytes(content)
        return Digest(hashlib.sha256(content).hexdigest(), len(content))

    @classmethod
    def load(cls, path: Path, sha256: str | None = None, owner: str | None = None) -> "SliceResult":
        """Read what `save` wrote. Raises DamagedFile where it is not that, or has another digest or owner than these.

        A file that names no owner is of an older version and taken for anybody's.
        """
        with opened(path, sha256) as stored:
            if owner is not None and "owner" in stored.files and str(stored["owner"]) != owner:
                raise DamagedFile(f"{path.name} is of {stored['owner']}, not of {owner}")
            curves = {n.removeprefix("curve_"): stored[n].tolist() for n in stored.files if n.startswith("curve_")}
            optional = {name: stored[name] if name in stored.files else None for name in OPTIONAL}
            told = {name: json.loads(str(stored[name])) for name in TOLD if name in stored.files}
            return cls(
                image=stored["image"],
                plain=stored["plain"],
                curves=curves,
                prior_check=_prior_check(told),
                rating=_rating(told),
                versions=told.get("versions"),
                **optional,
            )

    @classmethod
    def versions_of(cls, path: Path, sha256: str | None = None) -> Mapping[str, str]:
        """The versions of what `save` wrote, without its images. Raises DamagedFile as `load` does."""
        with opened(path, sha256) as stored:
            known: dict[str, str] = json.loads(str(stored["versions"])) if "versions" in stored.files else {}
        return known


def _rating(told: Mapping[str, Any]) -> Rating | None:
    stored = told.get("rating", told.get("grade"))  # `grade` before version 0.2
    return None if stored is None else Rating.from_json(stored)


def _prior_check(told: Mapping[str, Any]) -> PriorCheck | None:
    stored = told.get("prior_check", told.get("verdict"))  # `verdict` before version 0.2
    return None if stored is None else PriorCheck.from_stored(stored)


def about(header: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a result file that follow from its scan's header as JSON: what not every scan has."""
    told = {name: header.get(name) for name in ("slice_spacing_mm", "warnings")}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items() if value}


def write_hdf5(path: Path, slices: Iterable[SliceResult], attributes: Mapping[str, Any]) -> Digest:
    """Write a result file, slice by slice; `attributes` that are no scalars are stored as JSON.

    Datasets `reconstruction`, `reconstruction_complex` (MRI), `zero_filled` or `fbp`, `reference`, all (slices, y, x);
    `standard_deviation` of several seeds and, where a prior had a say, `hallucination_map`, likewise;
    `curves/<name>` (slices, snapshots), padded with NaN. `pixel_spacing_mm` (y, x) is wanted for NIfTI and PNG, for
    NIfTI also `slice_spacing_mm` and `warnings`, and `slices`, their numbers, for the worst of their ratings, which is
    attribute `quality`. Attribute `verdicts` has an entry for each slice: its rating and, where it was judged, its
    verdict. What a slice lacks and others have is NaN.
    """
    curves: list[Mapping[str, list[float]]] = []
    verdicts: list[dict[str, Any]] = []
    ratings: dict[int, Rating] = {}
    numbers = iter(attributes.get("slices", count()))
    written: list[Digest] = []
    with _new_hdf5(path, written) as file:
        file.attrs[RESULT_MARK] = True
        for name, value in attributes.items():
            scalar = isinstance(value, str | int | float | np.generic)
            file.attrs[name] = value if scalar else json.dumps(value)
        for slice_result in slices:
            check_interruption()
            curves.append(slice_result.curves)
            verdicts.append(slice_result.told())
            number = next(numbers)
            if slice_result.rating is not None:
                ratings[number] = slice_result.rating
            for name, image in _datasets(slice_result).items():
                _append(file, name, image, len(curves))
        for name in file:
            file[name].resize(len(curves), axis=0)
        for name in sorted({name for curve in curves for name in curve}):
            file[f"curves/{name}"] = _padded([curve.get(name, []) for curve in curves])
        if ratings:
            file.attrs["quality"] = json.dumps(worst(ratings).as_json())
        if any(verdicts):
            file.attrs["verdicts"] = json.dumps(verdicts)
    return written[0]


class _Sink(io.FileIO):
    """What HDF5 writes to. It loses errors of its caches and crashes over what they leave: here the first one waits."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it, or, once something has failed, nothing."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.failure is None:
                left = left[super().write(left) or 0 :]
        except OSError as error:
            self.failure = error
        return size


@contextmanager
def _new_hdf5(path: Path, written: list[Digest]) -> Iterator[h5py.File]:
    """A file that takes its name when all of it is on the disk, its digest then in `written`.

    Raises the OSError that kept it from there.
    """
    with replacing(path) as part:
        with _Sink(part, "w+") as sink:
            try:
                with h5py.File(sink, "w") as file:
                    yield file
            finally:
                if sink.failure is not None:
                    raise sink.failure
        # HDF5 goes back to what it wrote before: only now the bytes are known.
        written.append(Digest.of(part))


def convert(hdf5: Path, path: Path, output: OutputFormat) -> Digest:
    """Write the reconstruction in a result file to `path` in another format."""
    with h5py.File(hdf5, "r") as file, replacing(path) as part, part.open("wb") as plain:
        target = Hashing(plain)
        volume = file["reconstruction"]
        spacing = json.loads(file.attrs.get("pixel_spacing_mm", "[1, 1]"))
        match output:
            case OutputFormat.H5:
                target.write(hdf5.read_bytes())
            case OutputFormat.NPY:
                layout = {"descr": "<f4", "fortran_order": False, "shape": volume.shape}
                npy_format.write_array_header_1_0(target, layout)
                target.writelines(_little_endian(volume))
            case OutputFormat.NIFTI:
                slices = json.loads(file.attrs.get("slices", "[]"))
                head = nifti_header(volume.shape, spacing, _slice_spacing(file, slices), _warnings(file))
                with gzip.GzipFile("", "wb", compresslevel=4, fileobj=cast("BinaryIO", target), mtime=0) as packed:
                    packed.write(head)
                    packed.writelines(_little_endian(volume))
            case OutputFormat.PNG:
                one = len(volume) == 1
                target.write(magnitude_png(volume[0], None, spacing) if one else contact_sheet_png(volume, spacing))
        return target.digest


def _little_endian(volume: h5py.Dataset) -> Iterator[bytes]:
    """The volume slice by slice; (z, y, x) in C order is NIfTI's (x, y, z) in Fortran order."""
    for image in volume:
        check_interruption()
        yield np.asarray(image, "<f4").tobytes()


def _slice_spacing(file: h5py.File, slices: Sequence[int]) -> float | None:
    """Millimetres from one slice of the volume to the next; None where the scan does not tell, or some are left out."""
    if "slice_spacing_mm" not in file.attrs:
        return None
    steps = {after - before for before, after in pairwise(slices)} or {1}
    return float(file.attrs["slice_spacing_mm"]) * steps.pop() if len(steps) == 1 and min(steps) > 0 else None


def _warnings(file: h5py.File) -> list[str]:
    return list(json.loads(file.attrs.get("warnings", "[]")))


def _datasets(result: SliceResult) -> dict[str, NDArray[Any]]:
    plain = "fbp" if result.image_complex is None else "zero_filled"
    images: dict[str, NDArray[Any] | None] = {
        "reconstruction": result.image,
        "reconstruction_complex": result.image_complex,
        plain: result.plain,
        "reference": result.reference,
        "standard_deviation": result.deviation,
        "hallucination_map": result.hallucination,
    }
    return {name: image for name, image in images.items() if image is not None}


def _append(file: h5py.File, name: str, image: NDArray[Any], count: int) -> None:
    """Put the image in the last of `count` places."""
    if name not in file:
        shape, empty = image.shape, image.dtype.type(np.nan)
        chunked = {"maxshape": (None, *shape), "chunks": (1, *shape), "fillvalue": empty, **_STORED}
        file.create_dataset(name, (0, *shape), image.dtype, **chunked)
    dataset = file[name]
    dataset.resize(count, axis=0)
    dataset[-1] = image


def _padded(curves: list[list[float]]) -> NDArray[np.float64]:
    table = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[: len(curve)] = curve
    return table

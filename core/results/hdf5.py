"""Output format `h5`: a result file with everything that is known of a reconstruction, and its reader.

Datasets, all (slices, y, x): `reconstruction`, `reconstruction_complex` (MRI), `zero_filled` or `fbp`, `reference`,
`standard_deviation` (several seeds) and `hallucination_map` (methods with a prior). What a slice lacks and others have
is NaN. `curves/<name>` (slices, snapshots) are padded with NaN.

Attributes: those of `ResultInfo`, as JSON where they are no scalars; `slice_numbers`; `slices`, a JSON list with the
rating and prior check of each slice; `quality`, the worst rating. Files before version 0.2 call `slice_numbers`
`slices`, and `slices` `verdicts`; they are read too.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.files.atomic import DamagedFile
from udig_recon.core.files.checksummed_arrays import ARCHIVE_ERRORS
from udig_recon.core.files.hdf5_sink import Hdf5Sink
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.result_mark import RESULT_MARK
from udig_recon.core.interruption import check_interruption
from udig_recon.core.quality.rating import Rating, worst
from udig_recon.core.results.output_format import Image, OutputFormat, ResultInfo, ResultSlice
from udig_recon.core.results.store import SliceResult

DATASETS = {
    "reconstruction": "image",
    "reconstruction_complex": "image_complex",
    "zero_filled": "direct",
    "fbp": "direct",
    "reference": "reference",
    "standard_deviation": "deviation",
    "hallucination_map": "hallucination",
}
"""Datasets of a result file, and the arrays of a slice that they hold. `direct` is `fbp` for CT."""
_STORAGE = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}
"""Images are compressed, each with a checksum that HDF5 compares when it reads."""


class Hdf5Writer:
    """Appends slices to the datasets of a result file; `finish` writes curves and ratings."""

    def __init__(self, file: h5py.File, info: ResultInfo) -> None:
        self._file, self._numbers = file, info.slice_numbers
        self._curves: list[Mapping[str, list[float]]] = []
        self._summaries: list[dict[str, Any]] = []
        self._ratings: dict[int, Rating] = {}
        file.attrs[RESULT_MARK] = True
        for name, value in {**info.attributes, "slice_numbers": list(self._numbers)}.items():
            is_scalar = isinstance(value, str | int | float | np.generic)
            file.attrs[name] = value if is_scalar else json.dumps(value)

    def add(self, result: ResultSlice) -> None:
        """Append one slice's images, and keep its curves, rating and prior check for the end."""
        number = self._numbers[len(self._summaries)]
        self._curves.append(result.curves)
        self._summaries.append({"slice": number, **result.summary()})
        if result.rating is not None:
            self._ratings[number] = result.rating
        unused = "zero_filled" if result.image_complex is None else "fbp"
        for name, attribute in DATASETS.items():
            image: NDArray[Any] | None = getattr(result, attribute)
            if image is not None and name != unused:
                self._append(name, image)

    def _append(self, name: str, image: NDArray[Any]) -> None:
        """Put the image in the place of the latest slice; slices before it that have none stay NaN."""
        file = self._file
        if name not in file:
            file.create_dataset(
                name,
                (0, *image.shape),
                image.dtype,
                maxshape=(None, *image.shape),
                chunks=(1, *image.shape),
                fillvalue=image.dtype.type(np.nan),
                **_STORAGE,
            )
        file[name].resize(len(self._summaries), axis=0)
        file[name][-1] = image

    def finish(self) -> None:
        """Write curves, summaries and the worst rating."""
        file = self._file
        for name in file:
            file[name].resize(len(self._summaries), axis=0)
        for name in sorted({name for curves in self._curves for name in curves}):
            rows = [curves.get(name, []) for curves in self._curves]
            table = np.full((len(rows), max(len(row) for row in rows)), np.nan)
            for padded, row in zip(table, rows, strict=True):
                padded[: len(row)] = row
            file[f"curves/{name}"] = table
        if self._ratings:
            file.attrs["quality"] = json.dumps(worst(self._ratings).as_json())
        file.attrs["slices"] = json.dumps(self._summaries)


@contextmanager
def open_writer(path: Path, info: ResultInfo) -> Iterator[Hdf5Writer]:
    """A writer of a result file. Raises the OSError that kept its bytes from the disk."""
    with Hdf5Sink(path, "w+") as sink:
        try:
            with h5py.File(sink, "w") as file:
                writer = Hdf5Writer(file, info)
                yield writer
                writer.finish()
        finally:
            if sink.failure is not None:
                raise sink.failure


FORMAT = OutputFormat("h5", ".h5", "application/x-hdf5", "images, curves, ratings and provenance", open_writer, 0)


class ResultFileSlice:
    """One slice of a result file that is open; each array is read when it is asked for."""

    def __init__(self, file: h5py.File, index: int) -> None:
        self._file, self._index = file, index

    def _array(self, *names: str) -> NDArray[Any] | None:
        """The slice in the first of these datasets that the file has; None where there is none, or only NaN."""
        for name in names:
            if name in self._file:
                values: NDArray[Any] = self._file[name][self._index]
                return None if np.isnan(values).all() else values
        return None

    @property
    def image(self) -> Image:
        """The reconstruction."""
        image: Image = self._file["reconstruction"][self._index]
        return image

    @property
    def image_complex(self) -> NDArray[np.complex64] | None:
        """The complex reconstruction of MRI."""
        return self._array("reconstruction_complex")

    @property
    def direct(self) -> Image:
        """The zero-filled reconstruction or filtered back-projection."""
        direct = self._array("zero_filled", "fbp")
        return self.image if direct is None else direct

    @property
    def reference(self) -> Image | None:
        """The reference."""
        return self._array("reference")

    @property
    def deviation(self) -> Image | None:
        """The standard deviation between seeds."""
        return self._array("standard_deviation")

    @property
    def hallucination(self) -> Image | None:
        """The hallucination map."""
        return self._array("hallucination_map")

    @property
    def curves(self) -> Mapping[str, list[float]]:
        """Metrics on the way, without the padding."""
        stored = self._file.get("curves", {})
        rows = {name: stored[name][self._index] for name in stored}
        return {name: row[~np.isnan(row)].tolist() for name, row in rows.items() if not np.isnan(row).all()}

    @property
    def rating(self) -> Rating | None:
        """The rating."""
        quality = self.summary().get("quality")
        return None if quality is None else Rating.from_json(quality)

    def summary(self) -> dict[str, Any]:
        """Rating and prior check as JSON, under the names of the version that wrote the file."""
        summaries = _summaries(self._file)
        return dict(summaries[self._index]) if summaries else {}


class ResultFile:
    """A result file that is open: what is known of it, and its slices."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    @property
    def info(self) -> ResultInfo:
        """Attributes of the file."""
        attributes = {name: _attribute(value) for name, value in self._file.attrs.items()}
        attributes.pop(RESULT_MARK, None)
        attributes.pop("quality", None)
        summaries = attributes.pop("slices", None)
        attributes.pop("verdicts", None)
        # Before version 0.2 `slices` were the numbers.
        if "slice_numbers" not in attributes and summaries is not None:
            attributes["slice_numbers"] = summaries
        return ResultInfo(len(self._file["reconstruction"]), attributes)

    def slices(self) -> Iterator[ResultFileSlice]:
        """The slices in the order of the result."""
        for index in range(len(self._file["reconstruction"])):
            check_interruption()
            yield ResultFileSlice(self._file, index)


@contextmanager
def open_result(path: Path) -> Iterator[ResultFile]:
    """A result file, to be read. Raises OSError, and what h5py raises over a file that is damaged."""
    with h5py.File(path, "r") as file:
        yield ResultFile(file)


def read_slice(path: Path, index: int) -> SliceResult:
    """The images at this place of a result file, without curves, rating and prior check. Raises DamagedFile.

    The caller compares the file's digest before: HDF5's own checksums cover the images alone.
    """
    try:
        with h5py.File(path, "r") as file:
            stored = ResultFileSlice(file, index)
            return SliceResult(
                image=stored.image,
                image_complex=stored.image_complex,
                direct=stored.direct,
                reference=stored.reference,
                curves={},
                deviation=stored.deviation,
                hallucination=stored.hallucination,
            )
    except ARCHIVE_ERRORS as error:
        raise DamagedFile(f"{path.name} cannot be read: {type(error).__name__}") from error


def _summaries(file: h5py.File) -> list[dict[str, Any]]:
    """Rating and prior check of each slice; files before version 0.2 call them `verdicts`."""
    name = "slices" if "slice_numbers" in file.attrs else "verdicts"
    return list(json.loads(file.attrs.get(name, "[]")))


def _attribute(value: Any) -> Any:
    """An attribute as it was given: JSON of lists and objects is decoded."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        with suppress(ValueError):
            return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value

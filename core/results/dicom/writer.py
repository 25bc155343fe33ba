"""Writer of the DICOM objects of a result: images, maps and comparison pictures, series after series in a zip."""

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from udig_recon.core.acquisition import Modality, frame_labels
from udig_recon.core.interruption import check_interruption
from udig_recon.core.quality.rating import HALLUCINATION_THRESHOLD, Rating
from udig_recon.core.results import png
from udig_recon.core.results.dicom import dataset as dicom
from udig_recon.core.results.dicom.dataset import KINDS, NOTE, PERCENT, Kind, Study
from udig_recon.core.results.dicom.series import PlacedSlice, Series, series_of
from udig_recon.core.results.output_format import Image, ResultInfo, ResultSlice
from udig_recon.core.results.spool import SpooledImages
from udig_recon.core.results.zip_members import add_member, open_archive

_MOST = 65535  # of 16 bits
_GAIN = 5  # of deviations, as of errors
_SOFT_TISSUE = (-160.0, 240.0)  # Hounsfield units, the window that a CT image opens with
_MEANINGS: dict[Kind, str] = {
    "reconstruction": "reconstruction",
    "deviation": "standard deviation between seeds",
    "hallucination": "share of brightness that measurements do not show",
}


class Range(NamedTuple):
    """Smallest and largest value of an image, and the white level of its display."""

    low: float
    high: float
    white: float

    @classmethod
    def of(cls, image: NDArray[Any]) -> "Range":
        """Of an image without NaN."""
        return cls(float(image.min()), float(image.max()), png.display_window(image)[1])


class SpooledResult:
    """The slices of a result, kept in a temporary file until all of them are there: a series has one scale."""

    def __init__(self, folder: Path) -> None:
        self._images = SpooledImages(folder)
        self._places: list[dict[str, int]] = []
        self.ratings: list[Rating | None] = []
        self._modality = Modality.CT

    def add(self, result: ResultSlice) -> None:
        """Keep a slice."""
        places = {}
        for name in ("image", "direct", "reference", "deviation", "hallucination"):
            values: Image | None = getattr(result, name)
            if values is not None:
                places[name] = len(self._images)
                self._images.append(np.nan_to_num(values, posinf=0, neginf=0))
        if result.image_complex is not None:
            self._modality = Modality.MRI
        self._places.append(places)
        self.ratings.append(result.rating)

    def modality_of(self, info: ResultInfo) -> Modality:
        """The modality, as the result tells it or as its images show it."""
        told = info.attributes.get("modality")
        return self._modality if told is None else Modality(told)

    def get(self, index: int, name: str) -> Image | None:
        """An image of slice number `index` of the result; None where it has none."""
        place = self._places[index].get(name)
        return None if place is None else self._images[place]

    def close(self) -> None:
        """Delete the temporary file."""
        self._images.close()


class SeriesWriter(ABC):
    """Keeps the slices until the last one is there, then writes series after series."""

    kinds: ClassVar[tuple[Kind, ...]]
    first_number: ClassVar[int]
    """that numbers of series of the first kind begin with; those of the next kind begin with the next"""

    def __init__(self, archive: zipfile.ZipFile, info: ResultInfo, folder: Path) -> None:
        self._archive, self._info = archive, info
        self._result = SpooledResult(folder)

    def add(self, result: ResultSlice) -> None:
        """Keep a slice."""
        self._result.add(result)

    def finish(self) -> None:
        """Write all series."""
        study = Study.of(self._info, self._result.modality_of(self._info))
        all_series = series_of(self._info, study.modality, study.geometry)
        for place, kind in enumerate(self.kinds):
            for number, series in enumerate(all_series):
                first = (self.first_number + place) * 10 ** len(str(len(all_series)))
                self._write_series(study, series, kind, first + number + 1)

    def close(self) -> None:
        """Delete the temporary file."""
        self._result.close()

    @abstractmethod
    def _write_series(self, study: Study, series: Series, kind: Kind, number: int) -> None:
        """Write the objects of one series, where the result has such images."""


class DicomWriter(SeriesWriter):
    """Writes images, maps and comparison pictures."""

    kinds = KINDS
    first_number = 1

    def _write_series(self, study: Study, series: Series, kind: Kind, number: int) -> None:
        _ObjectWriter(self._archive, study, series, kind, number, self._result).write()


class _ObjectWriter:
    """Writes the objects of one series."""

    def __init__(
        self, archive: zipfile.ZipFile, study: Study, series: Series, kind: Kind, number: int, result: SpooledResult
    ) -> None:
        self._archive, self._study, self._series, self._result = archive, study, series, result
        self._kind, self._number = kind, number
        self._labels = frame_labels(study.info.frames)

    def write(self) -> None:
        """Write them, where the result has such images."""
        if self._kind == "comparison":
            self._write_comparisons()
        else:
            self._write_images()

    def _write_images(self) -> None:
        ranges = []
        for placed in self._series.slices:
            check_interruption()
            if (values := self._values(placed)) is not None:
                ranges.append(Range.of(values))
        if not ranges:
            return
        white = self._white(ranges)
        joined = Range(min(0.0, *(each.low for each in ranges)), max(white, *(each.high for each in ranges)), white)
        for place, placed in enumerate(self._series.slices):
            if (values := self._values(placed)) is not None:
                self._store(self._image(placed, values, joined), place)

    def _values(self, placed: PlacedSlice) -> Image | None:
        values = values_of(self._result, self._study, self._kind, placed)
        return values * np.float32(100) if values is not None and self._kind == "hallucination" else values

    def _image(self, placed: PlacedSlice, values: Image, joined: Range) -> Dataset:
        study, kind = self._study, self._kind
        unit = PERCENT if kind == "hallucination" else study.unit
        rating = self._result.ratings[placed.index]
        data = dicom.object_dataset(study, self._series, placed, kind, study.image_class, rating)
        data.BurnedInAnnotation = "NO"
        viewed = study.geometry.of_slices.view(values)
        if study.image_class == SecondaryCaptureImageStorage:
            dicom.add_secondary_capture(data)
            data.PixelSpacing = dicom.decimals(study.geometry.of_slices.spacing_mm)
        else:
            dicom.add_plane(data, study, placed, values.shape)
        if study.image_class == CTImageStorage:
            dicom.add_ct(data)
            if kind == "reconstruction":
                dicom.add_pixels(data, np.clip(np.rint(viewed), -32768, 32767).astype("<i2"))
                dicom.add_rescale(data, 1, 0, unit)
                dicom.add_window(data, *_SOFT_TISSUE)
                return data
        elif study.modality is Modality.MRI:
            dicom.add_mr(data, self._series, placed)
        low, slope = joined.low, (joined.high - joined.low) / _MOST
        dicom.add_pixels(data, np.clip(np.rint((viewed - low) / slope), 0, _MOST).astype("<u2"))
        if study.image_class == CTImageStorage:
            dicom.add_rescale(data, slope, low, unit)
            dicom.add_window(data, 0, joined.white)
        else:  # which have no Modality LUT: the window is of stored values
            dicom.add_window(data, -low / slope, (joined.white - low) / slope)
        dicom.add_real_world_values(data, slope, low, unit, _MEANINGS[kind])
        return data

    def _white(self, ranges: Sequence[Range]) -> float:
        """The value that is displayed white."""
        if self._kind == "reconstruction":
            return max(each.white for each in ranges)
        if self._kind == "hallucination":
            return 100 * 2 * HALLUCINATION_THRESHOLD
        images = [self._result.get(placed.index, "image") for placed in self._series.slices]
        whites = [png.display_window(image)[1] for image in images if image is not None]
        return max(whites) * (1.0 if self._study.water is None else 1000 / self._study.water) / _GAIN

    def _write_comparisons(self) -> None:
        study = self._study
        for place, placed in enumerate(self._series.slices):
            check_interruption()
            rating = self._result.ratings[placed.index]
            data = dicom.object_dataset(study, self._series, placed, self._kind, SecondaryCaptureImageStorage, rating)
            dicom.add_secondary_capture(data)
            data.BurnedInAnnotation = "YES"
            dicom.add_pixels(data, self._comparison(placed, rating))
            dicom.add_window(data, 0, 255)
            self._store(data, place)

    def _comparison(self, placed: PlacedSlice, rating: Rating | None) -> NDArray[np.uint8]:
        geometry = self._study.geometry.of_slices
        images = {name: self._result.get(placed.index, name) for name in ("reference", "direct", "image")}
        titles = {
            "reference": "reference",
            "direct": "FBP" if self._study.modality is Modality.CT else "zero-filled",
            "image": self._study.method,
        }
        panels = [(titles[name], geometry.view(image)) for name, image in images.items() if image is not None]
        if self._labels:
            panels[0] = (f"{panels[0][0]}\n{self._labels[placed.index]}", panels[0][1])
        reference = None if images["reference"] is None else geometry.view(images["reference"])
        note = NOTE if rating is None else f"{NOTE}\nrating: {rating.level}"
        return png.comparison_greys(panels, reference, spacing_mm=geometry.spacing_mm, note=note)

    def _store(self, data: Dataset, place: int) -> None:
        check_interruption()
        data.SeriesNumber, data.InstanceNumber = self._number, place + 1
        folder = "-".join([self._kind, *self._series.label.replace(", ", "-").split()])
        add_member(self._archive, f"{folder}/{place + 1:06}.dcm", dicom.to_file(data))


def values_of(result: SpooledResult, study: Study, kind: Kind, placed: PlacedSlice) -> Image | None:
    """The values (y, x) of an image or a map in the unit that is exported; None where the slice has none."""
    values = result.get(placed.index, "image" if kind == "reconstruction" else kind)
    if values is None or study.water is None or kind == "hallucination":
        return values
    offset = 1000.0 if kind == "reconstruction" else 0.0
    most = float(np.finfo(np.float32).max)
    return np.clip(values.astype(np.float64) * (1000 / study.water) - offset, -most, most).astype(np.float32)


def open_writer(path: Path, info: ResultInfo) -> AbstractContextManager[DicomWriter]:
    """A writer of an archive of DICOM objects; the same result gives the same bytes."""
    return open_archive(path, lambda archive: DicomWriter(archive, info, path.parent))

"""Writer of DICOM Parametric Maps: images and maps of a result with their own float32 values, by highdicom."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from highdicom.content import VOILUTTransformation
from highdicom.pm import DerivedPixelContrastValues, ImageFlavorValues, ParametricMap, RealWorldValueMapping
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from udig_recon.core.acquisition import Modality
from udig_recon.core.interruption import check_interruption
from udig_recon.core.results import png
from udig_recon.core.results.dicom import dataset as dicom
from udig_recon.core.results.dicom.dataset import KINDS, NO_UNIT, Kind, Study, Unit
from udig_recon.core.results.dicom.series import PlacedSlice, Series
from udig_recon.core.results.dicom.writer import SeriesWriter, values_of
from udig_recon.core.results.output_format import ResultInfo
from udig_recon.core.results.zip_members import add_member, open_archive

_MOST_BYTES = 64 << 20  # of the pixels of an object; a series of more has several
_UNKNOWN_DATE, _UNKNOWN_TIME = "19700101", "000000"  # where a date must be, and the job is not known
_QUANTITIES: dict[Kind, tuple[str, str, str]] = {
    "reconstruction": ("110852", "DCM", "MR signal intensity"),
    "deviation": ("386136009", "SCT", "Standard deviation"),
    "hallucination": ("UDIG-1", "99UDIG", "Hallucination map"),
}
_CT_QUANTITY = ("112031", "DCM", "Attenuation Coefficient")


class MapsWriter(SeriesWriter):
    """Writes images and maps as Parametric Maps."""

    kinds = KINDS[:3]
    first_number = 5

    def _write_series(self, study: Study, series: Series, kind: Kind, number: int) -> None:
        folder = "-".join([kind, *series.label.replace(", ", "-").split()])
        for place, part in enumerate(self._parts(study, series, kind)):
            check_interruption()
            data = self._map(study, series, kind, part, number, place + 1)
            add_member(self._archive, f"{folder}/{place + 1:06}.dcm", dicom.to_file(data))

    def _parts(self, study: Study, series: Series, kind: Kind) -> Iterator[list[PlacedSlice]]:
        """The slices of each object: of one time, and with no more than `_MOST_BYTES` of pixels."""
        part: list[PlacedSlice] = []
        for placed in series.slices:
            values = values_of(self._result, study, kind, placed)
            if values is None:
                continue
            if part and (placed.time != part[-1].time or (len(part) + 1) * values.nbytes > _MOST_BYTES):
                yield part
                part = []
            part.append(placed)
        if part:
            yield part

    def _map(
        self, study: Study, series: Series, kind: Kind, part: list[PlacedSlice], number: int, instance: int
    ) -> Dataset:
        geometry = study.geometry.of_slices
        volume = np.stack([geometry.view(self._values(study, kind, placed)) for placed in part])
        sources = [self._source(study, series, placed, kind, volume.shape[1:]) for placed in part]
        unit = NO_UNIT if kind == "hallucination" else study.unit
        white = max(png.display_window(image)[1] for image in volume)
        made = ParametricMap(
            source_images=sources,
            pixel_array=volume,
            series_instance_uid=UID(study.uid("map series", kind, series.label)),
            series_number=number,
            sop_instance_uid=UID(study.uid("map", kind, part[0].index)),
            instance_number=instance,
            manufacturer=dicom.MANUFACTURER,
            manufacturer_model_name="udig-recon",
            software_versions=dicom.software_versions(study.info)[0],
            device_serial_number="none",
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[_mapping(unit, kind, study, volume)],
            voi_lut_transformations=[
                VOILUTTransformation(window_center=white / 2, window_width=white, voi_lut_function="LINEAR_EXACT")
            ],
            content_description=dicom.limited(f"{study.method} {kind}", 64),
            image_flavor=ImageFlavorValues.VOLUME,
            derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        return _completed(made, study, sources[0])

    def _values(self, study: Study, kind: Kind, placed: PlacedSlice) -> NDArray[np.float32]:
        values = values_of(self._result, study, kind, placed)
        assert values is not None  # noqa: S101 - `_parts` left out those
        return values

    def _source(self, study: Study, series: Series, placed: PlacedSlice, kind: Kind, shape: tuple[int, ...]) -> Dataset:
        """The image of the output `dicom` that a map belongs to, without its pixels."""
        rating = self._result.ratings[placed.index]
        data = dicom.object_dataset(study, series, placed, "reconstruction", study.image_class, rating)
        named = dicom.object_dataset(study, series, placed, kind, study.image_class, rating)
        data.SeriesDescription = named.SeriesDescription
        turned = shape[::-1] if study.geometry.of_slices.transposed else shape
        dicom.add_plane(data, study, placed, turned)
        data.SliceThickness = study.geometry.slice_spacing_mm or 1.0
        data.Rows, data.Columns = shape
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return data


def _mapping(unit: Unit, kind: Kind, study: Study, volume: NDArray[np.float32]) -> RealWorldValueMapping:
    quantity = _CT_QUANTITY if kind == "reconstruction" and study.modality is Modality.CT else _QUANTITIES[kind]
    return RealWorldValueMapping(
        lut_label="VALUE",
        lut_explanation=dicom.DESCRIPTIONS[kind] or "reconstruction",
        unit=CodedConcept(unit.code, "UCUM", unit.meaning),
        value_range=(float(volume.min()), float(volume.max())),
        intercept=0.0,
        slope=1.0,
        quantity_definition=CodedConcept(*quantity),
    )


def _completed(made: ParametricMap, study: Study, source: Dataset) -> Dataset:
    """The object with what highdicom does not know, and without what it takes from the clock and from chance."""
    at = study.made_at
    made.add_new("ContentDate", "DA", _UNKNOWN_DATE if at is None else f"{at:%Y%m%d}")
    made.add_new("ContentTime", "TM", _UNKNOWN_TIME if at is None else f"{at:%H%M%S}")
    made.ContentQualification = "RESEARCH"
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
        if keyword in made:
            del made[keyword]
    organization = study.uid("dimensions", str(made.SOPInstanceUID))
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made[sequence].value:
            item.DimensionOrganizationUID = organization
    for keyword in (
        "SoftwareVersions",
        "SeriesDescription",
        "SeriesDate",
        "SeriesTime",
        "StudyDescription",
        "ImageComments",
        "DerivationDescription",
        "ContributingEquipmentSequence",
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "SpecificCharacterSet",
    ):
        made[keyword] = source[keyword]
    if "BodyPartExamined" not in made:
        made.Laterality = ""
    return made


def open_writer(path: Path, info: ResultInfo) -> AbstractContextManager[MapsWriter]:
    """A writer of an archive of Parametric Maps; the same result gives the same bytes."""
    return open_archive(path, lambda archive: MapsWriter(archive, info, path.parent))

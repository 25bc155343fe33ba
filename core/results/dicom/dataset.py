"""DICOM datasets of a result: the attributes that each object has, of its patient, study, series, equipment and image.

Nothing in them is of the patient: the patient is named after the job, and the study is new.
`udig_recon.core.results.dicom.identify` puts the scan's own in their place.
"""

import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from udig_recon.core.acquisition import Modality
from udig_recon.core.quality.rating import Rating
from udig_recon.core.results.dicom.series import Geometry, PlacedSlice, Series
from udig_recon.core.results.dicom.uids import derived_uid, job_key, short_id, software_of
from udig_recon.core.results.output_format import ResultInfo

NOTE = "RESEARCH USE ONLY - NOT FOR DIAGNOSIS"
MANUFACTURER = "uDiG Recon"
ASSUMED_PLACE = "Position and orientation of the patient are not known: axial slices seen from the feet are assumed"
_SERIES_END = " (research)"
_LT, _ST, _LO, _SH = 10240, 1024, 64, 16  # characters that a text of this VR may have

Kind = Literal["reconstruction", "deviation", "hallucination", "comparison"]
KINDS: tuple[Kind, ...] = ("reconstruction", "deviation", "hallucination", "comparison")
DESCRIPTIONS: dict[Kind, str] = {
    "reconstruction": "",
    "deviation": "standard deviation between seeds",
    "hallucination": "hallucination map",
    "comparison": "comparison",
}


@dataclass(frozen=True)
class Unit:
    """A unit of values, as a code of UCUM."""

    code: str
    meaning: str
    rescale_type: str  # of the Modality LUT


HOUNSFIELD = Unit("[hnsf'U]", "Hounsfield unit", "HU")
PER_MM = Unit("/mm", "per millimeter", "US")
NO_UNIT = Unit("1", "no units", "US")
PERCENT = Unit("%", "percent", "PCT")


@dataclass(frozen=True)
class Study:
    """What all objects of a result share."""

    info: ResultInfo
    modality: Modality
    geometry: Geometry
    job: str

    @classmethod
    def of(cls, info: ResultInfo, modality: Modality) -> "Study":
        """Of a result."""
        return cls(info, modality, Geometry.of(info), job_key(info))

    @property
    def water(self) -> float | None:
        """Attenuation of water in 1/mm, which makes Hounsfield units; None: not known, or MRI."""
        water = self.info.attributes.get("water_attenuation_per_mm")
        return float(water) if water and self.modality is Modality.CT else None

    @property
    def unit(self) -> Unit:
        """Unit of the images as they are exported."""
        if self.modality is Modality.MRI:
            return NO_UNIT
        return PER_MM if self.water is None else HOUNSFIELD

    @property
    def image_class(self) -> str:
        """SOP class of images and maps: CT images only where Hounsfield units are known."""
        if self.modality is Modality.MRI:
            return MRImageStorage
        return SecondaryCaptureImageStorage if self.water is None else CTImageStorage

    @property
    def slice_spacing_mm(self) -> float | None:
        """From one slice of the result to the next; None where it is not known or not even."""
        spacing, step = self.geometry.slice_spacing_mm, self.info.stack.step
        return None if spacing is None or step is None else spacing * abs(step)

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.info.parameters.get("method", "reconstruction"))

    @property
    def made_at(self) -> datetime | None:
        """When the job was submitted, which its UUIDv7 tells; None: not known."""
        if "job_id" not in self.info.attributes:
            return None
        job = uuid.UUID(self.job)
        return datetime.fromtimestamp((job.int >> 80) / 1000, UTC) if job.version == 7 else None

    def uid(self, *of: str | int) -> str:
        """A UID of something of this result."""
        return derived_uid(self.job, *of)


def object_dataset(
    study: Study, series: Series, placed: PlacedSlice, kind: Kind, sop_class: str, rating: Rating | None
) -> Dataset:
    """A dataset of one object without its pixels and numbers: patient, study, series, equipment, derivation."""
    info, short = study.info, short_id(study.job)
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID = sop_class
    data.PatientName, data.PatientID = f"RESEARCH^{short}", short
    data.PatientBirthDate = data.PatientSex = ""
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "No identifier of the scan was copied"
    data.StudyInstanceUID, data.StudyID = study.uid("study"), short[:_SH]
    data.AccessionNumber = data.ReferringPhysicianName = ""
    data.StudyDescription = f"{MANUFACTURER}{_SERIES_END}"
    made = study.made_at
    data.StudyDate = data.SeriesDate = data.ContentDate = "" if made is None else f"{made:%Y%m%d}"
    data.StudyTime = data.SeriesTime = data.ContentTime = "" if made is None else f"{made:%H%M%S}"
    is_secondary = sop_class == SecondaryCaptureImageStorage
    data.Modality = "OT" if is_secondary else "MR" if study.modality is Modality.MRI else "CT"
    data.SeriesInstanceUID = study.uid("series", kind, sop_class, series.label)
    name = ", ".join(each for each in (study.method, DESCRIPTIONS[kind], series.label) if each)
    data.SeriesDescription = limited(name, _LO - len(_SERIES_END)) + _SERIES_END
    data.Laterality = ""
    data.Manufacturer, data.ManufacturerModelName = MANUFACTURER, "udig-recon"
    data.SoftwareVersions = software_versions(info)
    data.DerivationDescription = limited(derivation(study, rating), _ST)
    data.ImageComments = limited("\n".join([NOTE, *comments(study, rating)]), _LT)
    data.ContributingEquipmentSequence = DicomSequence([_equipment(study)])
    data.LossyImageCompression = "00"
    data.SOPInstanceUID = study.uid("object", kind, sop_class, placed.index)
    data.PatientOrientation = ""
    return data


def software_versions(info: ResultInfo) -> list[str]:
    """Versions of what made a result."""
    torch = info.attributes.get("torch")
    told = [software_of(info)] + ([] if torch is None else [f"torch {torch}"])
    return [limited(each.replace("\\", "/"), _LO) for each in told]


def derivation(study: Study, rating: Rating | None) -> str:
    """How an image was made, in sentences: method, prior, seeds, software, rating."""
    attributes, parameters = study.info.attributes, study.info.parameters
    source = "k-space" if study.modality is Modality.MRI else "projections"
    preset = f" (preset {parameters['preset']})" if "preset" in parameters else ""
    sentences = [f"Reconstructed from {source} by {study.method}{preset}"]
    if "prior" in attributes:
        sentences.append(f"Diffusion prior {attributes['prior']} (SHA-256 {str(attributes.get('prior_sha256'))[:12]})")
    seed, seeds = attributes.get("seed", 0), int(attributes.get("seeds", 1))
    sentences.append(f"Seed {seed}" if seeds == 1 else f"Mean of {seeds} seeds from {seed} on")
    sentences.append(f"Software {', '.join(software_versions(study.info))}")
    if rating is not None:
        sentences.append(f"Rating {rating}")
    return ". ".join(sentences) + "."


def comments(study: Study, rating: Rating | None) -> list[str]:
    """What else a reader must know of an image: its rating, what was assumed, corrections, warnings, its job."""
    info, geometry = study.info, study.geometry
    told = [] if rating is None else [f"Rating: {rating}"]
    if geometry.is_assumed:
        told.append(ASSUMED_PLACE)
    if geometry.slice_spacing_mm is None and info.count > 1:
        told.append("The spacing of slices is not known: 1 mm is assumed")
    if study.modality is Modality.CT and study.water is None:
        told.append("The attenuation of water is not known: values are in 1/mm, not Hounsfield units")
    return [*told, f"Job {study.job}", *info.corrections, *info.warnings]


def _equipment(study: Study) -> Dataset:
    item = Dataset()
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, "udig-recon"
    item.SoftwareVersions = software_versions(study.info)
    item.ContributionDescription = limited(f"Image reconstruction by {study.method}", _ST)
    item.PurposeOfReferenceCodeSequence = DicomSequence([code("109103", "DCM", "Modifying Equipment")])
    return item


def add_plane(data: Dataset, study: Study, placed: PlacedSlice, shape: tuple[int, ...]) -> None:
    """Add where a slice (y, x) lies: Frame of Reference and Image Plane."""
    geometry = study.geometry.of_slices
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = study.uid("frame of reference"), ""
    data.ImagePositionPatient = decimals(geometry.position(shape, placed.position))
    data.ImageOrientationPatient = decimals([*geometry.row_direction, *geometry.column_direction])
    data.PixelSpacing = decimals(geometry.spacing_mm)
    data.SliceThickness = None
    if study.slice_spacing_mm is not None:
        data.SpacingBetweenSlices = decimals([study.slice_spacing_mm])[0]
    data.PatientPosition = ""


def add_mr(data: Dataset, series: Series, placed: PlacedSlice) -> None:
    """Add what MR Image Storage wants beside."""
    data.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    data.ScanningSequence, data.SequenceVariant, data.ScanOptions = "RM", "NONE", ""
    data.MRAcquisitionType = ""
    data.RepetitionTime = data.EchoTime = data.EchoTrainLength = None
    data.EchoNumbers = series.contrast + 1
    data.AcquisitionNumber = placed.time
    if series.times > 1:
        data.TemporalPositionIdentifier, data.NumberOfTemporalPositions = placed.time, series.times


def add_ct(data: Dataset) -> None:
    """Add what CT Image Storage wants beside."""
    data.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    data.KVP = data.AcquisitionNumber = None


def add_secondary_capture(data: Dataset) -> None:
    """Add what Secondary Capture Image Storage wants beside."""
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.ConversionType = "WSD"


def add_pixels(data: Dataset, pixels: NDArray[Any]) -> None:
    """Add grey pixels (rows, columns) of 8 or 16 bits."""
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(pixels.dtype.kind == "i")
    content = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
    data.add_new("PixelData", "OW" if bits > 8 else "OB", content + bytes(len(content) % 2))


def add_real_world_values(data: Dataset, slope: float, intercept: float, unit: Unit, label: str) -> None:
    """Add the mapping of 16-bit unsigned pixels to values in a unit (Real World Value Mapping)."""
    item = Dataset()
    item.add_new("RealWorldValueFirstValueMapped", "US", 0)
    item.add_new("RealWorldValueLastValueMapped", "US", 65535)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = float(intercept), float(slope)
    item.LUTExplanation, item.LUTLabel = limited(label, _LO), "VALUE"
    item.MeasurementUnitsCodeSequence = DicomSequence([code(unit.code, "UCUM", unit.meaning)])
    data.RealWorldValueMappingSequence = DicomSequence([item])


def add_rescale(data: Dataset, slope: float, intercept: float, unit: Unit) -> None:
    """Add the mapping of pixels to values in a unit (Modality LUT)."""
    data.RescaleIntercept, data.RescaleSlope = decimals([intercept, slope])
    data.RescaleType = unit.rescale_type


def add_window(data: Dataset, black: float, white: float) -> None:
    """Add the grey levels of a display, in the values that the Modality LUT gives."""
    data.WindowCenter, data.WindowWidth = decimals([(black + white) / 2, max(white - black, 1.0)])


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimals(numbers: Sequence[float] | NDArray[np.float64]) -> list[str]:
    """Decimal strings of at most 16 characters; what rounding leaves of zero is zero."""
    return [format_number_as_ds(0.0 if abs(number) < 1e-14 else float(number)) for number in numbers]


def limited(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def to_file(data: Dataset) -> bytes:
    """A dataset as a DICOM file, explicit VR little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta = meta
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()

"""Identified DICOM objects: the scan's own patient, study and frame of reference in the place of those of the job.

For destinations that may have identifiers. Objects are written without them, and stored so.
"""

import io
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import IO

import pydicom
from pydicom.dataset import Dataset

from udig_recon.core.identity import KEYWORDS, Identity
from udig_recon.core.results.dicom.dataset import ASSUMED_PLACE
from udig_recon.core.results.dicom.uids import derived_uid
from udig_recon.core.results.zip_members import add_member

_PATIENT = ("patient_name", "patient_id", "issuer_of_patient_id", "patient_birth_date", "patient_sex")
_MEASURES = ("patient_age", "patient_size", "patient_weight")
_STUDY = ("study_id", "study_date", "study_time", "study_description", "accession_number", "referring_physician_name")


def identify(data: Dataset, identity: Identity) -> None:
    """Put a scan's identity into an object of this package, in place.

    What the identity does not tell stays empty, or of the job. Study, series and object get other UIDs, derived from
    those of before: without identifiers the object is another one. The frame of reference is taken only where the scan
    told how the patient lay.
    """
    known = {name: value for name, value in asdict(identity).items() if value}
    if known:  # the number of a study tells the patient too
        del data.PatientIdentityRemoved, data.DeidentificationMethod
    if "patient_id" in known or "patient_name" in known:
        for name in _PATIENT:
            setattr(data, KEYWORDS[name], known.get(name, ""))
        if "issuer_of_patient_id" not in known:
            del data.IssuerOfPatientID
        for name in _MEASURES:
            if name in known:
                setattr(data, KEYWORDS[name], known[name])
    if "study_instance_uid" in known:
        for name in _STUDY:
            setattr(data, KEYWORDS[name], known.get(name, ""))
        study = known["study_instance_uid"]
    else:
        for name in _STUDY:
            if name in known:
                setattr(data, KEYWORDS[name], known[name])
        study = derived_uid("identified", str(data.StudyInstanceUID))
    if "body_part_examined" in known:
        data.BodyPartExamined = known["body_part_examined"]
        del data.Laterality
    if "laterality" in known:
        data.Laterality = known["laterality"]
    if "FrameOfReferenceUID" in data:
        is_told = ASSUMED_PLACE not in data.get("ImageComments", "")
        frame = known.get("frame_of_reference_uid") if is_told else None
        data.FrameOfReferenceUID = frame or derived_uid("identified", str(data.FrameOfReferenceUID), study)
    data.SeriesInstanceUID = derived_uid("identified", str(data.SeriesInstanceUID), study)
    data.SOPInstanceUID = derived_uid("identified", str(data.SOPInstanceUID), study)
    data.StudyInstanceUID = study
    _identify_references(data, study)
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID


def _identify_references(data: Dataset, study: str) -> None:
    """Refer to the other objects of the result by the UIDs that `identify` gives them."""
    for element in data:
        if element.VR != "SQ":
            continue
        for item in element.value:
            for keyword in ("ReferencedSOPInstanceUID", "SeriesInstanceUID"):
                if keyword in item:
                    setattr(item, keyword, derived_uid("identified", str(item[keyword].value), study))
            _identify_references(item, study)


def identify_file(stored: IO[bytes], file: IO[bytes], identity: Identity) -> None:
    """Read a file that this package wrote, and write it with a scan's identity."""
    data = pydicom.dcmread(stored)
    identify(data, identity)
    # Written to memory first: the file may have something before the object.
    content = io.BytesIO()
    data.save_as(content, enforce_file_format=True)
    file.write(content.getvalue())


def identify_object(content: bytes, identity: Identity) -> bytes:
    """The same for the bytes of such a file."""
    identified = io.BytesIO()
    identify_file(io.BytesIO(content), identified, identity)
    return identified.getvalue()


def identify_archive(source: Path, target: Path, identity: Identity) -> None:
    """The same for every object of an archive, object after object, into another archive."""
    with zipfile.ZipFile(source) as objects, zipfile.ZipFile(target, "w") as identified:
        for name in objects.namelist():
            add_member(identified, name, identify_object(objects.read(name), identity))

"""Identity of a scan: its patient, study and frame of reference, which leave the service only where that is allowed."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from udig_recon.core.errors import UnreadableScan

KEYWORDS = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "issuer_of_patient_id": "IssuerOfPatientID",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "patient_age": "PatientAge",
    "patient_size": "PatientSize",
    "patient_weight": "PatientWeight",
    "study_instance_uid": "StudyInstanceUID",
    "study_id": "StudyID",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "accession_number": "AccessionNumber",
    "referring_physician_name": "ReferringPhysicianName",
    "frame_of_reference_uid": "FrameOfReferenceUID",
    "body_part_examined": "BodyPartExamined",
    "laterality": "Laterality",
}
"""DICOM keyword of each field."""

_CHARACTER = r"[^\\\x00-\x1f\x7f-\x9f\ud800-\udfff]"
_SHORT, _LONG = _CHARACTER + r"{0,16}", _CHARACTER + r"{0,64}"
_GROUP = _CHARACTER.replace("[^", "[^=") + r"{0,64}"
_NAME = rf"{_GROUP}(={_GROUP}){{0,2}}"
_UID = r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+"
_NUMBER = r"(?=.{1,16}$)[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_DATE = r"[0-9]{4}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)?"
_FORMS = {
    "patient_name": _NAME,
    "patient_birth_date": _DATE,
    "patient_sex": r"[MFO]",
    "patient_age": r"[0-9]{3}[DWMY]",
    "patient_size": _NUMBER,
    "patient_weight": _NUMBER,
    "study_instance_uid": _UID,
    "study_id": _SHORT,
    "study_date": _DATE,
    "study_time": _TIME,
    "accession_number": _SHORT,
    "referring_physician_name": _NAME,
    "frame_of_reference_uid": _UID,
    "body_part_examined": r"[A-Z0-9 _]{1,16}",
    "laterality": r"[LR]",
}
_LONGEST_UID = 64

TEMPLATE_EXPECTED = "a DICOM file of the study that the images are to belong to"
"""What is told of a template that cannot be used."""

TEMPLATE_BYTES = 1 << 20
"""Bytes of a template DICOM that are looked at: what is taken of it stands there."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Identity:
    """Who was scanned, in which study, and in which frame of reference, as DICOM attributes; "" where not known.

    Its text form says nothing, so that no log or message can hold it.
    """

    patient_name: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    patient_age: str = ""
    patient_size: str = ""
    patient_weight: str = ""
    study_instance_uid: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    accession_number: str = ""
    referring_physician_name: str = ""
    frame_of_reference_uid: str = ""
    body_part_examined: str = ""
    laterality: str = ""

    def __repr__(self) -> str:
        return "Identity(...)"

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def to_json(self) -> str:
        """The fields that are known, as JSON."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Identity":
        """What `to_json` wrote. Raises UnreadableScan, without a value, where a field is not what DICOM allows."""
        try:
            stored = json.loads(text)
        except ValueError:
            stored = None
        if not isinstance(stored, dict) or not all(isinstance(each, str) for each in stored.values()):
            raise UnreadableScan.at("template", "no fields", "the identity of a scan as JSON")
        return cls.checked(stored)

    @classmethod
    def checked(cls, values: Mapping[str, str]) -> "Identity":
        """An identity of these values by field. Raises UnreadableScan where one is not what DICOM allows."""
        names = {each.name for each in fields(cls)}
        for name, value in values.items():
            if name not in names or (value and not _is_allowed(name, value)):
                keyword = KEYWORDS.get(name, "an attribute that is not known")
                raise UnreadableScan.at(keyword, "a value that DICOM does not allow", "a value of its VR")
        return cls(**dict(values))

    @classmethod
    def usable(cls, values: Mapping[str, Any]) -> "Identity":
        """An identity of those of these values by field that DICOM allows: what scanners write is not always right."""
        texts = {name: str(value).strip() for name, value in values.items() if value is not None}
        return cls(**{name: text for name, text in texts.items() if _is_allowed(name, text)})


def _is_allowed(name: str, value: str) -> bool:
    form = _FORMS.get(name, _LONG)
    return re.fullmatch(form, value) is not None and (form != _UID or len(value) <= _LONGEST_UID)

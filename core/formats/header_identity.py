"""Identity in an ISMRMRD header (XML): its subjectInformation, studyInformation and measurementInformation."""

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.kspace.ismrmrd_header import HeaderTexts, parse_header
from udig_recon.core.identity import Identity

_PLACES = {
    "patient_name": "subjectInformation/patientName",
    "patient_id": "subjectInformation/patientID",
    "patient_birth_date": "subjectInformation/patientBirthdate",
    "patient_sex": "subjectInformation/patientGender",
    "patient_size": "subjectInformation/patientHeight_m",
    "patient_weight": "subjectInformation/patientWeight_kg",
    "study_instance_uid": "studyInformation/studyInstanceUID",
    "study_id": "studyInformation/studyID",
    "study_date": "studyInformation/studyDate",
    "study_time": "studyInformation/studyTime",
    "study_description": "studyInformation/studyDescription",
    "accession_number": "studyInformation/accessionNumber",
    "referring_physician_name": "studyInformation/referringPhysicianName",
    "body_part_examined": "studyInformation/bodyPartExamined",
    "frame_of_reference_uid": "measurementInformation/frameOfReferenceUID",
}
_DATES = ("patient_birth_date", "study_date")


def identity_of_header(xml: bytes) -> Identity:
    """What an ISMRMRD header tells of patient, study and frame of reference; nothing where it cannot be read."""
    reader = _Information()
    try:
        parse_header(xml, reader)
    except UnreadableScan:
        return Identity()
    values = {name: reader.texts[place] for name, place in _PLACES.items() if place in reader.texts}
    for name in _DATES:
        if name in values:
            values[name] = values[name].replace("-", "")[:8]
    if "study_time" in values:
        values["study_time"] = values["study_time"].replace(":", "").partition("+")[0].removesuffix("Z")
    if "body_part_examined" in values:
        values["body_part_examined"] = values["body_part_examined"].upper()
    return Identity.usable(values)


class _Information(HeaderTexts):
    """Collects the texts two levels below the root, but for those of encodings."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    def keep(self, path: list[str], content: str) -> None:
        """Keep a text, or a further piece of one."""
        if len(path) == 3 and path[1] != "encoding":
            key = "/".join(path[1:])
            self.texts[key] = self.texts.get(key, "") + content

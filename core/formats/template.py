"""Template DICOM: a file of the scanner's own study, of which patient, study and frame of reference are taken.

It is read in the sandbox alone, as scans are. The attributes that are taken stand before everything that is large:
the first MiB of a file is enough.
"""

import codecs
import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pydicom
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.identity import KEYWORDS, TEMPLATE_BYTES, TEMPLATE_EXPECTED, Identity

_PREAMBLE_BYTES, _MARK = 128, b"DICM"
_LAST_TAG = 0x00200060  # of what is taken: Laterality


def read_template(file: ScanFile) -> Identity:
    """Patient, study and frame of reference of a DICOM file. Raises UnreadableScan."""
    if not file.start(_PREAMBLE_BYTES + len(_MARK)).endswith(_MARK):
        raise UnreadableScan.at("template", "no DICOM file", TEMPLATE_EXPECTED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, over values that are checked here
            content = io.BytesIO(file.start(TEMPLATE_BYTES))
            data = read_partial(content, stop_when=lambda tag, *_: tag > _LAST_TAG)
            values = {name: _text(data, keyword) for name, keyword in KEYWORDS.items()}
    except Exception as error:  # of damaged files it raises whatever comes
        raise UnreadableScan.at("template", "a damaged DICOM file", TEMPLATE_EXPECTED) from error
    identity = Identity.usable(values)
    if not (identity.patient_id or identity.patient_name or identity.study_instance_uid):
        raise UnreadableScan.at("template", "a DICOM file without patient and study", TEMPLATE_EXPECTED)
    return identity


def _text(data: Dataset, keyword: str) -> str | None:
    value: Any = data.get(keyword)
    if value is None or isinstance(value, MultiValue):
        return None
    return str(value) if str(value).strip("^= ") else None


def template_samples() -> Sequence[bytes]:
    """Small templates that load all that reading one needs, such as the codecs of DICOM's character sets."""
    for name in python_encoding.values():
        with suppress(LookupError):
            codecs.lookup(name)
    samples = []
    for charset in ("ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"]):
        data = Dataset()
        data.SpecificCharacterSet = charset
        data.PatientName, data.PatientID, data.StudyInstanceUID = "A^B", "1", "1.2.3"
        data.PatientSize, data.StudyDate = "1.8", "20200101"
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, "1.2.4"
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, data, enforce_file_format=True)
        samples.append(stream.getvalue())
    return samples

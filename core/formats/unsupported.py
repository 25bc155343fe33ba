"""File formats that are recognised but not read, each with how to convert it."""

import re

import numpy as np

from udig_recon.core.errors import UnknownFormat
from udig_recon.core.formats.input_format import UnsupportedFormat

START_BYTES = 16 << 10
"""How much of a file is needed to recognise it."""

_KSPACE = "kspace (slices, coils, ky, kx) complex64, zero frequency in the middle, as HDF5 or .npz"
_IMAGE = "k-space or a sinogram: an image needs no reconstruction"
_MANGLED = UnsupportedFormat(
    "an HDF5 file whose line ends were changed on the way, as in a transfer as text",
    "the bytes as they are: curl --data-binary, FTP in binary mode, no conversion of line ends",
)
_SIGNATURES = {
    b"\x89HDF\n\x1a\n": _MANGLED,
    b"\x89HDF\r\r\n\x1a": _MANGLED,
    b"\x89HDF\r\x1a": _MANGLED,
    b"\x09HDF": _MANGLED,
    b"\xef\xbf\xbdHDF": _MANGLED,
    b"\x28\xb5\x2f\xfd": UnsupportedFormat("a Zstandard file", "the file that is in it (unzstd), or packed by gzip"),
    b"BZh": UnsupportedFormat("a bzip2 file", "the file that is in it (bunzip2), or packed by gzip"),
    b"\xfd7zXZ": UnsupportedFormat("an xz file", "the file that is in it (unxz), or packed by gzip"),
    b"7z\xbc\xaf": UnsupportedFormat("a 7-Zip file", "the file that is in it"),
    b"\x89PNG": UnsupportedFormat("a PNG picture", _IMAGE),
    b"\xff\xd8\xff": UnsupportedFormat("a JPEG picture", _IMAGE),
    b"II*\0": UnsupportedFormat("a TIFF image", _IMAGE),
    b"MM\0*": UnsupportedFormat("a TIFF image", _IMAGE),
    b"NRRD": UnsupportedFormat("an NRRD image", _IMAGE),
    b"PK\x03\x04": UnsupportedFormat(
        "a zip archive without a scan that is known",
        "an .npz with kspace, or with sinogram and angles; or a zip of BART's .cfl and .hdr, or of a Bruker folder",
    ),
    b"PK\x05\x06": UnsupportedFormat("an empty zip file", "an .npz with kspace, or with sinogram and angles"),
    b"\\\x01\x00\x00": UnsupportedFormat("a NIfTI image", _IMAGE),
    b"\x00\x00\x01\x5c": UnsupportedFormat("a NIfTI image", _IMAGE),
    b"CDF\x01": UnsupportedFormat("a netCDF 3 file, which is not read", f"{_KSPACE}, or a sinogram with its angles"),
    b"\x80\x02": UnsupportedFormat("a Python pickle, which is never read", f"{_KSPACE}: numpy.savez"),
    b"\x80\x03": UnsupportedFormat("a Python pickle, which is never read", f"{_KSPACE}: numpy.savez"),
    b"\x80\x04": UnsupportedFormat("a Python pickle, which is never read", f"{_KSPACE}: numpy.savez"),
    b"\x80\x05": UnsupportedFormat("a Python pickle, which is never read", f"{_KSPACE}: numpy.savez"),
    b"yardl": UnsupportedFormat("an MRD file of version 2 (yardl)", "ISMRMRD HDF5: mrd_to_ismrmrd converts it"),
    b"version https://git-lfs": UnsupportedFormat("a pointer of Git LFS", "the file that it points to (git lfs pull)"),
}
_PHILIPS = "MRD: philips_to_ismrmrd converts .raw, .lab and .sin; or kspace sorted from .data by its .list, as .npz"
_TEXTS = (
    (b"# Dimensions", "the header of a BART file (.hdr)", "a zip of it and its .cfl, or it as the form's part header"),
    (b"##TITLE", "a parameter file of Bruker", "a zip of the scan's folder, with fid, acqp and method"),
    (b"# === DATA DESCRIPTION", "the list of a Philips export (.list)", _PHILIPS),
    (b"<!doctype html", "a web page", "the file itself: what was downloaded is a page about it"),
    (b"<html", "a web page", "the file itself: what was downloaded is a page about it"),
)
_DICOM = UnsupportedFormat("a DICOM file", _IMAGE)
_TWIX = UnsupportedFormat("a part of a Siemens raw data file (twix)", "the whole .dat, or MRD: siemens_to_ismrmrd")
_PFILE = UnsupportedFormat("a GE raw data file (P-file)", "MRD: ge_to_ismrmrd converts it, with GE's Orchestra")
_ARCHIVE = UnsupportedFormat("a GE raw data file (ScanArchive)", _PFILE.remedy)
_LABELS = UnsupportedFormat("the labels of Philips raw data (.lab)", _PHILIPS)
_RAW = UnsupportedFormat("Philips raw data (.raw)", _PHILIPS)
_NAMES = (
    (re.compile(r"scanarchive.*\.h5", re.IGNORECASE), _ARCHIVE),
    (re.compile(r".*\.lab", re.IGNORECASE), _LABELS),
    (re.compile(r".*\.raw", re.IGNORECASE), _RAW),
)
_LABEL_BYTES, _LABEL_TYPE = 64, 14
_LABEL_TYPES = (0x7F00, 0x7F01, 0x7F02, 0x7F03)
_PAR = UnsupportedFormat("the list of Philips images (.PAR)", _IMAGE)
_SIN = UnsupportedFormat("the parameters of Philips raw data (.sin)", _PHILIPS)
_SIN_LINE = re.compile(rb"\s*\d\d \d\d \d\d: \w+\s*:")
_FLOATS = UnsupportedFormat(
    "bytes without a signature that may be plain complex numbers, as a BART .cfl file",
    "a zip of the .cfl and its .hdr, or the .hdr as the form's part header: the shape stands in it",
)
_INTEGERS = UnsupportedFormat(
    "bytes without a signature that may be plain whole numbers, as a fid of Bruker",
    "a zip of the scan's folder: the shape of a fid stands in acqp and method beside it",
)
_FIRST_MEASUREMENT = 10240  # its place in a twix file
_FEWEST = 8  # numbers by which a file may be told to be of numbers
_WIDEST = 1 << 24  # whole numbers of a receiver


def recognise(start: bytes) -> UnsupportedFormat | None:
    """The known format of a file that begins with these bytes; None where it is not known."""
    for signature, layout in _SIGNATURES.items():
        if start.startswith(signature):
            return layout
    if start[128:132] == b"DICM":
        return _DICOM
    if b"GE_MED_NMR" in start[:256] or _is_pfile(start):
        return _PFILE
    if b"<XProtocol>" in start or b"MeasYaps" in start or _is_twix(start):
        return _TWIX
    if _is_labels(start):
        return _LABELS
    if b"image export tool" in start[:2048].lower():
        return _PAR
    if _SIN_LINE.match(start[:256]):
        return _SIN
    lower = start[:256].lstrip().lower()
    for text, name, remedy in _TEXTS:
        if lower.startswith(text.lower()):
            return UnsupportedFormat(name, remedy)
    return _numbers(start)


def by_file_name(error: UnknownFormat, name: str) -> UnknownFormat:
    """The error about a file of no known format, or a better one where the file's name says what its bytes do not."""
    for pattern, layout in _NAMES:
        if pattern.fullmatch(name):
            return UnknownFormat.at("file", layout.name, layout.remedy)
    return error


def _is_labels(start: bytes) -> bool:
    """Labels of Philips, 64 bytes each, with the type of the label in the same place of all."""
    whole = start[: len(start) // _LABEL_BYTES * _LABEL_BYTES]
    if len(whole) < 4 * _LABEL_BYTES:
        return False
    types = np.frombuffer(whole, "<u2").reshape(-1, _LABEL_BYTES // 2)[:, _LABEL_TYPE // 2]
    return bool(np.isin(types, _LABEL_TYPES).all())


def _is_twix(start: bytes) -> bool:
    """The directory of versions D and E: a zero, the number of measurements, then their numbers and places."""
    if len(start) < 32 or start[:4] != bytes(4):
        return False
    count = int.from_bytes(start[4:8], "little")
    place = int.from_bytes(start[16:24], "little")
    return 1 <= count <= 64 and place == _FIRST_MEASUREMENT


def _is_pfile(start: bytes) -> bool:
    """GE's revision of the header, a float of 7 to 30, and then the number of the run in the same bytes."""
    if len(start) < 160:
        return False
    revision = float(np.frombuffer(start[:4], "<f4")[0])
    dates = start[16:26] + start[92:102]
    return 7 <= revision <= 30 and b"/" in dates and sum(48 <= byte <= 57 for byte in dates) >= 6


def _numbers(start: bytes) -> UnsupportedFormat | None:
    whole = start[: len(start) // 8 * 8]
    if len(whole) < 64:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        floats, integers = (
            np.frombuffer(whole, "<f4").astype(np.float64),
            np.frombuffer(whole, "<i4").astype(np.float64),
        )
    size = np.abs(floats[floats != 0])
    if np.isfinite(floats).all() and size.size > _FEWEST and size.min() > 1e-12 and size.max() < 1e12:
        return _FLOATS
    small = np.abs(integers) < _WIDEST
    return _INTEGERS if small.mean() > 0.99 and (integers != 0).mean() > 0.2 else None

"""Input format HDF5: fastMRI's files of k-space, and sinograms, under the names that scans use."""

import base64
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import ArraySource, InMemory, parse_attribute
from udig_recon.core.formats.containers.hdf5_arrays import (
    Hdf5Array,
    OpenedHdf5,
    complex_or_real,
    find_hdf5,
    open_dataset,
    open_hdf5,
)
from udig_recon.core.formats.containers.hdf5_chunks import check_stored
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import ScanFile
from udig_recon.core.formats.input_format import (
    ARRAYS,
    ARRAYS_OR_ATTRIBUTES,
    ATTRIBUTES,
    NAMES,
    Contents,
    printable_names,
)
from udig_recon.core.formats.inputs.unsupported_hdf5 import known_layout
from udig_recon.core.formats.kspace.fitting import with_partitions
from udig_recon.core.formats.limits import dtype_name, quote_safely
from udig_recon.core.formats.result_mark import RESULT_MARK
from udig_recon.core.formats.synonyms import match_names

_MOST_HEADER_BYTES = 1 << 20
_MOST_TEXT_BYTES = 4096
_MOST_DETECTORS = 65536
_MOST_GROUPS = 64
_MAIN = frozenset(("kspace", "sinogram"))
# Names of fastMRI's files, MATLAB's, netCDF's and h5py's dimension scales that are left out without a warning.
_IGNORED = frozenset(
    (
        *("ismrmrd_header", "acquisition", "max", "norm", "patient_id", "padding_left", "padding_right"),
        *("acceleration", "num_low_frequency", "MATLAB_class", "MATLAB_int_decode"),
        *("CLASS", "NAME", "DIMENSION_LABELS"),
    )
)
# k-space of 1 x 2 x 8 x 8 with gzip, shuffle and fletcher32, a header, a mask and two attributes, as h5py writes it.
_SAMPLE = (
    "c-rlnzi$&U6vyAQFVfK;B9&5_A|!6$M+YPjlnojx8psgQ3K$p==_zr@sdrU%Iizd^v6TOyBO@at8!IC#NFXE@#ty6~+@0<Fr6?4ppuUe"
    "3y|evnKRdQ1f8|$=jXU!*r)MC-G{Jx}WEm-%7xQUdzO5`OyRYmUrt^)stg7<Ms(tsoOutq65AWCOk@u*8?&rXe)&k-<(x|U*MfQ<OuPF"
    "P0<^6X0dv;p@IDOCe{7$PU?2hmOJiEV>U8h%$*e^mUuG2%EZb)ljZr$rJ%!2(>Ifr5FbBf74|A=udSZBddJ7UR%rRU+7qsokbs9OqqkK"
    "$mQ#UanaR-8tz<B!S_`n_k}t}8O*lldLdb?rbTeRH+XL*Jm?6aKZUdfajcb5{CRN~egaDbYW8aBp)1lU4wlmC0k$@mPGapFTg%TsR*4C"
    "OTJf%(;5*FWXtE6!*pCb#2m-MGyo*5ClOG1o2-oc+%dketK;WU;G08^RVi`&9xu%AHTo+3UGb>J%0YuKB2V|z*HN^-W54i<L_mJ_+DR5"
    "%A{YSK`@zZD%FtV<3-s*xe(RCRL@xyt-F}sm+#)*Y+_~@2>DUnP@+{M)~qhC>ASVoR01&wvhBY+N$Zjz2!bF8f*=TjAf}B4b<;1tk($$"
    "QN<xncn6T#zgxiW9vN*d>Tb`HHw`xi$xdp4UusY&-9YJzfn+wZjzA4+Y14rxzu#7lXcfpL#p!Es{>D!l7&yjizVzzenEsNB5#=S3zNcA"
    "07(04AW*JV~=#`dS|9~{;u{eA;8<ct3"
)


class Hdf5:
    """HDF5 with `kspace` or `sinogram` at its root."""

    name = "HDF5"
    expected = "HDF5 with kspace or a sinogram at its root"

    def sniff(self, file: ScanFile) -> bool:
        """Whether HDF5 begins at byte 0, or behind a user block."""
        return find_hdf5(file)

    @contextmanager
    def open(self, file: ScanFile) -> Iterator[Contents]:
        """The datasets and attributes of known names."""
        with open_hdf5(file) as opened:
            group = find_group(opened.file)
            contents = read_contents(opened, file.size, group)
            if group:
                note = f"the file's scan lies in its group {printable_names([group])}: it is read from there"
                contents = replace(contents, warnings=(*contents.warnings, note))
            yield contents

    def samples(self) -> Sequence[bytes]:
        """FastMRI's layout with everything that it may have."""
        return (zlib.decompress(base64.b85decode("".join(_SAMPLE))),)


FORMAT = Hdf5()


def find_group(file: h5py.File) -> str:
    """Name of the one group with k-space or a sinogram where nothing at the root is of a known name; else nothing."""
    if match_names(file, NAMES):
        return ""
    groups = [name for name in list(file)[:_MOST_GROUPS] if file.get(name, getclass=True) is h5py.Group]
    found = [name for name in groups if _MAIN & match_names(file[name], _MAIN).keys()]
    if len(found) > 1:
        names = printable_names(f"{name}/kspace" for name in found)
        raise UnreadableScan.at(
            "file", f"{len(found)} groups with k-space or a sinogram: {names}", "one, or one file each"
        )
    return found[0] if found else ""


def read_contents(opened: OpenedHdf5, file_bytes: int, group: str = "") -> Contents:
    """The arrays and attributes of an HDF5 scan, at the file's root or in a group. Raises UnreadableScan."""
    file = opened.file[group] if group else opened.file
    above = f"{group}/" if group else ""
    if RESULT_MARK in file.attrs:
        raise UnreadableScan.at("file", "a reconstruction made by this software", "a scan: k-space or a sinogram")
    names = match_names(file, NAMES)
    arrays = {
        ours: complex_or_real(ours, open_dataset(file, theirs), file_bytes)
        for ours, theirs in names.items()
        if ours in ARRAYS
    }
    holders = [file, *(file[names[name]] for name in ("kspace", "sinogram") if name in names)]
    attrs = [match_names(holder.attrs, (*ATTRIBUTES, *ARRAYS_OR_ATTRIBUTES)) for holder in holders]
    attributes: dict[str, float | str] = {}
    for name in (*ATTRIBUTES, *ARRAYS_OR_ATTRIBUTES):
        spelt = [(holder, theirs[name]) for holder, theirs in zip(holders, attrs, strict=True) if name in theirs]
        given = [_attribute(holder, name, theirs) for holder, theirs in spelt]
        given += [_scalar(file, name, names[name], file_bytes)] if name in names else []
        if given:
            value = _only(name, given)
            if isinstance(value, ArraySource):
                arrays[name] = value
            else:
                attributes[name] = value
    datasets = (path.removeprefix(above) for path in opened.datasets)
    understood = {*names.values(), *(theirs for each in attrs for theirs in each.values())}
    renamed = {f"{above}{theirs}": ours for ours, theirs in names.items()}
    renamed |= {theirs: ours for each in attrs for ours, theirs in each.items()}
    header = _header(file)
    if "kspace" in arrays:
        arrays["kspace"] = with_partitions(arrays["kspace"], header)
    others = dict.fromkeys((*datasets, *(key for holder in holders for key in holder.attrs)))
    return Contents(
        format="sinogram_hdf5" if "sinogram" in arrays else "fastmri_hdf5",
        arrays=arrays,
        attributes=attributes,
        header_xml=header,
        missing_axis="coils",
        renamed=tuple((theirs, ours) for theirs, ours in renamed.items() if ours != theirs),
        unused=tuple(name for name in others if name not in {*NAMES, *_IGNORED, *understood}),
        unsupported=None if arrays.keys() & {"kspace", "sinogram"} else known_layout(file),
    )


def _only(name: str, given: list[float | str | ArraySource]) -> float | str | ArraySource:
    """The value of what may stand at the file, at its main array and as a dataset: all must say the same."""
    numbers = [value for value in given if not isinstance(value, ArraySource)]
    if len(given) > 1 and (len(numbers) < len(given) or any(value != numbers[0] for value in numbers)):
        raise UnreadableScan.at(
            name, f"different values: {', '.join(quote_safely(value) for value in numbers)}", "one value"
        )
    return given[0]


def _attribute(holder: Any, name: str, theirs: str) -> float | str | ArraySource:
    identifier = holder.attrs.get_id(theirs)
    # The size first: what an attribute declares is allocated when it is read.
    _check_small(name, identifier.shape, identifier.dtype)
    return _value(name, holder.attrs[theirs], identifier.dtype)


def _scalar(file: h5py.File, name: str, theirs: str, file_bytes: int) -> float | str | ArraySource:
    """A dataset where an attribute would do as well, as in .npz."""
    dataset = open_dataset(file, theirs)
    if _is_matlab_text(dataset):
        check_stored(name, dataset)
        return "".join(map(chr, dataset[()].reshape(-1)))
    if name in ARRAYS_OR_ATTRIBUTES and math.prod(dataset.shape) != 1:
        return Hdf5Array(name, dataset, file_bytes)
    _check_small(name, dataset.shape, dataset.dtype)
    check_stored(name, dataset)
    return _value(name, dataset[()], dataset.dtype)


def _is_matlab_text(dataset: h5py.Dataset) -> bool:
    """Whether these are the characters of a text, as MATLAB 7.3 keeps it."""
    of_characters = dataset.dtype == np.uint16 and dataset.attrs.get("MATLAB_class") == b"char"
    return bool(of_characters and 0 < math.prod(dataset.shape) <= _MOST_TEXT_BYTES)


def _check_small(name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]) -> None:
    text = h5py.check_string_dtype(dtype) is not None
    if (
        shape is not None
        and math.prod(shape) == 1
        and (text or dtype.kind in "biuf")
        and dtype.itemsize <= _MOST_TEXT_BYTES
    ):
        return
    if name in ARRAYS_OR_ATTRIBUTES:
        if shape is not None and len(shape) == 1 and 0 < shape[0] <= _MOST_DETECTORS and dtype.kind in "iuf":
            return
        raise UnreadableScan.at(name, f"shape {shape} of {dtype_name(dtype)}", "one number, or one for each detector")
    remedy = "; ismrmrd_header tells of pixels of unlike sides" if name == "pixel_spacing_mm" else ""
    raise UnreadableScan.at(name, f"shape {shape} of {dtype_name(dtype)}", f"one number or one text{remedy}")


def _value(name: str, value: Any, dtype: np.dtype[Any]) -> float | str | ArraySource:
    text = h5py.check_string_dtype(dtype) is not None
    values = np.asarray(value, dtype=object) if text else np.asarray(value)
    return InMemory(name, values) if values.size > 1 else parse_attribute(name, values)


def _header(file: h5py.File) -> bytes | None:
    """The ISMRMRD header of a fastMRI file."""
    if "ismrmrd_header" not in file:
        return None
    dataset = open_dataset(file, "ismrmrd_header")
    expected = f"one XML text of at most {_MOST_HEADER_BYTES} bytes"
    if dataset.shape not in ((), (1,)) or h5py.check_string_dtype(dataset.dtype) is None:
        raise UnreadableScan.at("ismrmrd_header", f"shape {dataset.shape} of {dtype_name(dataset.dtype)}", expected)
    if dataset.dtype.itemsize > _MOST_HEADER_BYTES:
        raise UnreadableScan.at("ismrmrd_header", f"{dataset.dtype.itemsize} bytes", expected)
    check_stored("ismrmrd_header", dataset)
    value = np.asarray(dataset[()], dtype=object).reshape(-1)[0]
    header = value if isinstance(value, bytes) else str(value).encode()
    if len(header) > _MOST_HEADER_BYTES:
        raise UnreadableScan.at("ismrmrd_header", f"{len(header)} bytes", expected)
    return header

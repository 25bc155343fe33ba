"""Tiny scans of every way in which a file can be wrong, written on the fly, beside the good ones."""

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.data.tiny_scans import (
    ATTENUATION_1_PER_MM,
    CT_SCANS,
    GOOD,
    MRI_SCANS,
    ct,
    distributed,
    fft,
    header,
    ifft,
    mri,
    phantom,
    unnamed_npz,
    without,
    write_hdf5,
    write_npy,
    write_npz,
)
from tests.support import results
from udig_recon.core.results.store import SliceResult

__all__ = [
    "ATTENUATION_1_PER_MM",
    "CANARY",
    "CT_SCANS",
    "GOOD",
    "HOSTILE",
    "MRI_SCANS",
    "Hostile",
    "canary",
    "ct",
    "distributed",
    "fft",
    "header",
    "ifft",
    "mri",
    "phantom",
    "unnamed_npz",
    "unpickled",
    "without",
    "write_hdf5",
    "write_npy",
    "write_npz",
]

ENTITIES = """<?xml version="1.0"?><!DOCTYPE h [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<ismrmrdHeader><encoding><reconSpace><matrixSize><x>32</x><y>&a;</y></matrixSize></reconSpace></encoding></ismrmrdHeader>"""


@dataclass(frozen=True)
class Hostile:
    """A wrong file: how to write it, the name of the error that it must give, and a word of its message."""

    write: Callable[[Path], Any]
    error: str
    word: str


CANARY = b"canary-5f1d8a: these bytes lie in another file"


def canary(path: Path) -> Path:
    """A file beside `path` which no scan may ever show; as float32 it is a plausible image."""
    secret = path.with_name("canary.bin")
    secret.write_bytes(CANARY + bytes(32 * 32 * 8 * 8))
    return secret


def _truncated(path: Path) -> None:
    write_hdf5(path, **mri(size=64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _spoilt(value: complex, name: str = "kspace") -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        scan = mri()
        scan[name] = scan[name].copy()
        scan[name][1, ..., 16, 16] = value
        return write_hdf5(path, **scan)

    return write


def _external_link(path: Path) -> None:
    other = path.with_name("other.h5")
    write_hdf5(other, **mri())
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.ExternalLink(other.name, "/kspace")


def _deep_external_link(path: Path) -> None:
    other = path.with_name("other.h5")
    write_hdf5(other, **mri())
    write_hdf5(path, **mri())
    with h5py.File(path, "a") as file:
        file["notes/of/the/day"] = h5py.ExternalLink(other.name, "/kspace")


def _soft_link(path: Path) -> None:
    _deep_external_link(path)
    with h5py.File(path, "a") as file:
        del file["kspace"]
        file["kspace"] = h5py.SoftLink("/notes/of/the/day")


def _groups_in_groups(path: Path) -> None:
    """Deep enough to overflow a stack, though not that of every process."""
    write_hdf5(path, **mri())
    with h5py.File(path, "a") as file:
        group = file
        for _ in range(9000):
            group = group.create_group("a")


def _external_storage(path: Path) -> None:
    secret = canary(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (1, 4, 32, 32), "c8", external=[(str(secret), 0, 4 * 32 * 32 * 8)])


def _external_mask(path: Path) -> None:
    secret = canary(path)
    write_hdf5(path, **without(mri(), "mask"))
    with h5py.File(path, "a") as file:
        file.create_dataset("mask", (32,), "u1", external=[(str(secret), 0, 32)])


def _external_header(path: Path) -> None:
    secret = canary(path)
    write_hdf5(path, **mri())
    with h5py.File(path, "a") as file:
        file.create_dataset("ismrmrd_header", (1,), "S46", external=[(str(secret), 0, 46)])


def _virtual(path: Path) -> None:
    other = path.with_name("other.h5")
    write_hdf5(other, **mri())
    layout = h5py.VirtualLayout((2, 4, 32, 32), "c8")
    layout[:] = h5py.VirtualSource(other.name, "kspace", (2, 4, 32, 32))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("kspace", layout)


def _filtered(code: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_chunk((1, 4, 32, 32))
            creation.set_filter(code, h5py.h5z.FLAG_OPTIONAL, (4,))
            space = h5py.h5s.create_simple((2, 4, 32, 32))
            kind = h5py.h5t.py_create(np.dtype("c8"), logical=True)
            h5py.h5d.create(file.id, b"kspace", kind, space, creation)

    return write


def _odd_chunk(packing: dict[str, Any], stored: bytes, skipped: int = 0) -> Callable[[Path], None]:
    """A chunk of 32 KiB of which something else is stored."""

    def write(path: Path) -> None:
        write_hdf5(path, **without(mri(), "kspace"))
        with h5py.File(path, "a") as file:
            data = file.create_dataset("kspace", data=mri()["kspace"], chunks=(1, 4, 32, 32), **packing)
            data.id.write_direct_chunk((1, 0, 0, 0), stored, skipped)

    return write


def _dust(path: Path) -> None:
    """60 MiB in chunks of one value each: to read it would take gigabytes."""
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (8, 1, 1000, 1000), "c8", chunks=(1, 1, 1, 1), fillvalue=np.complex64(1))


def _hdf5_bomb(path: Path) -> None:
    """13 kB or less that declare 34 GB within every limit of size."""
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (280, 15, 1000, 1000), "c8", chunks=(1, 1, 1000, 1000), compression="gzip")


def _packed_bomb(path: Path) -> None:
    """Zeros, well packed: a real 72 MiB in 72 kB."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("kspace", (9, 1, 1024, 1024), "c8", chunks=(1, 1, 1024, 1024), compression="gzip")
        data[0] = 0
        chunk = data.id.read_direct_chunk((0, 0, 0, 0))
        for index in range(1, 9):
            data.id.write_direct_chunk((index, 0, 0, 0), chunk[1], chunk[0])


def _npz_bomb(path: Path) -> None:
    """Zeros, well packed: 72 MiB in 72 kB."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<c8", "fortran_order": False, "shape": (9, 1, 1024, 1024)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("kspace.npy", "w") as member:
        member.write(head.getvalue())
        for _ in range(9):
            member.write(bytes(8 << 20))


def _nested_zip(path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kspace.npy", bytes(1 << 20))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kspace.npy", inner.getvalue())


def _many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(500):
            archive.writestr(f"{index}.npy", b"")


def _bzip2_member(path: Path) -> None:
    array = io.BytesIO()
    np.save(array, mri()["kspace"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("kspace.npy", array.getvalue())


def _lying_npy(path: Path) -> None:
    """A header of 2 GB with no data behind it."""
    with path.open("wb") as file:
        shape = {"descr": "<c8", "fortran_order": False, "shape": (16, 16, 1000, 1000)}
        np.lib.format.write_array_header_1_0(file, shape)


class _Pickled:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self._path,)


def unpickled(path: Path) -> Path:
    """The file that appears if a pickle in the scan at `path` was run."""
    return path.with_name("unpickled")


def _pickled(path: Path) -> np.ndarray:
    return np.array([_Pickled(unpickled(path))], dtype=object)


def _rogue(**parts: Any) -> Callable[[Path], Path]:
    """An undersampled MRI scan in HDF5 with these parts in place of its own; None leaves one out."""

    def write(path: Path) -> Path:
        mixed = {**mri(), **parts}
        return write_hdf5(path, **{name: part for name, part in mixed.items() if part is not None})

    return write


def _rogue_ct(**parts: Any) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        mixed = {**ct(), **parts}
        return write_hdf5(path, **{name: part for name, part in mixed.items() if part is not None})

    return write


def _two_pixel_sizes(path: Path) -> None:
    write_hdf5(path, **ct())
    with h5py.File(path, "a") as file:
        file["pixel_size_mm"] = 0.5


def _result(path: Path) -> None:
    image = phantom(1)[0]
    results.write_hdf5(path, [SliceResult(image, None, image, None, {})], {})


_unknown, _broken, _beyond = "UnknownFormat", "UnreadableScan", "UnsupportedScan"
HOSTILE: dict[str, Hostile] = {
    "empty": Hostile(lambda path: path.write_bytes(b""), _unknown, "empty"),
    "text": Hostile(lambda path: path.write_text("slice,value\n0,1\n"), _unknown, "text"),
    "noise": Hostile(lambda path: path.write_bytes(bytes(range(256)) * 40), _unknown, "no known format"),
    "gzip": Hostile(lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(99)), _broken, "gzip"),
    "dicom": Hostile(lambda path: path.write_bytes(bytes(128) + b"DICM" + bytes(99)), _unknown, "DICOM"),
    "hdf5_of_another_kind": Hostile(lambda path: write_hdf5(path, volume=phantom()), _unknown, "kspace"),
    "npz_of_another_kind": Hostile(lambda path: write_npz(path, volume=phantom()), _unknown, "kspace"),
    "truncated": Hostile(_truncated, _broken, "damaged"),
    "hdf5_signature_only": Hostile(lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), _broken, "damaged"),
    "own_result": Hostile(_result, _broken, "reconstruction"),
    "rank_1": Hostile(_rogue(kspace=mri()["kspace"][0, 0, 0]), _broken, "1 axes"),
    "rank_7": Hostile(_rogue(kspace=np.stack([mri()["kspace"]] * 2)[:, None, None].repeat(2, 1)), _broken, "7 axes"),
    "npy_rank_1": Hostile(lambda path: write_npy(path, mri()["kspace"][0, 0, 0]), _broken, "1 axes"),
    "npy_float": Hostile(lambda path: write_npy(path, phantom()), _broken, "float32"),
    "kspace_is_integer": Hostile(_rogue(kspace=np.ones((2, 4, 32, 32), np.int16)), _broken, "int16"),
    "kspace_is_a_group": Hostile(lambda path: write_hdf5(path, **{"kspace/0": phantom()}), _broken, "group"),
    "kspace_is_text": Hostile(lambda path: write_hdf5(path, kspace=np.array([b"a", b"b"])), _broken, "numbers"),
    "no_slices": Hostile(_rogue(kspace=np.zeros((0, 4, 32, 32), np.complex64)), _beyond, "0 slices"),
    "nan": Hostile(_spoilt(complex(np.nan, 0)), _broken, "NaN"),
    "infinity": Hostile(_spoilt(complex(0, np.inf)), _broken, "infinity"),
    "nan_in_maps": Hostile(_spoilt(complex(0, np.nan), "sensitivity_maps"), _broken, "sensitivity_maps"),
    "nan_in_reference": Hostile(_spoilt(np.nan, "reference"), _broken, "reference"),
    "all_zero": Hostile(_rogue(kspace=np.zeros((2, 4, 32, 32), np.complex64)), _broken, "zeros"),
    "absurdly_bright": Hostile(_spoilt(1e30), _broken, "magnitude"),
    "mask_of_another_width": Hostile(_rogue(mask=np.ones(31, bool)), _broken, "mask"),
    "mask_of_halves": Hostile(_rogue(mask=np.full(32, 0.5)), _broken, "mask"),
    "mask_of_zeros": Hostile(_rogue(mask=np.zeros(32)), _broken, "mask"),
    "mask_elsewhere": Hostile(_rogue(mask=~mri()["mask"]), _broken, "mask"),
    "maps_of_fewer_coils": Hostile(
        _rogue(sensitivity_maps=mri(coils=3)["sensitivity_maps"]), _broken, "sensitivity_maps"
    ),
    "maps_of_zeros": Hostile(
        _rogue(sensitivity_maps=np.zeros((2, 4, 32, 32), np.complex64)), _broken, "sensitivity_maps"
    ),
    "reference_of_fewer_slices": Hostile(_rogue(reference=phantom(1)), _broken, "reference"),
    "million_wide": Hostile(
        lambda path: write_hdf5(path, kspace=np.ones((1, 1, 8, 10**6), np.complex64)), _beyond, "1000000"
    ),
    "too_many_coils": Hostile(lambda path: write_npy(path, np.ones((257, 16, 16), np.complex64)), _beyond, "257 coils"),
    "entities": Hostile(_rogue(ismrmrd_header=ENTITIES), _broken, "entity"),
    "matrix_of_4": Hostile(
        _rogue(ismrmrd_header=header(mri()["kspace"], rows=4, columns=4), reference=None), _beyond, "4 pixels"
    ),
    "broken_xml": Hostile(_rogue(ismrmrd_header="<ismrmrdHeader><encoding>"), _broken, "XML"),
    "radial": Hostile(
        _rogue(ismrmrd_header="<h><encoding><trajectory>radial</trajectory></encoding></h>"), _beyond, "radial"
    ),
    "degrees": Hostile(_rogue_ct(angles=np.degrees(ct()["angles"])), _broken, "degrees"),
    "degrees_half_turn_of_few": Hostile(
        _rogue_ct(sinogram=ct()["sinogram"][:, :3], angles=np.array([0.0, 60.0, 120.0])), _broken, "degrees"
    ),
    "angles_missing": Hostile(_rogue_ct(angles=None), _broken, "angles"),
    "angles_too_few": Hostile(_rogue_ct(angles=ct()["angles"][:-1]), _broken, "angles"),
    "angles_of_nan": Hostile(_rogue_ct(angles=np.full(24, np.nan)), _broken, "angles"),
    "angles_all_zero": Hostile(_rogue_ct(angles=np.zeros(24)), _broken, "same angle"),
    "sinogram_rank_1": Hostile(_rogue_ct(sinogram=ct()["sinogram"][0, 0]), _broken, "1 axes"),
    "sinogram_half": Hostile(_rogue_ct(sinogram=ct()["sinogram"].astype(np.float16)), _broken, "float16"),
    "sinogram_nan": Hostile(_rogue_ct(sinogram=np.full((2, 24, 49), np.nan, np.float32)), _broken, "NaN"),
    "sinogram_zero": Hostile(_rogue_ct(sinogram=np.zeros((2, 24, 49), np.float32)), _broken, "zeros"),
    "axis_beside_the_detector": Hostile(_rogue_ct(rotation_center=49.0), _broken, "rotation_center"),
    "axis_of_nan": Hostile(_rogue_ct(rotation_center=np.nan), _broken, "rotation_center"),
    "axis_text": Hostile(_rogue_ct(rotation_center="canary"), _broken, "rotation_center"),
    "flat_of_another_length": Hostile(_rogue_ct(quantity="counts", flat=np.ones(48)), _broken, "flat"),
    "flat_of_zeros": Hostile(_rogue_ct(quantity="counts", flat=np.zeros(49)), _broken, "flat"),
    "flat_of_nan": Hostile(_rogue_ct(quantity="counts", flat=np.full(49, np.nan)), _broken, "flat"),
    "flat_complex": Hostile(_rogue_ct(quantity="counts", flat=np.ones(49, np.complex64)), _broken, "flat"),
    "flat_below_dark": Hostile(_rogue_ct(quantity="counts", flat=np.ones(49), dark=np.full(49, 2.0)), _broken, "dark"),
    "flat_beside_line_integrals": Hostile(_rogue_ct(flat=np.ones(49)), _broken, "counts"),
    "i0_of_a_million": Hostile(_rogue_ct(quantity="counts", i0=np.ones(10**6)), _broken, "i0"),
    "rays_of_halves": Hostile(_rogue_ct(mask=np.full(49, 0.5)), _broken, "mask"),
    "no_rays": Hostile(_rogue_ct(mask=np.zeros((24, 49))), _broken, "mask"),
    "rays_of_another_shape": Hostile(_rogue_ct(mask=np.ones((2, 24, 49))), _broken, "mask"),
    "two_pixel_sizes": Hostile(_two_pixel_sizes, _broken, "different values"),
    "pixel_size_dataset_of_many": Hostile(_rogue_ct(pixel_size_mm=np.ones(10**6)), _broken, "pixel_size_mm"),
    "data_exchange": Hostile(lambda path: write_hdf5(path, **{"exchange/data": phantom()}), _broken, "exchange/theta"),
    "negative_slice_spacing": Hostile(_rogue_ct(slice_spacing_mm=-1.0), _broken, "slice_spacing_mm"),
    "cone_beam": Hostile(_rogue_ct(geometry="cone"), _beyond, "cone"),
    "fan_without_source": Hostile(_rogue_ct(geometry="fan_flat"), _broken, "source_origin_mm"),
    "source_within_the_image": Hostile(
        _rogue_ct(geometry="fan_flat", source_origin_mm=1.0, source_detector_mm=9.0), _beyond, "source_origin_mm"
    ),
    "source_beyond_the_detector": Hostile(
        _rogue_ct(geometry="fan_flat", source_origin_mm=900.0, source_detector_mm=9.0), _broken, "source_detector_mm"
    ),
    "negative_pixel": Hostile(_rogue_ct(pixel_size_mm=-1.0), _broken, "pixel_size_mm"),
    "nan_pixel": Hostile(_rogue_ct(pixel_size_mm=np.nan), _broken, "pixel_size_mm"),
    "pixels_unlike_detectors": Hostile(
        _rogue_ct(pixel_size_mm=1e3, detector_spacing_mm=1e-4, image_size=8, reference=None), _broken, "factor of 100"
    ),
    "image_size_text": Hostile(_rogue_ct(image_size="large"), _broken, "image_size"),
    "image_of_a_million": Hostile(_rogue_ct(image_size=10**6, reference=None), _beyond, "1000000"),
    "i0_beyond_single_precision": Hostile(_rogue_ct(quantity="counts", i0=1e39), _broken, "i0"),
    "i0_below_single_precision": Hostile(_rogue_ct(quantity="counts", i0=1e-46), _broken, "i0"),
    "counts_without_i0": Hostile(_rogue_ct(quantity="counts"), _broken, "i0"),
    "sinogram_and_kspace": Hostile(_rogue(**ct()), _broken, "both"),
    "external_link": Hostile(_external_link, _broken, "external link"),
    "groups_in_groups": Hostile(_groups_in_groups, _broken, "deep"),
    "deep_external_link": Hostile(_deep_external_link, _broken, "external link"),
    "soft_link": Hostile(_soft_link, _broken, "link"),
    "external_storage": Hostile(_external_storage, _broken, "external storage"),
    "external_mask": Hostile(_external_mask, _broken, "external storage"),
    "external_header": Hostile(_external_header, _broken, "external storage"),
    "virtual": Hostile(_virtual, _broken, "virtual"),
    "szip": Hostile(_filtered(5), _broken, "filter"),
    "blosc": Hostile(_filtered(32001), _broken, "filter"),
    "short_gzip": Hostile(_odd_chunk({"compression": "gzip"}, zlib.compress(bytes(128))), _broken, "chunk of 128"),
    "short_lzf": Hostile(_odd_chunk({"compression": "lzf"}, bytes([31, *range(32)]) * 4), _broken, "chunk of 128"),
    "short_shuffled": Hostile(_odd_chunk({"shuffle": True}, bytes(128)), _broken, "chunk of 128"),
    "short_skipped": Hostile(_odd_chunk({"compression": "gzip"}, bytes(128), 1), _broken, "chunk of 128"),
    "overlong_chunk": Hostile(_odd_chunk({"compression": "gzip"}, bytes(99_999)), _broken, "99999 bytes for a chunk"),
    "dust": Hostile(_dust, _broken, "chunks of 8 bytes"),
    "endless_text": Hostile(_rogue_ct(pixel_size_mm="x" * 60_000), _broken, "a text of 60000 characters"),
    "hdf5_bomb": Hostile(_hdf5_bomb, _broken, "declares"),
    "packed_bomb": Hostile(_packed_bomb, _broken, "declares"),
    "npz_bomb": Hostile(_npz_bomb, _broken, "declares"),
    "nested_zip": Hostile(_nested_zip, _broken, "no .npy array"),
    "many_members": Hostile(_many_members, _broken, "500 members"),
    "bzip2_member": Hostile(_bzip2_member, _broken, "compression"),
    "npy_header_that_never_ends": Hostile(
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x08\x00k~]f(\xf9\xd6\x83" + bytes(99)),
        _broken,
        "another header",
    ),
    "lying_npy": Hostile(_lying_npy, _broken, "bytes"),
    "pickled_npy": Hostile(lambda path: write_npy(path, _pickled(path), allow_pickle=True), _broken, "pickled"),
    "pickled_npz": Hostile(lambda path: write_npz(path, kspace=_pickled(path)), _broken, "pickled"),
    "pickle_in_attribute": Hostile(
        lambda path: write_npz(path, **{**ct(), "image_size": _pickled(path)}), _broken, "pickled"
    ),
}

"""Files of other tools: read where their arrays have a name that is known, else named, with what to do."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.support import scans
from udig_recon.core.errors import UnknownFormat, UnreadableScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.sandbox.local import open_scan
from udig_recon.core.formats.unsupported import by_file_name


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan"


def undersampled() -> np.ndarray:
    kspace: np.ndarray = scans.mri()["kspace"]
    return kspace


def test_hdf5_behind_a_user_block_is_read(path: Path) -> None:
    for size in (512, 4096):
        with h5py.File(path, "w", userblock_size=size) as file:
            file["kspace"] = undersampled()
        assert probe(path).format == "fastmri_hdf5"
        np.testing.assert_array_equal(read(path).kspace, undersampled())


@pytest.mark.parametrize("write", [scans.write_hdf5, scans.write_npz])
def test_names_of_other_tools_are_taken_and_said(write: Callable[..., Path], path: Path) -> None:
    parts = scans.mri()
    write(
        path,
        ksp=parts["kspace"],
        sampling_mask=parts["mask"],
        s_maps=parts["sensitivity_maps"],
        Reference=parts["reference"],
    )
    header = probe(path)
    assert (header.has_maps, header.has_reference) == (True, True)
    for theirs, ours in (("ksp", "kspace"), ("sampling_mask", "mask"), ("s_maps", "sensitivity_maps")):
        assert f"{theirs} is read as {ours}" in header.warnings
    np.testing.assert_array_equal(read(path).kspace, parts["kspace"])
    write(path, kspace=parts["kspace"], mask=parts["mask"], sampling_mask=~parts["mask"])
    assert any("not used" in w and "sampling_mask" in w for w in probe(path).warnings)
    np.testing.assert_array_equal(read(path).mask[0], parts["mask"])
    write(path, ksp=parts["kspace"], kdata=parts["kspace"])
    with pytest.raises(UnreadableScan, match="kdata and ksp, expected one of them"):
        probe(path)


@pytest.mark.parametrize("group", ["data", "dataset"])
def test_kspace_in_the_one_group_that_holds_it_is_read_and_said(group: str, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file[f"{group}/kspace"] = undersampled()
        file["other/notes"] = np.zeros(3)
    header = probe(path)
    assert header.slices == len(undersampled())
    assert any(f"its group {group}" in warning for warning in header.warnings)


def test_kspace_in_a_group_is_refused_where_others_or_arrays_at_the_root_stand_beside_it(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data/kspace"] = file["more/kspace"] = undersampled()
    with pytest.raises(UnreadableScan, match="2 groups with k-space or a sinogram: data/kspace, more/kspace"):
        probe(path)
    with h5py.File(path, "w") as file:
        file["data/kspace"] = undersampled()
        file["mask"] = np.ones(64)
    with pytest.raises(UnknownFormat, match=r"it holds mask, data/kspace\), expected HDF5 with kspace .* at its root"):
        probe(path)


def test_files_of_ismrmrd_images_are_named_with_what_to_do(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["dataset/image_0/data"] = np.zeros((1, 8, 8))
        file["dataset/image_0/header"] = np.zeros(1)
    with pytest.raises(UnknownFormat, match="an image needs no reconstruction"):
        probe(path)


def hdf5_as_text() -> bytes:
    return b"\x89HDF\n\x1a\n" + bytes(500)


STARTS = {
    "curl --data-binary": hdf5_as_text(),
    "DICOM file, .*needs no reconstruction": bytes(128) + b"DICM" + bytes(99),
    "NIfTI image, .*needs no reconstruction": b"\x5c\x01\x00\x00" + bytes(348),
    "twix": bytes(4) + (2).to_bytes(4, "little") + bytes(8) + (10240).to_bytes(8, "little") + bytes(99),
    "twix.*": b"\x20\x02\x00\x00Config\0<XProtocol>" + bytes(99),
    "P-file": bytes(34) + b"GE_MED_NMR" + bytes(200),
    "BART": b"# Dimensions\n128 112 1 8\n",
    "Bruker": b"##TITLE=Parameter List, ParaVision 6.0\n",
    "Philips export.*philips_to_ismrmrd": b"# === DATA DESCRIPTION FILE ====\n",
    "Philips images .*needs no reconstruction": b"# === DATA DESCRIPTION FILE\n# Research image export tool     V4.2\n",
    "Philips raw data .*philips_to_ismrmrd": b"  01 00 00: nr_locs_per_stack_arr        :            3\n",
    "labels of Philips raw data .*philips_to_ismrmrd": 5
    * (bytes(4) + b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a" + b"\x01\x7f" + bytes(range(48))),
    "web page": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
    "pickle": b"\x80\x04\x95" + bytes(99),
    "BART .cfl": np.random.default_rng(0).standard_normal(999).astype(np.float32).tobytes(),
    "fid of Bruker": np.random.default_rng(0).integers(-5000, 5000, 999, dtype=np.int32).tobytes(),
}


@pytest.mark.parametrize("words", STARTS)
def test_formats_that_are_known_and_not_read_are_named_with_what_to_do(words: str, path: Path) -> None:
    path.write_bytes(STARTS[words])
    with pytest.raises(UnknownFormat, match=words) as caught:
        probe(path)
    assert caught.value.expected
    assert len(str(caught.value)) < 1000


NAMES = {
    "ScanArchive_1234567_20260102_030405006.h5": "ScanArchive.*ge_to_ismrmrd",
    "raw_007.LAB": "Philips raw data .*philips_to_ismrmrd",
    "raw_007.raw": "Philips raw data .*philips_to_ismrmrd",
}


@pytest.mark.parametrize("name", NAMES)
def test_files_whose_bytes_say_nothing_are_known_by_their_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file["something/else"] = np.zeros(3)
    else:
        path.write_bytes(np.random.default_rng(0).bytes(999))
    with pytest.raises(UnknownFormat, match=NAMES[name]), open_scan(path):
        pass
    assert by_file_name(UnknownFormat("nothing"), "scan.h5").args == ("nothing",)

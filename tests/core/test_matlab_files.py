"""MATLAB's files of versions 5 and 7.3: arrays, structs and texts as scans; what is no array is refused by its name."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from benchmarks.data.tiny_scans import ct, mri
from tests.support.matlab_maker import (
    HEADER,
    element,
    in_matlab_order,
    variable,
    write_matlab5,
    write_matlab73,
    write_variables,
)
from udig_recon.core.errors import UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.containers.matlab_arrays import NoArray, read_variables
from udig_recon.core.formats.containers.scan_file import open_scan_file

WRITERS = [write_matlab73, write_matlab5, lambda path, **parts: write_matlab5(path, packed=False, **parts)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.mat"


@pytest.mark.parametrize("write", WRITERS, ids=["7.3", "5 packed", "5"])
def test_kspace_with_all_that_may_stand_beside_it_comes_out_in_our_order(
    write: Callable[..., Path], path: Path
) -> None:
    parts = mri()
    write(
        path,
        kspace=parts["kspace"],
        mask=parts["mask"].astype(np.uint8)[None],
        sensitivity_maps=parts["sensitivity_maps"],
        reference=parts["reference"],
        pixel_spacing_mm=0.7,
    )
    header = probe(path)
    assert (header.format, header.pixel_spacing_mm, header.has_maps) == ("matlab", (0.7, 0.7), True)
    assert any("axes are read as (ky, kx, coils, slices)" in warning for warning in header.warnings)
    scan = read(path, [1])
    np.testing.assert_array_equal(scan.kspace, parts["kspace"][1:])
    np.testing.assert_array_equal(scan.mask[0], parts["mask"])
    np.testing.assert_array_equal(scan.sensitivity_maps, parts["sensitivity_maps"][1:])
    np.testing.assert_array_equal(scan.reference, parts["reference"][1:])


@pytest.mark.parametrize("write", WRITERS, ids=["7.3", "5 packed", "5"])
def test_sinogram_is_taken_in_both_orders_of_axes_as_its_angles_tell(write: Callable[..., Path], path: Path) -> None:
    parts = ct()
    parts.pop("reference", None)
    attributes = {name: part for name, part in parts.items() if not isinstance(part, np.ndarray)}
    for order, sinogram in (("views, detectors", parts["sinogram"]), ("detectors, views", None)):
        given = parts["sinogram"].swapaxes(-1, -2) if sinogram is None else sinogram
        write(path, sinogram=given, angles=parts["angles"][:, None], **attributes)
        assert any(f"({order}, slices)" in warning for warning in probe(path).warnings)
        np.testing.assert_array_equal(read(path).sinogram, parts["sinogram"])
        np.testing.assert_array_equal(read(path).angles, parts["angles"])


def test_struct_that_holds_the_kspace_is_opened(path: Path) -> None:
    parts = mri()
    write_matlab73(path, group="data/", ksp=parts["kspace"])
    assert "data/ksp is read as kspace" in probe(path).warnings
    np.testing.assert_array_equal(read(path).kspace, parts["kspace"])
    scipy.io.savemat(path, {"data": {"ksp": in_matlab_order(parts["kspace"]), "patient": "x"}, "mask": parts["mask"]})
    assert "data.ksp is read as kspace" in probe(path).warnings
    np.testing.assert_array_equal(read(path).kspace, parts["kspace"])
    scipy.io.savemat(path, {"a": {"kspace": np.eye(8)}, "b": {"kspace": np.eye(8)}})
    with pytest.raises(UnreadableScan, match="2 structs with k-space"):
        probe(path)


def test_noise_is_taken_with_coils_on_either_axis(path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((4, 99)) + 1j * rng.standard_normal((4, 99))).astype(np.complex64)
    found = []
    for given in (noise, noise.T):
        with path.open("wb") as file:
            scipy.io.savemat(file, {"kspace": in_matlab_order(mri()["kspace"]), "noise": given})
        found.append(read(path).noise_covariance)
    np.testing.assert_allclose(found[0], noise @ noise.conj().T / 99, rtol=1e-5)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("packed", [True, False])
def test_variables_are_those_of_scipy(packed: bool, path: Path) -> None:
    rng = np.random.default_rng(1)
    cube = rng.standard_normal((5, 4, 3)) + 1j * rng.standard_normal((5, 4, 3))
    parts: dict[str, Any] = {
        "double": cube,
        "single": cube.astype(np.complex64),
        "real": cube.real,
        "whole": rng.integers(-9, 9, (3, 4)).astype(np.int16),
        "truth": cube.real > 0,
        "text": "ångström",
        "outer": {"inner": {"numbers": np.arange(9.0), "text": "abc"}, "empty": []},
        "cell": np.array([1, "x"], object),
        "sparse": scipy.sparse.eye(4),
    }
    scipy.io.savemat(path, parts, do_compression=packed)
    with open_scan_file(path) as file:
        found = read_variables(file)
        for name in ("double", "single", "real", "whole", "truth"):
            np.testing.assert_array_equal(found[name].whole(), parts[name].T)
            np.testing.assert_array_equal(found[name].read([2, 0]), parts[name].T[[2, 0]])
        assert found["text"] == "ångström"
        assert found["outer"]["inner"]["text"] == "abc"
        np.testing.assert_array_equal(found["outer"]["inner"]["numbers"].whole().ravel(), np.arange(9))
        assert found["cell"] == NoArray("a cell array")
        assert found["sparse"] == NoArray("a sparse matrix")


def test_big_endian_files_and_values_that_matlab_shortened_are_read(path: Path) -> None:
    real = np.arange(128).astype(np.uint8)
    write_variables(path, variable(element(2, real.tobytes()), flags=0, class_=6, name="x"))
    with open_scan_file(path) as file:
        array = read_variables(file)["x"]
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array.whole().ravel(), real)
    little = variable(element(7, np.arange(128, dtype="<f4").tobytes()), flags=0)
    swapped = np.frombuffer(little, "<u4").byteswap().tobytes()
    # The flags are one word, the sides are words, and the name is turned back.
    swapped = swapped.replace(b"apsk\0\0ec", b"kspace\0\0")
    path.write_bytes(HEADER[:124] + b"\x01\x00MI" + swapped)
    with open_scan_file(path) as file:
        np.testing.assert_array_equal(read_variables(file)["kspace"].whole().ravel(), np.arange(128))


ONES = element(7, np.ones(128, "<f4").tobytes())
LIES: dict[str, tuple[str, tuple[bytes, ...]]] = {
    "8 bytes of data": ("512 bytes for 128 values", (variable(element(7, bytes(8)), ONES),)),
    "values of type 99": ("numbers", (variable(element(99, bytes(512)), ONES),)),
    "axis of negative length": ("0 or more", (variable(ONES, ONES, sides=(-8, 8, 2)),)),
    "an array of 17 axes": ("1 to 16", (variable(ONES, ONES, sides=(1,) * 17),)),
    "a sparse matrix": ("full", (variable(ONES, class_=5),)),
    "a cell array": ("cat", (variable(ONES, class_=1),)),
    "an array of structs": ("numbers", (variable(ONES, class_=2, sides=(2, 2)),)),
    "a text": ("numbers", (variable(element(16, b"abcd"), class_=4, sides=(1, 4)),)),
    "two variables of one name": ("different names", (variable(), variable())),
    "more than 256 variables": ("k-space", tuple(variable(name=f"v{n}") for n in range(257))),
    "names of 0": ("fields", (variable(element(5, bytes(4)), element(1, bytes(64)), class_=2, sides=(1, 1)),)),
    "a field that is no array": (
        "each field",
        (variable(element(5, b"\x20\0\0\0"), element(1, b"kspace".ljust(32, b"\0")), ONES, class_=2, sides=(1, 1)),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("found", LIES)
@pytest.mark.parametrize("packed", [False, True])
def test_lie_is_refused_with_what_was_found_and_expected(found: str, packed: bool, path: Path) -> None:
    expected, variables = LIES[found]
    write_variables(path, *variables, packed=packed)
    with pytest.raises(UnreadableScan, match=found) as caught:
        probe(path)
    assert expected in caught.value.expected


def test_header_of_another_version_and_cut_files_are_refused(path: Path) -> None:
    path.write_bytes(HEADER[:124] + b"\x00\x03IM" + variable())
    with pytest.raises(UnreadableScan, match="save -v7"):
        probe(path)
    write_variables(path, variable(size=0xFFFFFFFF))
    with pytest.raises(UnreadableScan, match="a variable of 4294967295 bytes"):
        probe(path)
    write_variables(path, variable(), packed=True)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnreadableScan, match="whole file"):
        probe(path)
    write_matlab5(path, reference=mri()["reference"])
    with pytest.raises(UnknownFormat, match="without kspace or sinogram"):
        probe(path)


def test_bomb_is_refused_before_it_is_unpacked(path: Path) -> None:
    zeros = element(7, bytes(9 * (8 << 20)))
    write_variables(path, variable(zeros, zeros, sides=(1024, 1024, 2, 9)), packed=True)
    tracemalloc.start()
    with pytest.raises(UnreadableScan, match="declares"):
        probe(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    write_variables(path, variable(ONES, ONES, sides=(30000, 30000, 2, 9)), packed=True)
    with pytest.raises((UnreadableScan, UnsupportedScan), match="512 bytes of data"):
        probe(path)


def test_structs_nested_too_deep_end_where_the_limit_is(path: Path) -> None:
    inner = variable(name="")
    for _ in range(20):
        names = element(1, b"kspace".ljust(32, b"\0"))
        inner = variable(element(5, b"\x20\0\0\0"), names, inner, class_=2, sides=(1, 1), name="kspace")
    write_variables(path, inner)
    with pytest.raises(UnreadableScan, match="a struct, expected an array of numbers"):
        probe(path)


def test_fan_beam_sinogram_of_the_helsinki_challenge_is_read_with_its_geometry(path: Path) -> None:
    sinogram = (1 + np.add.outer(np.arange(90), np.hanning(64) * 100)).astype(np.float32) / 100
    parameters = {
        "distanceSourceOrigin": 410.66,
        "distanceSourceDetector": 553.74,
        "pixelSize": 0.05,
        "pixelSizePost": 0.2,
        "angles": np.arange(90)[None] * 1.0,
    }
    scipy.io.savemat(path, {"CtDataLimited": {"type": "2D", "sinogram": sinogram, "parameters": parameters}})
    header, scan = probe(path), read(path)
    assert (header.geometry, header.source_origin_mm, header.source_detector_mm) == ("fan_flat", 410.66, 553.74)
    np.testing.assert_array_equal(scan.sinogram[0], sinogram)
    np.testing.assert_allclose(scan.angles, np.deg2rad(np.arange(90)))
    assert scan.detector_spacing_mm == 0.2
    for lost in ("angles", "distanceSourceOrigin"):
        kept = {name: value for name, value in parameters.items() if name != lost}
        scipy.io.savemat(path, {"CtDataFull": {"sinogram": sinogram, "parameters": kept}})
        with pytest.raises(UnreadableScan, match="none in parameters"):
            probe(path)
    scipy.io.savemat(path, {"CtDataFull": {"sinogram": sinogram[1:], "parameters": parameters}})
    with pytest.raises(UnreadableScan, match="beside 90 angles"):
        probe(path)

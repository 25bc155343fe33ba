"""Data Exchange and NXtomo files come out as the phantom that they were made of; what lies in them is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tests.support.tomography_maker import (
    ANGLES,
    DETECTORS,
    SLICES,
    VIEWS,
    Frames,
    sinograms,
    write_data_exchange,
    write_nxtomo,
)
from udig_recon.core import metrics
from udig_recon.core.acquisition import CTAcquisition
from udig_recon.core.errors import ReconstructionError, UnreadableScan
from udig_recon.core.formats import Prober, probe, read
from udig_recon.core.formats.containers import views
from udig_recon.core.formats.containers.arrays import InMemory
from udig_recon.core.formats.sandbox.local import open_scan
from udig_recon.core.problem import slice_problem

Write = Callable[..., Path]


@pytest.fixture(params=[write_data_exchange, write_nxtomo], ids=["data_exchange", "nxtomo"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    return lambda *args, **how: request.param(tmp_path / "scan", *args, **how)


def acquisition(path: Path, *slices: int) -> CTAcquisition:
    found = read(path, slices or None)
    assert isinstance(found, CTAcquisition)
    return found


def test_projections_become_sinograms_of_their_rows(write: Write) -> None:
    path = write()
    header = probe(path)
    assert (header.slices, header.views, header.detectors) == (SLICES, VIEWS, DETECTORS)
    assert header.format in ("data_exchange", "nxtomo")
    whole = acquisition(path)
    np.testing.assert_allclose(whole.sinogram, sinograms(), atol=3e-3)
    np.testing.assert_allclose(whole.angles, ANGLES, atol=1e-9)
    assert whole.weights is not None
    for index in (2, 0, 1):
        assert np.array_equal(acquisition(path, index).sinogram[0], whole.sinogram[index])


def test_the_image_is_the_phantom(write: Write) -> None:
    problem = slice_problem(acquisition(write(), 1), 0, torch.device("cpu"))
    true = slice_problem(_exact(1), 0, torch.device("cpu"))
    spacing = problem.operator.geometry.detector_spacing_mm  # type: ignore[attr-defined]
    assert metrics.psnr(problem.magnitude(problem.direct()) * spacing, true.magnitude(true.direct())) > 35


def _exact(index: int) -> CTAcquisition:
    rays = sinograms()[[index]].astype(np.float32)
    return CTAcquisition(sinogram=rays, angles=ANGLES, image_size=DETECTORS, pixel_size_mm=1.0, detector_spacing_mm=1.0)


def test_the_sandboxed_reader_prepares_the_same(write: Write) -> None:
    path = write()
    prober = Prober()
    try:
        assert prober.probe(path) == probe(path)
    finally:
        prober.close()
    with open_scan(path) as prepared:
        found = prepared.read([1])
        assert isinstance(found, CTAcquisition)
        assert np.array_equal(found.sinogram, acquisition(path, 1).sinogram)


@pytest.mark.parametrize("how", [{}, {"chunks": (1, SLICES, DETECTORS)}, {"chunks": (7, 2, 11), "compression": "gzip"}])
@pytest.mark.parametrize("slices_a_band", [1, 2, 100])
def test_slices_come_from_bands_of_rows_however_the_file_is_packed(
    how: dict[str, Any], slices_a_band: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "BAND_BYTES", slices_a_band * VIEWS * DETECTORS * 2)
    path = write_data_exchange(tmp_path / "scan", **how)
    np.testing.assert_allclose(acquisition(path, 2, 0, 1).sinogram, sinograms()[[2, 0, 1]], atol=3e-3)


def test_all_slices_that_fit_into_memory_are_read_in_one_pass() -> None:
    class Counted(InMemory):
        passes = 0

        def blocks(self) -> Any:
            Counted.passes += 1
            return super().blocks()

    values = np.arange(5 * 3 * 4.0).reshape(5, 3, 4)
    stack = views.SlicesOfProjections(Counted("data", values))
    found = [stack.read([index])[0] for index in range(3)]
    assert np.array_equal(found, values.swapaxes(0, 1))
    assert Counted.passes == 1


def test_chosen_frames_are_read_as_if_there_were_no_others() -> None:
    values = np.arange(9 * 2 * 3.0).reshape(9, 2, 3)
    chosen = views.ChosenEntries(InMemory("data", values), np.array([1, 2, 5, 8]))
    assert np.array_equal(chosen.whole(), values[[1, 2, 5, 8]])
    assert np.array_equal(chosen.read([3, 0]), values[[8, 1]])
    cut = list(chosen.part((slice(1, 3), slice(0, 1), slice(1, 3))))
    assert [region[0] for region, _ in cut] == [slice(1, 2), slice(2, 3)]
    assert np.array_equal(np.concatenate([block for _, block in cut]), values[[2, 5], :1, 1:])


@pytest.mark.parametrize("units", ["deg", "Degrees", None, ""])
def test_angles_in_degrees_are_turned_into_radians(units: str | None, write: Write) -> None:
    path = write(units=units)
    np.testing.assert_allclose(acquisition(path, 0).angles, ANGLES, atol=1e-9)
    told = [warning for warning in probe(path).warnings if "degrees are assumed" in warning]
    assert bool(told) == (not units)


def test_angles_in_radians_are_taken_as_they_are(tmp_path: Path) -> None:
    path = write_data_exchange(tmp_path / "scan", units="rad", **{"exchange/theta": ANGLES})
    assert np.array_equal(acquisition(path, 0).angles, ANGLES)
    path = write_data_exchange(tmp_path / "scan", units=None, **{"exchange/theta": ANGLES})
    assert np.array_equal(acquisition(path, 0).angles, ANGLES)
    assert any("radians are assumed" in warning for warning in probe(path).warnings)


def test_the_pixel_is_that_of_the_file(tmp_path: Path) -> None:
    assert acquisition(write_nxtomo(tmp_path / "scan"), 0).pixel_size_mm == pytest.approx(5e-3)
    path = write_data_exchange(
        tmp_path / "scan", **{"measurement/instrument/detection_system/objective/resolution": 1.3}
    )
    with h5py.File(path, "a") as file:
        file["measurement/instrument/detection_system/objective/resolution"].attrs["units"] = "microns"
    assert acquisition(path, 0).detector_spacing_mm == pytest.approx(1.3e-3)


def test_sinograms_in_a_data_exchange_file_are_taken_as_their_angles_say(tmp_path: Path) -> None:
    stack = Frames().projections.swapaxes(0, 1)
    path = write_data_exchange(tmp_path / "scan", **{"exchange/data": stack})
    np.testing.assert_allclose(acquisition(path).sinogram, sinograms(), atol=3e-3)
    assert any("(slices, views, detectors)" in warning for warning in probe(path).warnings)


def test_line_integrals_need_no_flat_field(write: Write) -> None:
    stack = sinograms().swapaxes(0, 1).astype(np.float32)
    names = {"exchange/data": stack, "exchange/data_white": None, "exchange/data_dark": None}
    if "nxtomo" in probe(write()).format:
        names = {"instrument/detector/data": stack, "instrument/detector/image_key": None}
        names["sample/rotation_angle"] = np.arange(VIEWS) * 180 / VIEWS
    path = write(**names)
    np.testing.assert_allclose(acquisition(path).sinogram, sinograms(), atol=1e-6)
    assert any("taken for line integrals" in warning for warning in probe(path).warnings)


def test_more_detectors_than_an_image_may_have_pixels_give_a_coarser_image_of_all_of_the_field(tmp_path: Path) -> None:
    wide = Frames(sinograms(1, 1400, 12))
    path = write_data_exchange(tmp_path / "scan", wide)
    header = probe(path)
    assert (header.detectors, header.matrix) == (1400, (1024, 1024))
    assert header.pixel_spacing_mm[0] == pytest.approx(1400 / 1024)
    assert any("all that the detector sees takes 1400 pixels" in warning for warning in header.warnings)


EXCHANGE_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "no angles": ({"exchange/theta": None}, "exchange/theta: found none"),
    "an angle too few": ({"exchange/theta": np.arange(VIEWS - 1.0)}, "as many views as angles"),
    "angles of two axes": ({"exchange/theta": np.ones((VIEWS, 2))}, "one angle for each"),
    "text for angles": ({"exchange/theta": np.array([b"a"] * VIEWS)}, "theta"),
    "angles that are nan": ({"exchange/theta": np.full(VIEWS, np.nan)}, "finite angles"),
    "a million angles": ({"exchange/theta": np.zeros(1_000_000)}, "at most 65536"),
    "all at one angle": ({"exchange/theta": np.zeros(VIEWS)}, "same angle"),
    "no flat field beside counts": ({"exchange/data_white": None}, "exchange/data_white: found none"),
    "flat fields of other rows": ({"exchange/data_white": np.ones((4, 2, DETECTORS))}, "flat: found shape"),
    "dark above flat": ({"exchange/data_dark": np.full((1, SLICES, DETECTORS), 1e9)}, "no more than dark"),
    "negative flat": ({"exchange/data_white": np.full((1, SLICES, DETECTORS), -1.0)}, "flat: found -1"),
    "four axes": ({"exchange/data": np.ones((VIEWS, 2, 2, DETECTORS), np.uint16)}, "4 axes"),
    "one axis": ({"exchange/data": np.ones(VIEWS, np.uint16)}, "1 axes"),
    "complex projections": ({"exchange/data": np.ones((VIEWS, SLICES, DETECTORS), complex)}, "complex"),
    "nothing but zeros": ({"exchange/data": np.zeros((VIEWS, SLICES, DETECTORS), np.uint16)}, "nothing but zeros"),
    "a group in place of data": ({"exchange/data": None, "exchange/data/inner": np.ones(3)}, "a group"),
}


@pytest.mark.parametrize("name", EXCHANGE_LIES)
def test_a_data_exchange_file_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    how, words = EXCHANGE_LIES[name]
    with pytest.raises(ReconstructionError, match=words):
        probe(write_data_exchange(tmp_path / "scan", **how))


FRAMES = VIEWS + 9
NXTOMO_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "no angles": ({"sample/rotation_angle": None}, "rotation_angle: found none"),
    "angles of another number": ({"sample/rotation_angle": np.arange(VIEWS - 3.0)}, "as many views as angles"),
    "a key too few": ({"instrument/detector/image_key": np.zeros(VIEWS, int)}, "one for each frame"),
    "no projection": ({"instrument/detector/image_key": np.ones(FRAMES, int)}, "no 0"),
    "no flat field beside counts": (
        {"instrument/detector/image_key": np.zeros(FRAMES, int)},
        "no frame of",
    ),
    "keys of two axes": ({"instrument/detector/image_key": np.zeros((FRAMES, 1), int)}, "one number for each frame"),
    "a frame": ({"instrument/detector/data": np.ones((SLICES, DETECTORS), np.uint16)}, "one for each frame"),
}


@pytest.mark.parametrize("name", NXTOMO_LIES)
def test_an_nxtomo_file_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    how, words = NXTOMO_LIES[name]
    with pytest.raises(ReconstructionError, match=words):
        probe(write_nxtomo(tmp_path / "scan", **how))


def test_frames_of_another_key_are_left_out_and_told(tmp_path: Path) -> None:
    path = write_nxtomo(tmp_path / "scan")
    assert any("1 frames of another image_key" in warning for warning in probe(path).warnings)


def test_links_out_of_the_file_are_refused_with_the_remedy_and_never_followed(tmp_path: Path) -> None:
    write_nxtomo(tmp_path / "other")
    path = write_nxtomo(tmp_path / "scan")
    with h5py.File(path, "a") as file:
        del file["entry/instrument/detector/data"]
        file["entry/instrument/detector/data"] = h5py.ExternalLink("other", "/entry/instrument/detector/data")
    with pytest.raises(UnreadableScan, match=r"an external link.*copy them into one"):
        probe(path)


def test_a_link_that_leads_nowhere_or_round_in_a_circle_is_refused(tmp_path: Path) -> None:
    for target in ("/nowhere", "/entry/instrument/detector/data"):
        path = write_nxtomo(tmp_path / "scan")
        with h5py.File(path, "a") as file:
            del file["entry/instrument/detector/data"]
            file["entry/instrument/detector/data"] = h5py.SoftLink(target)
        with pytest.raises(UnreadableScan):
            probe(path)


def test_two_scans_in_a_file_are_refused(tmp_path: Path) -> None:
    path = write_nxtomo(tmp_path / "scan")
    with h5py.File(path, "a") as file:
        file.copy("entry", "entry2")
    with pytest.raises(UnreadableScan, match="2 scans"):
        probe(path)


def test_a_file_that_ends_early_is_refused(write: Write) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ReconstructionError):
        probe(path)

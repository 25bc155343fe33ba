"""MRD (ISMRMRD) files come out as the phantom that they were made of, whatever a scanner does in them."""

import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.data.tiny_scans import fft
from tests.support import mrd_maker
from tests.support.mrd_maker import Frames, Made, Plan
from udig_recon.core.acquisition import MRIAcquisition, ScanHeader
from udig_recon.core.errors import ReconstructionError, UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import Prober, probe, read
from udig_recon.core.formats.containers.hdf5_library import h5py
from udig_recon.core.formats.containers.scan_file import open_scan_file
from udig_recon.core.formats.inputs.mrd import FORMAT
from udig_recon.core.formats.readouts.noise import prewhitening
from udig_recon.core.formats.readouts.selection import select
from udig_recon.core.formats.sandbox.local import open_scan
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.problem import slice_problem

GENERATOR = "ismrmrd_generate_cartesian_shepp_logan"
EVERYTHING = Plan(
    Frames(slices=5, contrasts=2),
    averages=2,
    first_row=8,
    left_out=16,
    reversed_lines=True,
    discard=(3, 5),
    rubbish=True,
    interleaved=True,
    oblique=True,
    noise=0.02,
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    """A file with all that a scanner does, and its truth."""
    made = mrd_maker.make(EVERYTHING)
    return made, mrd_maker.write(tmp_path_factory.mktemp("mrd") / "scan.h5", made)


def scan(path: Path, plan: Plan, **changes: Any) -> tuple[Made, ScanHeader, MRIAcquisition]:
    made = replace(mrd_maker.make(plan), **changes)
    mrd_maker.write(path, made)
    acquisition = read(path)
    assert isinstance(acquisition, MRIAcquisition)
    return made, probe(path), acquisition


def whitening_of(path: Path) -> np.ndarray:
    with open_scan_file(path) as file, FORMAT.open(file) as contents:
        readouts = contents.reader.readouts  # type: ignore[union-attr]
        return np.asarray(prewhitening(readouts, select(readouts)).matrix)


def differences(made: Made, acquisition: MRIAcquisition, matrix: np.ndarray | None = None) -> np.ndarray:
    """Measured samples less the truth's (coils, n), whitened."""
    truth = made.kspace if matrix is None else np.einsum("cd,fdyx->fcyx", matrix, made.kspace)
    measured = np.concatenate(
        [(acquisition.kspace - truth)[index][:, mask] for index, mask in enumerate(made.masks)], axis=1
    )
    return np.asarray(measured)


def test_all_at_once_leaves_what_noise_explains(everything: tuple[Made, Path]) -> None:
    made, path = everything
    acquisition = read(path)
    assert isinstance(acquisition, MRIAcquisition)
    assert all((acquisition.mask_of(index) == mask).all() for index, mask in enumerate(made.masks))
    left = differences(made, acquisition, whitening_of(path))
    # Two averages halve the variance.
    assert np.sqrt((np.abs(left) ** 2).mean()) == pytest.approx(np.sqrt(0.5), rel=0.02)
    covariance = left @ left.conj().T / left.shape[1]
    assert np.diag(covariance).real == pytest.approx(0.5, rel=0.03)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.02


def test_all_at_once_tells_where_each_image_belongs(everything: tuple[Made, Path]) -> None:
    made, path = everything
    header = probe(path)
    assert [(frame.contrast, frame.slice) for frame in header.frames] == [(c, s) for c in range(2) for s in range(5)]
    assert np.asarray(header.affine) == pytest.approx(made.affine, abs=0.01)
    assert (header.pixel_spacing_mm, header.slice_spacing_mm) == ((2.0, 1.5), 6.0)
    assert (header.averages, header.prewhitened, header.trajectory) == (2, True, "cartesian")
    assert header.matrix == (40, 32)
    assert any("noise readouts" in done for done in header.corrections)
    assert any("reversed" in done for done in header.corrections)
    assert any("2 of navigation" in done for done in header.corrections)


def test_the_sandbox_prepares_it_as_it_is_read(everything: tuple[Made, Path]) -> None:
    _, path = everything
    with open_scan(path) as prepared:
        assert prepared.header == probe(path)
        for index in (0, 7):
            one, same = read(path, [index]), prepared.read([index])
            assert isinstance(one, MRIAcquisition)
            assert isinstance(same, MRIAcquisition)
            assert np.array_equal(one.kspace, same.kspace)
            assert np.array_equal(one.mask, same.mask)


PLANS = {
    "nothing special": Plan(),
    "no oversampling": Plan(oversampling=1),
    "averages": Plan(averages=3),
    "partial Fourier": Plan(first_row=10),
    "steps counted from 0 where rows are left out": Plan(first_row=10, center=10),
    "asymmetric echoes": Plan(left_out=20),
    "asymmetric echoes without oversampling": Plan(left_out=10, oversampling=1),
    "reversed readouts": Plan(reversed_lines=True),
    "reversed asymmetric echoes": Plan(reversed_lines=True, left_out=20),
    "samples to discard": Plan(discard=(7, 2)),
    "samples to discard of reversed readouts": Plan(discard=(7, 2), reversed_lines=True),
    "readouts of no image": Plan(rubbish=True),
    "interleaved slices": Plan(Frames(slices=5), interleaved=True),
    "phases, repetitions and sets": Plan(Frames(phases=2, repetitions=2, sets=2)),
    "phase oversampling": Plan(rows=56, image_rows=40),
    "odd sizes": Plan(rows=41, image_rows=33, columns=31),
    "embedded calibration": Plan(acceleration=2, calibration="embedded"),
    "oblique": Plan(Frames(slices=3), oblique=True),
    "left-handed": Plan(Frames(slices=3), oblique=True, left_handed=True),
    "no limits": Plan(limits=False),
    "a centre that cannot be": Plan(told_center=0),
    "repetitions that share their rows": Plan(Frames(repetitions=4), acceleration=2, shifted=True),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_alone_is_exact(plan: Plan, tmp_path: Path) -> None:
    made, header, acquisition = scan(tmp_path / "scan.h5", plan)
    assert all((acquisition.mask_of(index) == mask).all() for index, mask in enumerate(made.masks))
    assert np.abs(differences(made, acquisition)).max() < 1e-5 * np.abs(made.kspace).max()
    assert np.asarray(header.affine) == pytest.approx(made.affine, abs=0.01)
    assert header.matrix == made.images.shape[1:]
    assert (header.averages, header.prewhitened) == (plan.averages, False)


def test_the_image_lies_where_its_affine_says(tmp_path: Path) -> None:
    """A point at the readouts' position is at the pixel that the affine sends there, also where sides are odd."""
    plan = Plan(rows=41, image_rows=33, columns=31, oblique=True, coils=1)
    made = mrd_maker.make(plan)
    at_position = np.zeros((plan.rows, plan.encoded_columns), complex)
    at_position[plan.rows // 2, plan.encoded_columns // 2] = 100
    for line in made.lines:
        line.data[:] = fft(at_position)[line.idx.kspace_encode_step_1]
    path = mrd_maker.write(tmp_path / "scan.h5", made)
    image = slice_problem(read(path), 0, torch.device("cpu")).direct_image
    row, column = np.unravel_index(int(image.argmax()), image.shape)
    assert np.asarray(probe(path).affine)[:3] @ [column, row, 0, 1] == pytest.approx([12.5, -31.25, 47.0], abs=0.01)


@pytest.mark.parametrize("bandwidth", [None, 0.8])
def test_noise_of_another_dwell_and_bandwidth_is_scaled_to_the_image(bandwidth: float | None, tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    made, header, acquisition = scan(path, Plan(noise=0.05, bandwidth=bandwidth, noise_readouts=400))
    assert header.prewhitened
    matrix = whitening_of(path)
    assert matrix @ made.covariance @ matrix.conj().T == pytest.approx(np.eye(4), abs=0.02)
    left = differences(made, acquisition, matrix)
    assert np.sqrt((np.abs(left) ** 2).mean()) == pytest.approx(1, rel=0.02)
    assert np.array_equal(acquisition.noise_covariance, np.eye(4))


def test_noise_of_unknown_dwell_is_not_scaled_and_said(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(noise=0.05))
    for line in made.lines:
        line.sample_time_us = 0
    header = probe(mrd_maker.write(tmp_path / "scan.h5", made))
    assert header.prewhitened
    assert any("sampling time" in warning for warning in header.warnings)


@pytest.mark.parametrize("spoil", ["silent", "few", "other coils", "an object", "NaN"])
def test_noise_that_is_of_no_use_is_left_out_and_said(spoil: str, tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(noise=0.05, noise_readouts=1 if spoil in ("few", "other coils") else 8))
    noise = [line for line in made.lines if line.is_flag_set(mrd_maker.NOISE)]
    for line in noise:
        if spoil == "silent":
            line.data[1] = 0
        elif spoil in ("few", "other coils"):
            line.resize(10 if spoil == "few" else 256, 4 if spoil == "few" else 2)
            line.data[:] = 1
        elif spoil == "an object":
            line.data[:, 128] += 50
        else:
            line.data[0, 0] = np.nan
    header = probe(mrd_maker.write(tmp_path / "scan.h5", made))
    assert not header.prewhitened
    assert any("noise measurement" in warning for warning in header.warnings)


@pytest.mark.parametrize("repetitions", [1, 3])
def test_a_separate_calibration_gives_coil_maps_alone(repetitions: int, tmp_path: Path) -> None:
    plan = Plan(Frames(slices=2, repetitions=repetitions), acceleration=3, calibration="separate", calibration_width=20)
    made, header, acquisition = scan(tmp_path / "scan.h5", plan)
    # It is of another contrast, three times as bright.
    assert np.abs(differences(made, acquisition)).max() < 1e-5 * np.abs(made.kspace).max()
    assert header.acceleration == pytest.approx(40 / made.masks[0].any(1).sum(), abs=1e-3)
    assert acquisition.calibration is not None
    assert acquisition.calibration.shape == (2 * repetitions, 4, 20, 32)
    middle = 3 * made.kspace[:2, :, 10:30]
    assert acquisition.calibration[:2] == pytest.approx(middle, abs=1e-4)
    maps = slice_problem(acquisition, 2 * repetitions - 1, torch.device("cpu")).operator.maps  # type: ignore[attr-defined]
    bright = np.abs(made.images[0]) > 0.5
    likeness = np.abs((maps.numpy().conj() * made.maps).sum(0))[bright]
    assert np.median(likeness) > 0.99


def test_frames_without_a_calibration_region_have_maps_of_all_frames_of_their_slice(tmp_path: Path) -> None:
    plan = Plan(Frames(slices=2, repetitions=4), acceleration=2, shifted=True)
    _, header, acquisition = scan(tmp_path / "scan.h5", plan)
    assert acquisition.calibration is not None
    assert acquisition.calibration.shape[0] == 8
    assert any("of all frames of their slice" in done for done in header.corrections)


def test_a_scan_without_any_calibration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedScan, match="1 x 32 samples"):
        scan(tmp_path / "scan.h5", Plan(acceleration=2))


def test_places_measured_more_often_than_others_are_told(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(averages=2))
    header = probe(mrd_maker.write(tmp_path / "scan.h5", replace(made, lines=made.lines[:-5])))
    assert header.averages == 2
    assert any("more often" in warning for warning in header.warnings)


def test_readouts_of_nothing_but_zeros_were_not_measured(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan())
    for line in made.lines[:6]:
        line.data[:] = 0
    path = mrd_maker.write(tmp_path / "scan.h5", made)
    acquisition = read(path)
    assert isinstance(acquisition, MRIAcquisition)
    assert acquisition.mask.any(1).sum() == 34


def test_slices_without_positions_keep_the_order_of_their_numbers(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(Frames(slices=3)))
    for line in made.lines:
        line.position[:] = (0, 0, 0)
    header = probe(mrd_maker.write(tmp_path / "scan.h5", made))
    assert header.affine is None
    assert any("order of their numbers" in warning for warning in header.warnings)


def test_slices_of_several_directions_have_no_affine(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(Frames(slices=3)))
    for line in made.lines:
        if line.idx.slice == 1:
            line.read_dir[:], line.slice_dir[:] = (0, 0, 1), (-1, 0, 0)
    header = probe(mrd_maker.write(tmp_path / "scan.h5", made))
    assert header.affine is None
    assert any("different directions" in warning for warning in header.warnings)


def test_without_directions_there_is_no_affine(tmp_path: Path) -> None:
    _, header, _ = scan(tmp_path / "scan.h5", Plan(directions=False))
    assert header.affine is None
    assert any("how the patient lay" in warning for warning in header.warnings)


def test_signal_that_the_header_has_removed_is_told(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan())
    half = made.xml.replace("<x>32</x>", "<x>16</x>").replace("<x>48.0</x>", "<x>24.0</x>")
    header = probe(mrd_maker.write(tmp_path / "scan.h5", replace(made, xml=half)))
    assert header.matrix == (40, 16)
    assert any("of the signal lies in the columns" in warning for warning in header.warnings)


def test_readouts_longer_than_the_header_says_are_oversampled(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan())
    told = made.xml.replace("<x>64</x>", "<x>32</x>").replace("<x>96.0</x>", "<x>48.0</x>")
    path = mrd_maker.write(tmp_path / "scan.h5", replace(made, xml=told))
    acquisition = read(path)
    assert isinstance(acquisition, MRIAcquisition)
    assert np.abs(differences(made, acquisition)).max() < 1e-5 * np.abs(made.kspace).max()
    assert any("taken for oversampled" in warning for warning in probe(path).warnings)


def test_a_field_of_view_that_contradicts_the_matrix_is_not_believed(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(oversampling=1))
    told = made.xml.replace("<x>48.0</x>", "<x>96.0</x>", 1)
    path = mrd_maker.write(tmp_path / "scan.h5", replace(made, xml=told))
    header = probe(path)
    assert (header.matrix, header.pixel_spacing_mm) == ((40, 32), (2.0, 1.5))
    assert any("too large" in warning for warning in header.warnings)


def test_of_several_measurements_the_last_with_an_image_is_read_with_the_noise_before_it(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(noise=0.02))
    other = mrd_maker.make(Plan(rows=48, image_rows=48))
    noise, image = mrd_maker.only_noise(made), mrd_maker.without_noise(made)
    path = mrd_maker.write(tmp_path / "scan.h5", noise, other, image)
    header = probe(path)
    assert (header.matrix, header.prewhitened) == ((40, 32), True)
    assert any("3 measurements" in warning for warning in header.warnings)
    last = mrd_maker.write(tmp_path / "last.h5", other, image, noise)
    assert probe(last).matrix == (40, 32)
    assert not probe(last).prewhitened


def test_waveforms_and_images_beside_are_ignored(everything: tuple[Made, Path], tmp_path: Path) -> None:
    _, path = everything
    shutil.copy(path, tmp_path / "scan.h5")
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        file["dataset/image_0/data"] = np.ones((1, 8, 8))
        file["dataset/image_0/header"] = np.zeros(1)
        file["dataset/waveforms"] = np.zeros(3)
        file["notes/of the day"] = np.zeros(3)
    assert probe(tmp_path / "scan.h5") == probe(path)


def test_epi_is_refused_by_that_word(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedScan, match=r"EPI \(echo planar"):
        scan(tmp_path / "a.h5", Plan(trajectory="epi"))
    made = mrd_maker.make(Plan(reversed_lines=True))
    made.lines[0].setFlag(24)
    with pytest.raises(UnsupportedScan, match=r"EPI.*phase correction readouts beside reversed"):
        probe(mrd_maker.write(tmp_path / "b.h5", made))


def test_version_2_is_named_with_its_converter(tmp_path: Path) -> None:
    (tmp_path / "scan.mrd").write_bytes(b"yardl\x01\x00\x00\x00" + bytes(99))
    with pytest.raises(UnknownFormat, match=r"MRD file of version 2.*mrd_to_ismrmrd"):
        probe(tmp_path / "scan.mrd")


def test_one_process_reads_closes_and_reads_again(everything: tuple[Made, Path], tmp_path: Path) -> None:
    """HDF5 has crashed over lengths that vary where another handle of the same file was closed before."""
    _, path = everything
    other = mrd_maker.write(tmp_path / "other.h5", mrd_maker.make(Plan()))
    first = read(path, [3])
    assert isinstance(first, MRIAcquisition)
    for _ in range(20):
        again = read(path, [3])
        read(other)
        assert isinstance(again, MRIAcquisition)
        assert np.array_equal(again.kspace, first.kspace)


@pytest.mark.skipif(shutil.which(GENERATOR) is None, reason="ismrmrd-tools are not installed")
@pytest.mark.parametrize(
    ("options", "frames"),
    [("-c 4 -k", 1), ("-c 4 -r 3 -C", 3), ("-c 8 -a 2 -r 2 -w 24 -C -k", 4), ("-c 8 -a 4 -w 24", 4)],
)
def test_debians_generator_gives_its_phantom(options: str, frames: int, tmp_path: Path) -> None:
    """Its header is right for an oversampling of 2 alone."""
    path = tmp_path / "scan.h5"
    command = [GENERATOR, "-m", "64", "-n", "0.0001", "-O", "2", "-o", str(path)]
    subprocess.run([*command, *options.split()], check=True, capture_output=True)
    with h5py.File(path) as file:
        truth = file["dataset/phantom"][0]
        truth = np.hypot(truth["real"], truth["imag"])
    header = probe(path)
    assert (header.matrix, header.slices, header.prewhitened) == ((64, 64), frames, "-C" in options)
    problem = slice_problem(read(path, [frames - 1]), 0, torch.device("cpu"))
    rhs = problem.operator.adjoint(problem.measurements)
    found = problem.magnitude(conjugate_gradient(problem.operator.normal, rhs, torch.zeros_like(rhs), 60))
    found *= (found * truth).sum() / np.square(found).sum()
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < 0.12


def test_a_file_of_streamed_messages_is_read_as_hdf5_is(tmp_path: Path) -> None:
    made = mrd_maker.make(replace(EVERYTHING, frames=Frames(slices=2)))
    streamed = mrd_maker.write_stream(tmp_path / "scan.mrd", made)
    plain = mrd_maker.write(tmp_path / "scan.h5", made)
    assert probe(streamed) == probe(plain)
    one, other = read(streamed), read(plain)
    assert isinstance(one, MRIAcquisition)
    assert isinstance(other, MRIAcquisition)
    assert np.array_equal(one.kspace, other.kspace)
    with open_scan(streamed) as prepared:
        assert prepared.header == probe(plain)


def test_a_stream_may_hold_several_measurements_and_other_messages(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(noise=0.02))
    path = mrd_maker.write_stream(
        tmp_path / "scan.mrd", mrd_maker.only_noise(made), mrd_maker.without_noise(made), close=False
    )
    messages = path.read_bytes()
    waveform = b"\x02\x04" + bytes(28) + b"\x03\x00\x02\x00" + bytes(8) + bytes(4 * 3 * 2)
    text = b"\x05\x00\x03\x00\x00\x00now"
    image = b"\xfe\x03" + (
        b"\x01\x00\x05\x00" + bytes(12) + b"\x02\x00\x02\x00\x01\x00" + bytes(12) + b"\x01\x00"
    ).ljust(198, b"\0")
    image += (4).to_bytes(8, "little") + b"meta" + bytes(16)
    path.write_bytes(b"\x01\x00" + bytes(1024) + messages + waveform + text + image)
    header = probe(path)
    assert header.prewhitened
    assert any("not closed" in warning for warning in header.warnings)


@pytest.mark.parametrize(
    ("lie", "word"),
    [
        ("cut in a readout", "ends with the file"),
        ("an unknown message", "a message of kind 77"),
        ("a header of gigabytes", "a text of"),
        ("coils", "coils"),
        ("no readouts", "no readouts"),
    ],
)
def test_streams_that_lie_are_refused(lie: str, word: str, tmp_path: Path) -> None:
    path = mrd_maker.write_stream(tmp_path / "scan.mrd", mrd_maker.make(Plan()))
    content = path.read_bytes()
    first = content.index(b"</ismrmrdHeader>") + len(b"</ismrmrdHeader>")
    first += content[first:].index(b"\xf0\x03")
    match lie:
        case "cut in a readout":
            content = content[:-1000]
        case "an unknown message":
            content = content[:first] + (77).to_bytes(2, "little") + content[first:]
        case "a header of gigabytes":
            content = content[:first] + b"\x05\x00\xff\xff\xff\xff" + content[first:]
        case "coils":
            content = content[: first + 2 + 38] + b"\xff\xff" + content[first + 2 + 40 :]
        case "no readouts":
            content = content[:first] + b"\x04\x00"
    path.write_bytes(content)
    with pytest.raises(UnreadableScan, match=word):
        probe(path)


LIES = {
    "a length of data in its row": "numbers in data of readout",
    "samples in a head": "numbers in data of readout",
    "coils in a head": "coils",
    "more samples to discard than there are": "to discard",
    "an encoding that is not there": "encodings",
    "no header": "XML text",
    "a header without encoding": "encodings",
    "broken XML": "^xml: found broken XML",
    "a matrix of 0": "^xml: found an encoded matrix",
    "a matrix of millions": "matrix",
    "too many readouts": "250000",
    "NaN": "NaN",
    "infinity": "NaN or infinity",
    "data of doubles": "float32",
    "a head that is a number": "head",
    "only noise": "readouts of an image",
    "every readout outside": "no readout inside",
    "zeros": "zeros",
    "links out of the file": "external link",
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie_are_refused_with_what_is_wrong(lie: str, tmp_path: Path) -> None:
    path = mrd_maker.write(tmp_path / "scan.h5", _lying_lines(lie))
    with h5py.File(path, "a") as file:
        _lie(file, lie)
    with pytest.raises(ReconstructionError, match=LIES[lie]) as error:
        probe(path)
    assert isinstance(error.value, UnreadableScan | UnsupportedScan)


def _lying_lines(lie: str) -> Made:
    made = mrd_maker.make(Plan(noise=0.02, noise_readouts=2))
    for line in made.lines:
        match lie:
            case "an encoding that is not there":
                line.encoding_space_ref = 3
            case "more samples to discard than there are":
                line.discard_pre = 60
                line.discard_post = 4
            case "every readout outside":
                line.idx.kspace_encode_step_1 = 5000
            case "zeros":
                line.data[:] = 0
            case "NaN":
                line.data[0, 1] = np.nan
            case "infinity":
                line.data[0, 1] = np.inf
    return mrd_maker.only_noise(made) if lie == "only noise" else made


def _lie(file: Any, lie: str) -> None:
    rows, xml = file["dataset/data"], file["dataset/xml"][0]
    xml = xml.decode() if isinstance(xml, bytes) else xml
    match lie:
        case "samples in a head" | "coils in a head":
            row = rows[7]
            row["head"]["number_of_samples" if "samples" in lie else "active_channels"] = 60000
            rows[7] = row
        case "a length of data in its row":
            chunk = bytearray(rows.id.read_direct_chunk((0,))[1])
            chunk[356:360] = (2**31).to_bytes(4, "little")
            rows.id.write_direct_chunk((0,), bytes(chunk))
        case "no header":
            _replace(file, "xml", np.zeros(3))
        case "a header without encoding":
            _replace(file, "xml", "<ismrmrdHeader/>")
        case "broken XML":
            _replace(file, "xml", xml[: len(xml) // 2])
        case "a matrix of 0":
            _replace(file, "xml", xml.replace("<x>64</x>", "<x>0</x>"))
        case "a matrix of millions":
            _replace(file, "xml", xml.replace("<y>40</y>", "<y>900000</y>"))
        case "too many readouts":
            rows.resize((250_001,))
        case "data of doubles":
            kind = np.dtype([("head", rows.dtype["head"]), ("data", h5py.vlen_dtype(np.float64))])
            del file["dataset/data"]
            file.create_dataset("dataset/data", (3,), kind, chunks=(1,))
        case "a head that is a number":
            kind = np.dtype([("head", "<u2"), ("data", h5py.vlen_dtype(np.float32))])
            del file["dataset/data"]
            file.create_dataset("dataset/data", (3,), kind, chunks=(1,))
        case "links out of the file":
            file["dataset/more"] = h5py.ExternalLink("/etc/passwd", "x")


def _replace(file: Any, name: str, value: Any) -> None:
    del file[f"dataset/{name}"]
    if isinstance(value, str):
        file.create_dataset(f"dataset/{name}", data=np.array([value], object), dtype=h5py.string_dtype())
    else:
        file[f"dataset/{name}"] = value


def test_rows_that_share_their_bytes_are_no_bomb(tmp_path: Path) -> None:
    """Many rows may point to one object of the heap: a small file would be read as many gigabytes."""
    made = mrd_maker.make(Plan())
    path = mrd_maker.write(tmp_path / "scan.h5", made)
    with h5py.File(path, "a") as file:
        rows = file["dataset/data"]
        rows.resize((200_000,))
        whole = rows.id.read_direct_chunk((0,))[1]
        for first in range(0, 200_000, rows.chunks[0]):
            rows.id.write_direct_chunk((first,), whole)
    with pytest.raises(UnreadableScan, match="in a file of"):
        probe(path)


def test_few_readouts_that_declare_a_large_matrix_are_no_bomb(tmp_path: Path) -> None:
    made = mrd_maker.make(Plan(Frames(repetitions=100)))
    lines = [line for line in made.lines if line.idx.kspace_encode_step_1 == 20]
    told = made.xml.replace("<y>40</y>", "<y>1024</y>")
    path = mrd_maker.write(tmp_path / "scan.h5", replace(made, lines=lines, xml=told))
    with pytest.raises(UnreadableScan, match="of which 204800 were measured"):
        probe(path)


def test_more_than_64_coils_are_compressed(tmp_path: Path) -> None:
    _, header, acquisition = scan(tmp_path / "scan.h5", Plan(coils=70))
    assert (header.coils, acquisition.kspace.shape[1]) == (64, 64)
    assert any("70 coils were compressed to 64" in done for done in header.corrections)


def test_packed_rows_are_read_and_bombs_among_them_refused(tmp_path: Path) -> None:
    path = mrd_maker.write(tmp_path / "scan.h5", mrd_maker.make(Plan()))
    with h5py.File(path, "a") as file:
        rows, heads = file["dataset/data"][:], file["dataset/data"].dtype
        del file["dataset/data"]
        file.create_dataset(
            "dataset/data", data=rows, dtype=heads, chunks=(16,), maxshape=(None,), compression="gzip", shuffle=True
        )
    assert probe(path).matrix == (40, 32)
    with h5py.File(path, "a") as file:
        del file["dataset/data"]
        file.create_dataset("dataset/data", data=rows, dtype=heads, chunks=(16,), compression="lzf")
    with pytest.raises(UnreadableScan, match="lzf"):
        probe(path)
    for content in (bytes(100), bytes(10 << 20)):
        with h5py.File(path, "a") as file:
            del file["dataset/data"]
            packed = file.create_dataset("dataset/data", data=rows, dtype=heads, chunks=(16,), compression="gzip")
            packed.id.write_direct_chunk((16,), zlib.compress(content))
        with pytest.raises(UnreadableScan, match=r"for a chunk|a chunk of"):
            probe(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_which_a_part_is_zeros_is_read_or_refused_at_once(packed: bool, tmp_path: Path) -> None:
    """HDF5 never comes back from a global heap with an object of 0 bytes, to which a row of variable length points."""
    plan = Plan(noise=0.01, noise_readouts=2, coils=2, rows=16, image_rows=16, columns=16)
    path = mrd_maker.write(tmp_path / "scan.h5", mrd_maker.make(plan))
    if packed:
        with h5py.File(path, "r") as file, h5py.File(tmp_path / "packed.h5", "w") as other:
            rows, kind = file["dataset/data"][:], file["dataset/data"].dtype
            file.copy("dataset/xml", other.create_group("dataset"))
            other.create_dataset("dataset/data", data=rows, dtype=kind, chunks=(4,), compression="gzip", shuffle=True)
        path = tmp_path / "packed.h5"
    good, found = path.read_bytes(), []
    prober = Prober()
    for start in range(0, len(good), 577):
        path.write_bytes(good[:start] + bytes(len(good[start : start + 300])) + good[start + 300 :])
        try:
            prober.probe(path)
        except ReconstructionError as error:
            found.append(str(error))
    prober.close()
    assert not [message for message in found if "took longer" in message]
    assert any("in the global heap" in message for message in found)

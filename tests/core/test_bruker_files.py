"""Bruker scans come out as the k-space that they were made of; lies in them are refused."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.bruker_maker import Plan, files, lines, truth, write_bruker
from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.errors import ReconstructionError, UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.inputs.bruker import parse_parameters
from udig_recon.core.formats.sandbox.local import open_scan

PLANS = {
    "one slice": Plan(),
    "interleaved slices": Plan(slices=5),
    "echoes and repetitions": Plan(slices=2, echoes=3, repetitions=2),
    "receivers": Plan(receivers=4),
    "RARE": Plan(factor=4, slices=3),
    "no padding": Plan(padded=False, receivers=2, slices=2),
    "big endian": Plan(big_endian=True),
    "16 bit": Plan(number="GO_16BIT_SGN_INT"),
    "floats": Plan(number="GO_32BIT_FLOAT"),
    "partial echo": Plan(left_out=6),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scan.zip"


def kspace_of(path: Path) -> MRIAcquisition:
    found = read(path)
    assert isinstance(found, MRIAcquisition)
    return found


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_way_to_measure_is_exact(plan: Plan, path: Path) -> None:
    write_bruker(path, plan)
    header = probe(path)
    expected = truth(plan)[..., 0, :, :].transpose(2, 0, 1, 3, 4, 5).reshape(-1, plan.receivers, 32, 24)
    np.testing.assert_array_equal(kspace_of(path).kspace, expected)
    assert (header.format, header.coils, header.trajectory) == ("bruker", plan.receivers, "cartesian")
    assert (header.pixel_spacing_mm, header.slice_spacing_mm) == ((0.5, 0.5), 2.5)
    assert len(header.frames) == (len(expected) if plan.echoes > 1 else 0)
    if plan.echoes > 1:
        keys = [(frame.contrast, frame.repetition, frame.slice) for frame in header.frames]
        assert keys == [(e, r, s) for e in range(3) for r in range(2) for s in range(2)]


def test_lines_that_were_left_out_are_not_measured(path: Path) -> None:
    plan = Plan(accelerated=True, receivers=2)
    write_bruker(path, plan)
    scan = kspace_of(path)
    measured = np.zeros(32, bool)
    measured[lines(plan)] = True
    np.testing.assert_array_equal(scan.mask.all(axis=1), measured)
    np.testing.assert_array_equal(
        scan.kspace[0][:, measured], truth(replace(plan, accelerated=False))[0, 0, 0, :, 0][:, measured]
    )


def test_oversampling_of_the_readout_is_removed(path: Path) -> None:
    write_bruker(path, Plan(oversampling=1.5))
    header = probe(path)
    assert (header.matrix, header.pixel_spacing_mm) == ((32, 16), (0.5, 0.5))
    assert any("oversampling was removed" in correction for correction in header.corrections)


def test_3d_scan_is_a_stack_along_its_readout(path: Path) -> None:
    plan = Plan(partitions=12, receivers=2)
    write_bruker(path, plan)
    header = probe(path)
    assert (header.slices, sorted(header.matrix)) == (24, [12, 32])
    kspace = truth(plan)[0, 0, 0]
    hybrid = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, 3), axis=3, norm="ortho"), 3)
    found = kspace_of(path).kspace
    expected = hybrid.transpose(3, 0, 1, 2)
    if found.shape != expected.shape:
        expected = expected.swapaxes(2, 3)
    scale = np.abs(found).max() / np.abs(expected).max()
    np.testing.assert_allclose(found, expected * scale, atol=1e-4 * np.abs(found).max())


def test_the_sandbox_reads_it_and_no_name_in_it_leaves(path: Path) -> None:
    write_bruker(path, Plan(slices=3))
    with open_scan(path) as scan:
        assert scan.header == probe(path)
        assert "doe" not in str(scan.header)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("scan/8/acqp", b"##END=")
    assert probe(path).slices == 3


def test_other_sequences_and_versions_are_refused_by_name(path: Path) -> None:
    for method, word in (("<Bruker:EPI>", "EPI"), ("<Bruker:UTE3D>", "UTE"), ("<User:spiral_x>", "spiral")):
        write_bruker(path, Plan(told={"Method": method}))
        with pytest.raises(UnsupportedScan, match=word):
            probe(path)
    write_bruker(path, Plan(told={"ACQ_dim_desc": "( 2 )\nSpectroscopic Spatial"}))
    with pytest.raises(UnsupportedScan, match="not a spectrum"):
        probe(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("acqp", files(Plan())["acqp"])
        archive.writestr("rawdata.job0", files(Plan())["fid"])
    with pytest.raises(UnknownFormat, match="ParaVision 360"):
        probe(path)
    path.write_bytes(files(Plan())["acqp"])
    with pytest.raises(UnknownFormat, match="zip of the scan's folder"):
        probe(path)


LIES = {
    "ACQ_size: found 1 numbers": {"ACQ_size": "( 1 )\n48"},
    "ACQ_size: found 47 numbers in a readout": {"ACQ_size": "( 2 )\n47 32"},
    "ACQ_size: found values that are no numbers": {"ACQ_size": "( 2 )\nmany 32"},
    "ACQ_size: found 2 numbers, expected": {"ACQ_size": "( 2 )\n48 -32"},
    "fid: found 32768 bytes, expected 33792 bytes": {"ACQ_size": "( 2 )\n48 33"},
    "fid: found 32768 bytes, expected 65536 bytes: 64 readouts": {"NR": 2},
    "NI: found 0, expected a whole number": {"NI": 0},
    "NR: found 1e.09, expected a whole number": {"NR": 1e9},
    "readouts, expected at most 1000000": {"NR": 60000},
    "ACQ_phase_factor: found 5 for 32 lines": {"ACQ_phase_factor": 5},
    "GO_raw_data_format: found another format": {"GO_raw_data_format": "GO_8BIT"},
    "PVM_EncSteps1: found 0 numbers, expected 32": {"PVM_EncSteps1": None, "ACQ_phase_factor": 4},
    "PVM_EncSteps1: found steps that are no small": {"PVM_EncSteps1": "( 32 )\n@32*(99999)"},
    "more than 65536 values of PVM_EncSteps1": {"PVM_EncSteps1": "( 32 )\n@999999*(0)"},
    "PVM_Fov: found values that are no numbers": {"PVM_Fov": "( 2 )\nnan 3"},
    r"objects \(NI\) of 3 slices and 1 echoes": {"NSLICES": 3},
}


@pytest.mark.parametrize("words", LIES)
def test_lie_is_refused_with_what_was_found(words: str, path: Path) -> None:
    write_bruker(path, Plan(told=LIES[words]))
    with pytest.raises(ReconstructionError, match=words):
        probe(path)


def test_steps_beyond_the_matrix_enlarge_it_and_missing_ones_are_taken_in_order(path: Path) -> None:
    write_bruker(path, Plan(told={"PVM_Matrix": "( 2 )\n24 16"}))
    assert probe(path).kspace_matrix == (32, 24)
    write_bruker(path, Plan(told={"PVM_EncSteps1": None, "PVM_Matrix": None, "PVM_Fov": None}))
    assert probe(path).pixel_spacing_mm == (1.0, 1.0)
    np.testing.assert_array_equal(kspace_of(path).kspace[0], truth(Plan())[0, 0, 0, :, 0])


def test_archives_of_no_or_several_scans_and_damaged_ones_are_refused(path: Path) -> None:
    write_bruker(path, Plan())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("scan/8/fid", b"more")
    with pytest.raises(UnreadableScan, match="2 files named fid"):
        probe(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/fid", b"raw")
        archive.writestr("b/acqp", b"##END=")
    with pytest.raises(UnreadableScan, match="acqp: found none beside fid"):
        probe(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files(Plan()).items():
            archive.writestr(name, content)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableScan, match="another checksum"):
        probe(path)
    write_bruker(path, Plan(), acqp=bytes(9 << 20))
    with pytest.raises(UnreadableScan, match="a text of"):
        probe(path)


def test_parameters_are_words_numbers_texts_and_repeated_values() -> None:
    text = "##TITLE=x\n##$A=( 2, 2 )\n1 2 @2*(3.5)\n##$B=<a b>\n$$ comment\n##$C=(1, <x>, 2)\n##OTHER=3\n##$D=Yes\n"
    found = parse_parameters("acqp", text)
    assert found == {"A": ("1", "2", "3.5", "3.5"), "B": ("<a b>",), "C": ("(", "1", "<x>", "2", ")"), "D": ("Yes",)}

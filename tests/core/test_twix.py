"""Siemens twix files come out as the phantom that they were made of; lies in them are refused."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import twixtools

from tests.support import mrd_maker
from tests.support.mrd_maker import Frames, Made, Plan
from tests.support.twix_maker import FIRST, header, measurement, with_directory, write_twix
from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.errors import ReconstructionError, UnknownFormat, UnreadableScan, UnsupportedScan
from udig_recon.core.formats import probe, read
from udig_recon.core.formats.containers.scan_file import open_scan_file
from udig_recon.core.formats.inputs.twix import FORMAT, VB_HEADER, VD_HEADER
from udig_recon.core.formats.readouts.noise import prewhitening
from udig_recon.core.formats.readouts.selection import select
from udig_recon.core.formats.sandbox.local import open_scan

PLANS = {
    "nothing special": Plan(),
    "no oversampling": Plan(oversampling=1),
    "averages": Plan(averages=3),
    "partial Fourier": Plan(first_row=10, center=10),
    "asymmetric echoes": Plan(left_out=20),
    "reversed asymmetric echoes": Plan(reversed_lines=True, left_out=20),
    "samples to discard": Plan(discard=(7, 2)),
    "interleaved slices": Plan(Frames(slices=5), interleaved=True),
    "contrasts, phases, repetitions and sets": Plan(Frames(contrasts=2, phases=2, repetitions=2, sets=2)),
    "phase oversampling": Plan(rows=56, image_rows=40),
    "embedded calibration": Plan(acceleration=2, calibration="embedded"),
    "separate calibration": Plan(acceleration=2, calibration="separate", calibration_width=20),
    "oblique": Plan(Frames(slices=3), oblique=True),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meas.dat"


def made_of(plan: Plan) -> Made:
    """A measurement whose directions are what a quaternion can say: phase, readout, slice are right-handed."""
    return mrd_maker.make(replace(plan, left_handed=True, coils=3))


def acquisition_of(path: Path) -> MRIAcquisition:
    found = read(path)
    assert isinstance(found, MRIAcquisition)
    return found


@pytest.mark.parametrize("vb", [False, True], ids=["VD", "VB"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_each_that_a_scanner_does_alone_is_exact(plan: Plan, vb: bool, path: Path) -> None:
    made = made_of(plan)
    write_twix(path, made, vb=vb)
    header_, acquisition = probe(path), acquisition_of(path)
    assert all((acquisition.mask_of(index) == mask).all() for index, mask in enumerate(made.masks))
    for index, mask in enumerate(made.masks):
        difference = (acquisition.kspace - made.kspace)[index][:, mask]
        assert np.abs(difference).max() < 1e-5 * np.abs(made.kspace).max()
    assert np.asarray(header_.affine) == pytest.approx(made.affine, abs=0.01)
    assert (header_.format, header_.matrix, header_.averages) == ("twix", made.images.shape[1:], plan.averages)


def test_all_at_once_leaves_what_noise_explains(path: Path) -> None:
    plan = Plan(
        Frames(slices=3, contrasts=2),
        averages=2,
        first_row=8,
        left_out=16,
        discard=(3, 5),
        rubbish=True,
        interleaved=True,
        oblique=True,
        noise=0.02,
    )
    made = made_of(plan)
    # Navigators and coil corrections have no flag of their own in twix.
    made = replace(made, lines=[line for line in made.lines if not line.is_flag_set(23) and not line.is_flag_set(29)])
    adjustment = mrd_maker.only_noise(made)
    for measurements in ((made,), (adjustment, mrd_maker.without_noise(made))):
        write_twix(path, *measurements)
        header_, acquisition = probe(path), acquisition_of(path)
        assert (header_.prewhitened, header_.averages, len(header_.frames)) == (True, 2, 6)
        with open_scan_file(path) as file, FORMAT.open(file) as contents:
            readouts = contents.reader.readouts  # type: ignore[union-attr]
            matrix = prewhitening(readouts, select(readouts)).matrix
        truth = np.einsum("cd,fdyx->fcyx", np.asarray(matrix), made.kspace)
        left = np.concatenate([(acquisition.kspace - truth)[n][:, mask] for n, mask in enumerate(made.masks)], axis=1)
        assert np.sqrt((np.abs(left) ** 2).mean()) == pytest.approx(np.sqrt(0.5), rel=0.02)
        assert np.asarray(header_.affine) == pytest.approx(made.affine, abs=0.01)
    assert any("2 measurements" in warning for warning in header_.warnings)


def test_the_sandbox_reads_it_and_no_text_of_its_protocol_leaves(path: Path) -> None:
    write_twix(path, made_of(Plan()))
    with open_scan(path) as scan:
        assert scan.header == probe(path)
        np.testing.assert_array_equal(scan.read([0]).kspace, acquisition_of(path).kspace)
        assert "Doe" not in str(scan.header)


def test_lines_are_those_of_twixtools(path: Path) -> None:
    made = made_of(Plan(Frames(slices=2), reversed_lines=True))
    for vb in (False, True):
        write_twix(path, made, vb=vb)
        theirs = twixtools.read_twix(str(path), parse_pmu=False, parse_geometry=False, verbose=False)[-1]["mdb"]
        theirs = [each for each in theirs if not each.is_flag_set("SYNCDATA")]
        with open_scan_file(path) as file, FORMAT.open(file) as contents:
            ours = contents.reader.readouts  # type: ignore[union-attr]
            assert len(ours.lines) == len(theirs)
            for block in ours.blocks(np.arange(len(theirs))):
                for index, samples in zip(block.indices, block.samples, strict=True):
                    np.testing.assert_array_equal(samples, np.atleast_2d(theirs[index].data))
                    line = ours.lines[index]
                    assert line["kspace_encode_step_1"] == theirs[index].cLin
                    assert line["center_sample"] == theirs[index].mdh.CenterCol


def test_epi_and_other_trajectories_are_refused_by_name(path: Path) -> None:
    made = made_of(Plan(reversed_lines=True))
    write_twix(path, made, sFastImaging__lEPIFactor=40)
    with pytest.raises(UnsupportedScan, match="EPI"):
        probe(path)
    made = made_of(Plan())
    write_twix(path, made, sKSpace__ucTrajectory=2)
    with pytest.raises(ReconstructionError, match="without a trajectory"):
        probe(path)


def content_of(made: Made) -> bytearray:
    return bytearray(with_directory(measurement(made)))


def test_scan_that_was_broken_off_gives_what_was_measured(path: Path) -> None:
    made = made_of(Plan())
    content = content_of(made)
    struct.pack_into("<Q", content, 24, 0)  # its length was to be written at the end
    path.write_bytes(content[: len(content) * 9 // 10])
    assert 0.5 < 1 / (probe(path).acceleration or 1) < 1


def test_lies_are_refused_or_cost_nothing(path: Path) -> None:
    made = made_of(Plan())
    size = len(header(made.plan))
    first_line = FIRST + size
    cases: dict[str, tuple[int, bytes]] = {
        "a header of 4294967295 bytes": (FIRST, b"\xff" * 4),
        "a header of 4 bytes": (FIRST, struct.pack("<I", 4)),
        "no readouts of an image": (first_line + VD_HEADER.fields["flags"][1], b"\x01"),  # type: ignore[index]
        "a block of 0 bytes": (first_line, struct.pack("<I", 0)),
    }
    for words, (place, value) in cases.items():
        content = content_of(made)
        content[place : place + len(value)] = value
        if words.startswith("a block"):
            content[first_line + VD_HEADER.fields["flags"][1]] = 1 << 5  # type: ignore[index]
        path.write_bytes(content)
        with pytest.raises(UnreadableScan, match=words):
            probe(path)
    content = content_of(made)
    struct.pack_into("<HH", content, first_line + VD_HEADER.fields["samples"][1], 65535, 65535)  # type: ignore[index]
    path.write_bytes(content)
    with pytest.raises(UnreadableScan, match="no readouts of an image"):
        probe(path)
    content = content_of(made)
    struct.pack_into("<Q", content, 16, 1 << 60)
    path.write_bytes(content)
    with pytest.raises((UnknownFormat, UnreadableScan)):
        probe(path)
    write_twix(path, made, sKSpace__lBaseResolution=None)
    with pytest.raises(UnreadableScan, match="lBaseResolution"):
        probe(path)
    for value in (0, -5, 70000, "1e300", "nan", "0xffffffffffff"):
        write_twix(path, made, sKSpace__lPhaseEncodingLines=value)
        assert probe(path).matrix[1] == 32
    write_twix(path, made, sKSpace__lBaseResolution=60000)
    with pytest.raises((UnreadableScan, UnsupportedScan)):
        probe(path)


def test_values_and_directions_that_cannot_be_are_told(path: Path) -> None:
    content = content_of(made_of(Plan()))
    spoilt = bytearray(content)
    at = FIRST + len(header(Plan())) + VD_HEADER.itemsize + 40
    spoilt[at : at + 8] = np.full(2, np.nan, "<f4").tobytes()
    path.write_bytes(spoilt)
    with pytest.raises(UnreadableScan, match="NaN"):
        probe(path)
    for value in (0.0, np.nan):
        path.write_bytes(with_quaternions(content, value))
        assert probe(path).affine is None


def with_quaternions(content: bytearray, value: float) -> bytes:
    """The file with this value in place of each number of its readouts' quaternions."""
    changed = bytearray(content)
    offset = VD_HEADER.fields["quaternion"][1]  # type: ignore[index]
    place = FIRST + struct.unpack_from("<I", content, FIRST)[0]
    while True:
        head = np.frombuffer(bytes(content[place : place + VD_HEADER.itemsize]), VD_HEADER)[0]
        if head["flags"] & np.uint64(1):
            return bytes(changed)
        changed[place + offset : place + offset + 16] = np.full(4, value, "<f4").tobytes()
        if head["flags"] & np.uint64(1 << 5):
            place += int(head["length"]) & 0x1FFFFFF
        else:
            place += VD_HEADER.itemsize + int(head["channels"]) * (32 + 8 * int(head["samples"]))


def test_headers_have_the_lengths_that_scanners_write() -> None:
    assert (VD_HEADER.itemsize, VB_HEADER.itemsize) == (192, 128)

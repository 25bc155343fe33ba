"""Writes measurements of the MRD maker as Siemens twix files (VD and VB), whose truth is then the MRD maker's."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.mrd_maker import CALIBRATION, CALIBRATION_AND_IMAGE, NOISE, REVERSE, Made, Plan
from udig_recon.core.formats.inputs.twix import CHANNEL_BYTES, VB_HEADER, VD_HEADER

FIRST = 10240
END, SYNC = 1 << 0, 1 << 5
FLAGS = {
    NOISE: 1 << 25,
    CALIBRATION: 1 << 22,
    CALIBRATION_AND_IMAGE: 1 << 23,
    REVERSE: 1 << 24,
    24: 1 << 21,  # phase correction
    26: 1 << 2,  # feedback
    28: 1 << 1,
    27: 1 << 51,  # dummy
    30: 1 << 14,
    31: 1 << 15,
}
"""Bits of a readout's flags by ISMRMRD's numbers; navigators and coil corrections have none of their own."""


def write_twix(path: Path, *made: Made, vb: bool = False, **protocol: Any) -> Path:
    """A file of these measurements, in their order; VB holds one. `protocol` replaces lines of the protocol."""
    measurements = [measurement(each, vb=vb, **protocol) for each in made]
    if vb:
        path.write_bytes(measurements[0])
        return path
    path.write_bytes(with_directory(*measurements))
    return path


def with_directory(*measurements: bytes) -> bytes:
    """A file of VD."""
    places = np.cumsum([FIRST, *(-(-len(each) // 512) * 512 for each in measurements)])
    directory = struct.pack("<II", 0, len(measurements))
    for number, (place, each) in enumerate(zip(places, measurements, strict=False)):
        directory += struct.pack("<IIQQ", number, number, place, len(each)) + b"x" * 128
    content = directory.ljust(FIRST, b"\0")
    return content + b"".join(each + bytes(-len(each) % 512) for each in measurements)


def measurement(made: Made, *, vb: bool = False, **protocol: Any) -> bytes:
    """A measurement's header, readouts and end."""
    dtype = VB_HEADER if vb else VD_HEADER
    content = header(made.plan, **protocol)
    for number, line in enumerate(made.lines):
        content += readout(made.plan, line, number, dtype)
        if number == 2 and not vb:
            content += sync(b"physiological data")
    end = np.zeros((), dtype)
    end["flags"] = END
    return content + end.tobytes()


def header(plan: Plan, **protocol: Any) -> bytes:
    """The texts before the readouts, of which two matter."""
    x, y, z = plan.pixel_mm
    values = {
        "sKSpace.lBaseResolution": plan.columns,
        "sKSpace.lPhaseEncodingLines": plan.rows,
        "sKSpace.lPartitions": 16,
        "sKSpace.ucDimension": "0x2",
        "sKSpace.ucTrajectory": 1,
        "sKSpace.dPhaseOversamplingForDialog": plan.rows / plan.image_rows - 1,
        "sSliceArray.asSlice[0].dReadoutFOV": plan.columns * x,
        "sSliceArray.asSlice[0].dPhaseFOV": plan.image_rows * y,
        "sSliceArray.asSlice[0].dThickness": z,
        "sRXSPEC.alDwellTime[0]": 1e9 / 130 / 256 / plan.noise_dwell,
        "sPat.ucRefScanMode": {"separate": 4, "embedded": 2}.get(plan.calibration, 1),
        "tPatientName": '"Doe^Jane"',
        **{name.replace("__", "."): value for name, value in protocol.items()},
    }
    lines = "\n".join(f"{name}\t = \t{value}" for name, value in values.items() if value is not None)
    texts = {
        "Config": "<XProtocol> { }",
        "Dicom": f'<ParamDouble."flReadoutOSFactor">  {{ <Precision> 16  {plan.oversampling:.1f} }}',
        "MeasYaps": f"### ASCCONV BEGIN object=MrProtDataImpl@MrProtocolData ###\n{lines}\n### ASCCONV END ###",
    }
    content = b"".join(
        name.encode() + b"\0" + struct.pack("<I", len(text)) + text.encode() for name, text in texts.items()
    )
    content = content.ljust(12_280, b"\0")  # as long as scanners' at least: by it VB is told from VD
    return struct.pack("<II", len(content) + 8, len(texts)) + content


def readout(plan: Plan, line: Any, number: int, dtype: np.dtype[Any]) -> bytes:
    """One readout of an ISMRMRD acquisition: a header for all channels, or one for each."""
    head = np.zeros((), dtype)
    coils, samples = line.data.shape
    head["number"], head["samples"], head["channels"] = number, samples, coils
    head["line"], head["center_line"] = line.idx.kspace_encode_step_1, plan.rows // 2
    if plan.center is not None:
        head["center_line"] = plan.center
    for theirs, ours in (("echo", "contrast"), *((name,) * 2 for name in ("average", "slice", "phase", "repetition"))):
        head[theirs] = getattr(line.idx, ours)
    head["set"] = line.idx.set
    head["center_column"], head["discard_pre"], head["discard_post"] = (
        line.center_sample,
        line.discard_pre,
        line.discard_post,
    )
    head["position"] = line.position[:]
    if np.any(line.slice_dir[:]):
        columns = [-np.array(line.phase_dir[:]), -np.array(line.read_dir[:]), np.array(line.slice_dir[:])]
        head["quaternion"] = quaternion(np.stack(columns, axis=1))
    for theirs, ours in FLAGS.items():
        if line.is_flag_set(theirs):
            head["flags"] |= np.uint64(ours)
    data = line.data.astype("<c8")
    if dtype is VB_HEADER:
        return b"".join(head.tobytes() + channel.tobytes() for channel in data)
    return head.tobytes() + b"".join(bytes(CHANNEL_BYTES) + channel.tobytes() for channel in data)


def sync(content: bytes) -> bytes:
    """A block that is no readout."""
    head = np.zeros((), VD_HEADER)
    size = VD_HEADER.itemsize + 32 * (-(-len(content) // 32))
    head["flags"], head["length"] = SYNC, size | 1 << 29
    return head.tobytes() + content.ljust(size - VD_HEADER.itemsize, b"\0")


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation matrix."""
    values, vectors = np.linalg.eigh(
        np.array(
            [
                [matrix[0, 0] - matrix[1, 1] - matrix[2, 2], 0, 0, 0],
                [matrix[0, 1] + matrix[1, 0], matrix[1, 1] - matrix[0, 0] - matrix[2, 2], 0, 0],
                [
                    matrix[0, 2] + matrix[2, 0],
                    matrix[1, 2] + matrix[2, 1],
                    matrix[2, 2] - matrix[0, 0] - matrix[1, 1],
                    0,
                ],
                [
                    matrix[2, 1] - matrix[1, 2],
                    matrix[0, 2] - matrix[2, 0],
                    matrix[1, 0] - matrix[0, 1],
                    np.trace(matrix),
                ],
            ]
        )
        / 3
    )
    x, y, z, w = vectors[:, np.argmax(values)]
    return np.array([w, x, y, z])

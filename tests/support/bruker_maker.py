"""Bruker scans (ParaVision 5 and 6) made by the tests: fid, acqp and method in a zip."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.tiny_scans import fft, phantom

TYPES = {"GO_32BIT_SGN_INT": "i4", "GO_16BIT_SGN_INT": "i2", "GO_32BIT_FLOAT": "f4"}


@dataclass(frozen=True)
class Plan:
    """What is measured, and how it lies in the file."""

    repetitions: int = 1
    partitions: int = 1
    slices: int = 1
    echoes: int = 1
    factor: int = 1  # RARE: lines of one excitation
    receivers: int = 1
    rows: int = 32
    columns: int = 24
    number: str = "GO_32BIT_SGN_INT"
    big_endian: bool = False
    padded: bool = True
    left_out: int = 0  # samples that a partial echo lacks
    oversampling: float = 1.0
    accelerated: bool = False  # every second line, and those about the middle
    told: dict[str, Any] = field(default_factory=dict)  # parameters in place of the right ones; None leaves one out


def truth(plan: Plan) -> np.ndarray:
    """k-space (repetitions, slices, echoes, receivers, partitions, rows, columns) of whole numbers."""
    image = phantom(1, 32)[0][: plan.rows, 4 : 4 + plan.columns].astype(complex)
    shape = (plan.repetitions, plan.slices, plan.echoes, plan.receivers, plan.partitions)
    gains = 1 + np.arange(np.prod(shape)).reshape(shape) / 10
    gains = gains * np.exp(0.3j * gains) * np.hanning(plan.partitions + 2)[1:-1]
    images = gains[..., None, None] * image
    kspace = fft(images)
    if plan.partitions > 1:
        kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(kspace, 4), axis=4, norm="ortho"), 4)
    kspace = np.round(kspace / np.abs(kspace).max() * 30_000)
    kspace[..., : plan.left_out] = 0
    return kspace[..., list(lines(plan)), :] if plan.accelerated else kspace


def lines(plan: Plan) -> np.ndarray:
    """Rows in the order of time: RARE measures every n-th of them after an excitation."""
    rows = np.arange(plan.rows)
    if plan.accelerated:
        rows = rows[(rows % 2 == 0) | (abs(rows - plan.rows // 2) < 6)]
    return rows.reshape(plan.factor, -1).T.reshape(-1)


def files(plan: Plan) -> dict[str, bytes]:
    """The contents of fid, acqp and method."""
    kspace, rows = truth(plan), lines(plan)
    ordered = kspace if plan.accelerated else kspace[..., rows, :]
    count = len(rows)
    shots = ordered.reshape(*ordered.shape[:5], count // plan.factor, plan.factor, plan.columns)
    order = np.arange(plan.slices * plan.echoes)
    order = np.concatenate([order[::2], order[1::2]])
    # The axes: repetition, object, receiver, partition, shot, line of it, column.
    objects = shots.reshape(plan.repetitions, plan.slices * plan.echoes, *shots.shape[3:])[:, order]
    stream = objects.transpose(0, 3, 4, 1, 5, 2, 6)[..., plan.left_out :]
    samples = plan.columns - plan.left_out
    kind = np.dtype((">" if plan.big_endian else "<") + TYPES[plan.number])
    pairs = np.stack([stream.real, stream.imag], axis=-1).astype(kind).reshape(-1, plan.receivers * 2 * samples)
    block = pairs.shape[1] * kind.itemsize
    padding = -block % 1024 if plan.padded else 0
    fid = b"".join(row.tobytes() + b"\x55" * padding for row in pairs)
    steps = " ".join(str(row - plan.rows // 2) for row in rows)
    sizes = [2 * samples, count] + ([plan.partitions] if plan.partitions > 1 else [])
    wide = round(plan.columns / plan.oversampling)
    acqp = {
        "ACQ_dim_desc": f"( {len(sizes)} )\n" + " ".join(["Spatial"] * len(sizes)),
        "ACQ_size": f"( {len(sizes)} )\n" + " ".join(map(str, sizes)),
        "ACQ_phase_factor": plan.factor,
        "NI": plan.slices * plan.echoes,
        "NR": plan.repetitions,
        "NSLICES": plan.slices,
        "ACQ_n_echo_images": plan.echoes,
        "ACQ_obj_order": f"( {len(order)} )\n" + " ".join(map(str, order)),
        "ACQ_slice_offset": f"( {plan.slices} )\n" + " ".join(str(2 * number - 3) for number in range(plan.slices)),
        "GO_raw_data_format": plan.number,
        "GO_block_size": "Standard_KBlock_Format" if plan.padded else "continuous",
        "BYTORDA": "big" if plan.big_endian else "little",
        "ACQ_protocol_location": "( 64 )\n<doe jane ##$NI=99>",
        "PULPROG": "( 32 )\n<FLASH.ppg>",
    }
    pixel = 0.5
    depth = f" {plan.partitions}" if plan.partitions > 1 else ""
    method = {
        "Method": "<Bruker:FLASH>",
        "PVM_Matrix": f"( 2 )\n{wide} {plan.rows}{depth}",
        "PVM_Fov": f"( 2 )\n{wide * pixel} {plan.rows * pixel}" + (f" {plan.partitions * 2.0}" if depth else ""),
        "PVM_AntiAlias": f"( 2 )\n{plan.oversampling} 1",
        "PVM_EncNReceivers": plan.receivers,
        "PVM_EncSteps1": f"( {count} )\n{steps}",
        "PVM_EncZf": "( 3 )\n@3*(1)",
        "PVM_SliceThick": 2,
        "PVM_SPackArrSliceDistance": "( 1 )\n2.5",
    }
    if plan.partitions > 1:
        numbers = range(-(plan.partitions // 2), plan.partitions - plan.partitions // 2)
        method["PVM_EncSteps2"] = f"( {plan.partitions} )\n{' '.join(map(str, numbers))}"
    for name, value in plan.told.items():
        where = acqp if name in acqp else method
        if value is None:
            del where[name]
        else:
            where[name] = value
    return {"fid": fid, "acqp": _jcamp(acqp), "method": _jcamp(method)}


def write_bruker(path: Path, plan: Plan, folder: str = "scan/7/", **others: bytes) -> Path:
    """A zip of the scan's folder."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**files(plan), **others}.items():
            archive.writestr(folder + name, content)
        archive.writestr(f"{folder}pdata/1/2dseq", b"an image")
    return path


def _jcamp(parameters: Mapping[str, Any]) -> bytes:
    head = "##TITLE=Parameter List, ParaVision 6.0\n##JCAMPDX=4.24\n##OWNER=doe\n$$ a comment\n"
    return (head + "".join(f"##${name}={value}\n" for name, value in parameters.items()) + "##END=\n").encode()

"""Seconds and memory to probe and prepare a large scan: `python -m benchmarks.speed.preparing [MiB] [format ...]`.

Each scan is read once, in the sandbox, as the service reads it when it is uploaded. The seconds are of the clock, from
the order to the header, and of the processor; the memory is the reading process's own at its largest. Prints a
Markdown row for each format.
"""

import hashlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from benchmarks.data.tiny_scans import fft, header, phantom
from udig_recon.core.formats.prepared import open_prepared
from udig_recon.core.formats.sandbox.client import Prober

COILS, ROWS, COLUMNS = 16, 640, 368
MEBIBYTE = 1 << 20
_COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition")
_HEAD: Sequence[tuple[str, Any]] = (
    ("version", "<u2"),
    ("flags", "<u8"),
    ("measurement_uid", "<u4"),
    ("scan_counter", "<u4"),
    ("acquisition_time_stamp", "<u4"),
    ("physiology_time_stamp", ("<u4", 3)),
    ("number_of_samples", "<u2"),
    ("available_channels", "<u2"),
    ("active_channels", "<u2"),
    ("channel_mask", ("<u8", 16)),
    ("discard_pre", "<u2"),
    ("discard_post", "<u2"),
    ("center_sample", "<u2"),
    ("encoding_space_ref", "<u2"),
    ("trajectory_dimensions", "<u2"),
    ("sample_time_us", "<f4"),
    *((name, ("<f4", 3)) for name in ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")),
    ("idx", [*((name, "<u2") for name in (*_COUNTERS, "set", "segment")), ("user", ("<u2", 8))]),
    ("user_int", ("<i4", 8)),
    ("user_float", ("<f4", 8)),
)
"""Acquisition header of ISMRMRD."""
_XML = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><experimentalConditions>
<H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions><encoding>
<encodedSpace><matrixSize><x>{0}</x><y>{1}</y><z>{2}</z></matrixSize>
<fieldOfView_mm><x>{0}</x><y>{1}</y><z>{2}</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>{0}</x><y>{1}</y><z>{2}</z></matrixSize>
<fieldOfView_mm><x>{0}</x><y>{1}</y><z>{2}</z></fieldOfView_mm></reconSpace>
<encodingLimits></encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""
_SLICE_BYTES = COILS * ROWS * COLUMNS * 8


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    wanted = sys.argv[2:] or list(WRITERS)
    print("| format | MiB | seconds | CPU seconds | MiB of memory | prepared MiB |")
    print("|---|---|---|---|---|---|")
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="udig-preparing-", dir=os.environ.get("PREPARING_FOLDER")) as folder:
            path = WRITERS[name](Path(folder) / "scan", max(1, size * MEBIBYTE // _SLICE_BYTES))
            # In a process of its own: the memory of one that has just made a scan would count.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                print(fresh.submit(row, name, path, Path(folder) / "prepared").result(), flush=True)


def row(name: str, path: Path, prepared: Path) -> str:
    """One scan's row of the table."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    prober = Prober()
    prober.prepare(1)
    prober.missing_parts()
    before, began = _of_children(), time.monotonic()
    with prepared.open("w+b") as output:
        header = prober.prepare_scan(path, output.fileno(), sha256)
    seconds = time.monotonic() - began
    prober.close()
    after = _of_children()
    with open_prepared(prepared) as scan:
        assert scan.header == header
    cells = [
        name,
        f"{path.stat().st_size / MEBIBYTE:.0f}",
        f"{seconds:.1f}",
        f"{after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.1f}",
        f"{after.ru_maxrss / 1024:.0f}",
        f"{prepared.stat().st_size / MEBIBYTE:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _of_children() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def slices(count: int) -> Iterator[NDArray[np.complex64]]:
    """k-space (coils, ky, kx) of slices, four times undersampled along kx, each with noise of its own."""
    rng = np.random.default_rng(0)
    image = phantom(1, COLUMNS)[0]
    rows = (ROWS - COLUMNS) // 2
    object_ = np.pad(image, ((rows, ROWS - COLUMNS - rows), (0, 0)))
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    turns = np.arange(COILS) * 2 * np.pi / COILS
    maps = np.exp(-((x - np.cos(turns)[:, None, None]) ** 2) - (y - np.sin(turns)[:, None, None]) ** 2)
    clean = fft(maps * object_).astype(np.complex64)
    measured = np.zeros(COLUMNS, bool)
    measured[::4] = measured[COLUMNS // 2 - 12 : COLUMNS // 2 + 12] = True
    noise = rng.standard_normal((2, *clean.shape), np.float32)
    noisy = clean + np.float32(1e-3 * np.abs(clean).max() ** 0.5) * (noise[0] + 1j * noise[1])
    for index in range(count):
        yield np.roll(noisy, index, 0) * np.float32(1 + index / count) * measured


def write_hdf5(path: Path, count: int) -> Path:
    """FastMRI's layout, not packed, as fastMRI distributes it."""
    with h5py.File(path, "w") as file:
        kspace = file.create_dataset("kspace", (count, COILS, ROWS, COLUMNS), np.complex64)
        for index, each in enumerate(slices(count)):
            kspace[index] = each
        file["ismrmrd_header"] = header(np.empty((1, ROWS, COLUMNS)), ROWS // 2, COLUMNS)
    return path


def write_npy(path: Path, count: int) -> Path:
    """One array."""
    kspace = open_memmap(path, "w+", np.complex64, (count, COILS, ROWS, COLUMNS))  # type: ignore[no-untyped-call]
    for index, each in enumerate(slices(count)):
        kspace[index] = each
    return path


def write_mrd(path: Path, count: int) -> Path:
    """Lines of slices, as a scanner writes them."""
    lines = (
        (each[:, row], row, 0, index)
        for index, each in enumerate(slices(count))
        for row in range(ROWS)
        if each[:, row].any()
    )
    _write_lines(path, lines, (COLUMNS, ROWS, 1))
    return path


def write_mrd_volume(path: Path, count: int) -> Path:
    """Lines of one 3-D measurement with two axes of phase encoding, of about the same size."""
    side = max(16, round((count * _SLICE_BYTES / 8 / COILS) ** (1 / 3)) // 2 * 2)
    return write_volume(path, (side, side, side), COILS)


def write_volume(path: Path, matrix: tuple[int, int, int], coils: int, noise_readouts: int = 40) -> Path:
    """A fully sampled 3-D measurement (x, y, z), an MRD file of lines in no more order than a scanner's."""
    rng = np.random.default_rng(0)
    axes = [np.exp(-(((np.arange(side) - side // 2) / (0.05 * side)) ** 2)) for side in matrix]
    gains = np.exp(2j * np.pi * np.arange(coils) / coils)[:, None]
    noise = 1e-3 * (rng.standard_normal((64, coils, matrix[0])) + 1j * rng.standard_normal((64, coils, matrix[0])))
    places = [(row, partition) for partition in range(matrix[2]) for row in range(matrix[1])]
    lines = (
        ((axes[1][row] * axes[2][partition] * axes[0] * gains + noise[number % 64]), row, partition, 0)
        for number, (row, partition) in enumerate(places)
    )
    _write_lines(path, lines, matrix, noise_readouts)
    return path


def _write_lines(
    path: Path,
    lines: Iterable[tuple[NDArray[np.complexfloating[Any, Any]], int, int, int]],
    matrix: Sequence[int],
    noise_readouts: int = 40,
) -> None:
    """An MRD file of lines, their row, partition and slice; those of noise come first."""
    heads = np.dtype([(name, kind) for name, kind in _HEAD])
    rows = np.dtype([("head", heads), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(np.float32))])
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/xml", (1,), h5py.string_dtype())[0] = _XML.format(*matrix)
        data = file.create_dataset("dataset/data", (0,), rows, maxshape=(None,), chunks=(1,))
        noise = None
        written = 0

        def append(row: NDArray[Any]) -> None:
            nonlocal written
            data.resize(written + len(row), axis=0)
            data[written:] = row
            written += len(row)

        held: list[NDArray[Any]] = []
        for samples, step_1, step_2, slice_ in lines:
            if noise is None:
                noise = 1e-3 * (rng.standard_normal(samples.shape) + 1j * rng.standard_normal(samples.shape))
                for _ in range(noise_readouts):
                    line = _row(rows, noise[:, rng.permutation(noise.shape[1])], 0, 0, 0)
                    line["head"]["flags"] = 1 << 18
                    append(line)
            held.append(_row(rows, samples, step_1, step_2, slice_))
            if len(held) == 64:
                append(np.concatenate(held))
                held.clear()
        if held:
            append(np.concatenate(held))


def _row(
    rows: np.dtype[Any], samples: NDArray[np.complexfloating[Any, Any]], step_1: int, step_2: int, slice_: int
) -> NDArray[Any]:
    row = np.zeros(1, rows)
    head = row["head"]
    head["version"], head["sample_time_us"] = 1, 5.0
    head["active_channels"], head["number_of_samples"] = samples.shape
    head["available_channels"], head["center_sample"] = len(samples), samples.shape[1] // 2
    head["idx"]["kspace_encode_step_1"], head["idx"]["kspace_encode_step_2"] = step_1, step_2
    head["idx"]["slice"] = slice_
    head["read_dir"], head["phase_dir"], head["slice_dir"] = np.eye(3)
    head["position"] = 0, 0, 3 * slice_
    row["traj"][0] = np.zeros(0, np.float32)
    row["data"][0] = np.ascontiguousarray(samples, np.complex64).reshape(-1).view(np.float32)
    return row


WRITERS: Mapping[str, Callable[[Path, int], Path]] = {
    "fastMRI HDF5": write_hdf5,
    "npy": write_npy,
    "MRD": write_mrd,
    "MRD, 3-D": write_mrd_volume,
    "MRD, 3-D, 320 x 320 x 256, 32 coils": lambda path, _: write_volume(path, (320, 320, 256), 32),
}


if __name__ == "__main__":
    main()

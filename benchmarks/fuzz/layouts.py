"""Scans of k-space in other layouts than ours, and mutators of them: axes, frames and zips that lie."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from benchmarks.data.tiny_scans import ifft, mri, write_hdf5, write_npz
from benchmarks.fuzz.hdf5 import hdf5
from benchmarks.fuzz.mutators import Draft
from benchmarks.fuzz.vendors import Members, archived

AXES = (
    "slice ky kx coil", "coil slice ky kx", "kx ky coil slice", "ky kx", "slice coil ky ky", "slice coil ky kx time",
    "",
    "x" * 5000, "time echo ky kx", "set set ky kx", "ky kx slice coil", "slice, coil, y, x", "\0", "1 2 3 4",
)  # fmt: skip


def write_calgary(path: Path) -> Path:
    """Calgary-Campinas: (x, ky, kz, 2 coils) floats with zero frequency in the corner."""
    kspace = np.fft.fft2(ifft(mri(slices=3, acceleration=1)["kspace"])).transpose(0, 2, 3, 1)
    stored = np.stack([kspace.real, kspace.imag], -1).reshape(*kspace.shape[:3], -1)
    return write_hdf5(path, kspace=stored.astype(np.float32))


def write_skm_tea(path: Path) -> Path:
    """SKM-TEA: (x, ky, kz, echo, coil) with maps and images of each echo."""
    parts = mri(slices=32, coils=2)
    kspace = np.stack([parts["kspace"], 0.7 * parts["kspace"]], 1).transpose(0, 3, 4, 1, 2)
    maps = parts["sensitivity_maps"].transpose(0, 2, 3, 1)[..., None]
    return write_hdf5(path, kspace=kspace.copy(), sensitivity_maps=maps.copy())


def write_frames(path: Path) -> Path:
    """Repetitions in front of slices, with a mask of each, in an .npz."""
    parts = mri()
    kspace = np.stack([parts["kspace"], 2 * parts["kspace"]])
    return write_npz(
        path, kspace=kspace, mask=np.broadcast_to(parts["mask"], (2, 1, 32, 32)), axes="time slice coil ky kx"
    )


def write_coils_last(path: Path) -> Path:
    """(slices, ky, kx, coils) as pairs of floats."""
    kspace = mri(slices=1)["kspace"].transpose(0, 2, 3, 1)
    return write_npz(path, kspace=np.stack([kspace.real, kspace.imag], -1).astype(np.float32))


def write_zipped_hdf5(path: Path) -> Path:
    """Two repetitions of M4Raw, and a mask."""
    parts = mri()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, arrays in {
            "T101.h5": {"kspace": parts["kspace"], "reconstruction_rss": parts["reference"]},
            "T102.h5": {"kspace": parts["kspace"] * 1j, "reconstruction_rss": parts["reference"]},
            "mask.h5": {"mask": parts["mask"]},
        }.items():
            archive.writestr(name, _hdf5(arrays))
    return path


def _hdf5(arrays: dict[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return stream.getvalue()


SCANS: dict[str, Callable[[Path], Path]] = {
    "calgary": write_calgary,
    "skm_tea": write_skm_tea,
    "frames": write_frames,
    "coils_last": write_coils_last,
    "zipped_hdf5": write_zipped_hdf5,
}


@hdf5(must_be_refused=False)
def axes_that_lie(file: h5py.File, draft: Draft) -> None:
    holder = file[str(draft.rng.choice([name for name in ("kspace", "sinogram") if name in file] or ["/"]))]
    holder.attrs["axes"] = str(draft.rng.choice(AXES)).replace("\0", "?")


@archived("zipped_hdf5", True)
def repetitions_of_other_shapes(members: Members, rng: np.random.Generator) -> Members:
    parts = mri(size=int(rng.choice([16, 24, 48])), slices=int(rng.integers(1, 4)))
    return members | {"T103.h5": _hdf5({"kspace": parts["kspace"]})}


@archived("zipped_hdf5", False)
def other_members(members: Members, rng: np.random.Generator) -> Members:
    content = (b"", bytes(9), members["T101.h5"][: int(rng.integers(4000))], members["mask.h5"], b"\x89HDF\r\n\x1a\n")
    names = (f"{'a/' * int(rng.integers(40))}T1.h5", "../T101.h5", "/T101.h5", "T101.mat", "T101.h5 ", ".h5")
    chosen = content[int(rng.integers(len(content)))]
    return members | {str(rng.choice(names)): chosen for _ in range(int(rng.choice([1, 3, 70])))}


@archived("zipped_hdf5", True)
def repetitions_cut_short(members: Members, rng: np.random.Generator) -> Members:
    name = str(rng.choice(["T101.h5", "T102.h5"]))
    return {**members, name: members[name][: int(rng.integers(9, len(members[name]) - 2000))]}

"""Draft of the n-th file of a campaign: which valid scan, which mutator, and the outcome."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from benchmarks.data.tiny_scans import (
    GOOD,
    ct,
    distributed,
    fan,
    mri,
    phantom,
    write_data_exchange,
    write_hdf5,
    write_mrd,
    write_npy,
    write_npz,
    write_nxtomo,
)
from benchmarks.fuzz import arrays, bytewise, hdf5, layouts, mrd, trajectories, vendors
from benchmarks.fuzz.mutators import MUTATORS, Draft, Mutator, Traps
from benchmarks.speed.preparing import write_volume
from udig_recon.core.formats.input_format import InputFormat
from udig_recon.core.formats.inputs import bart, bruker, ct_pd, matlab5, mrd_stream, npz, twix

__all__ = ["FileMaker", "Spoilt", "arrays", "bytewise", "hdf5", "layouts", "mrd", "trajectories", "vendors"]


class Spoilt(NamedTuple):
    """One file to post."""

    number: int
    seed_scan: str
    mutator: Mutator
    content: bytes


def _packed(parts: dict[str, Any], libver: str = "earliest", **how: Any) -> Callable[[Path], Path]:
    """HDF5 in chunks, packed as `how` says."""

    def write(path: Path) -> Path:
        with h5py.File(path, "w", libver=libver) as file:
            for name, part in parts.items():
                if isinstance(part, np.ndarray) and part.ndim > 1:
                    file.create_dataset(name, data=part, chunks=(1, *part.shape[1:]), **how)
                elif isinstance(part, np.ndarray) or name == "ismrmrd_header":
                    file[name] = part
                else:
                    file.attrs[name] = part
        return path

    return write


def _packed_npz(path: Path) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **{**mri(), "pixel_spacing_mm": 0.7})
    return path


def _sample(format_: InputFormat, number: int = 0) -> Callable[[Path], Path]:
    """A sample of an input format, which is a whole scan."""

    def write(path: Path) -> Path:
        path.write_bytes(format_.samples()[number])
        return path

    return write


def _gzip(path: Path) -> Path:
    content = GOOD["fastmri_with_maps"](path).read_bytes()
    path.write_bytes(gzip.compress(content, mtime=0))
    return path


_KINDS = (
    *("mrd", "mrd_stream", "gzip", "matlab5", "bart", "bart_joined", "bruker", "twix", "ct_pd"),
    *("zipped_hdf5", "npz_spokes"),
)
"""Scans whose kind is their name."""

SCANS: dict[str, Callable[[Path], Path]] = {
    **GOOD,
    "fastmri_packed": _packed(distributed(), compression="gzip", shuffle=True, fletcher32=True),
    "fastmri_latest": _packed(mri(), compression="gzip", libver="latest"),
    "fastmri_double": _packed(
        {**mri(), "kspace": mri()["kspace"].astype(">c16"), "reference": phantom().astype(">f8")}
    ),
    "sinogram_lzf": _packed(ct(), compression="lzf"),
    "sinogram_fan": lambda path: write_hdf5(path, **fan()),
    "npz_sinogram_fan": lambda path: write_npz(path, **fan()),
    "data_exchange": write_data_exchange,
    "nxtomo": write_nxtomo,
    "mrd": write_mrd,
    "mrd_stream": _sample(mrd_stream.FORMAT),
    "mrd_volume": lambda path: write_volume(path, (16, 12, 10), 2, noise_readouts=4),
    "gzip": _gzip,
    "matlab5": _sample(matlab5.FORMAT),
    "bart": _sample(bart.FORMAT),
    "bart_joined": _sample(bart.FORMAT, 1),
    "bruker": _sample(bruker.FORMAT),
    "twix": _sample(twix.FORMAT),
    **layouts.SCANS,
    "ct_pd": _sample(ct_pd.FORMAT),
    "npz_packed": _packed_npz,
    "npz_spokes": _sample(npz.FORMAT, 1),
    "npy_double_fortran": lambda path: write_npy(path, np.asfortranarray(mri()["kspace"].astype(np.complex128))),
}


def _kind(name: str, content: bytes) -> str:
    if name == "mrd_volume":
        return "mrd"
    if name in _KINDS:
        return name
    kinds = {b"\x89HDF": "hdf5", b"\x93NUM": "npy", b"PK\3\4": "npz"}
    return kinds[content[:4]]


class FileMaker:
    """Makes the files of a campaign; each follows from the campaign's seed and its number alone."""

    def __init__(self, folder: Path, traps: Traps, seed: int) -> None:
        self._path, self._traps, self._seed = folder / "draft", traps, seed
        self._scans = {name: write(folder / "draft").read_bytes() for name, write in SCANS.items()}
        self._fitting = {
            mutator.name: [
                name for name, content in self._scans.items() if mutator.kind in ("any", _kind(name, content))
            ]
            for mutator in MUTATORS
        }

    def make(self, number: int) -> Spoilt:
        """The file of that number; mutators take turns."""
        rng = np.random.default_rng((self._seed, number))
        mutator = MUTATORS[number % len(MUTATORS)]
        name = str(rng.choice(self._fitting[mutator.name]))
        self._path.write_bytes(self._scans[name])
        mutator.mutate(Draft(self._path, rng, self._traps))
        return Spoilt(number, name, mutator, self._path.read_bytes())

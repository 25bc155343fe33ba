"""Workload: small scans, methods that take a second or two of a slow core, and the clients' orders."""

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from udig_recon.core.simulation import birdcage_maps, cartesian_lines, simulate_ct, simulate_mri

ATTENUATION_1_PER_MM = 0.02  # of the brightest part of the phantom
DELETED_SHARE, ABANDONED_SHARE = 0.05, 0.05
RESET_SHARE = 0.1
OWN_SCAN_SHARE = 0.5


@dataclass(frozen=True)
class Kind:
    """One reconstruction, whose result is known from a run without faults."""

    name: str
    scan: str
    parameters: dict[str, Any]
    outputs: tuple[str, ...] = ("h5",)
    seed: int = 0


@dataclass(frozen=True)
class Order:
    """One job that a client brings."""

    number: int
    key: str
    kind: Kind
    file: bytes = field(repr=False)
    as_form: bool  # scan and job in one request
    resets: bool  # the client breaks its first connection off, unread answer and all
    deleted: bool = False  # the client deletes the job once it is accepted
    abandoned: bool = False  # the client breaks its only connection off and never asks again


KINDS = (
    Kind("udig_dip MRI", "mri", {"method": "udig_dip", "preset": "preview", "outer_iterations": 12}, ("h5", "png")),
    Kind("udig_dip CT", "ct", {"method": "udig_dip", "outer_iterations": 4, "inner_iterations": 1, "samples": 2}),
    Kind("dip MRI", "mri", {"method": "dip", "iterations": 4}, seed=1),
    Kind("dip CT", "ct", {"method": "dip", "iterations": 4}),
    Kind(
        "tv MRI, 2 slices",
        "mri-2",
        {"method": "tv", "iterations": 20, "weight": 0.01, "fit_maps": False},
        ("h5", "nifti"),
    ),
    Kind("tv CT, 3 slices", "ct-3", {"method": "tv", "iterations": 20}),
    Kind("l1_wavelet MRI", "mri", {"method": "l1_wavelet", "iterations": 20, "weight": 0.01, "fit_maps": False}),
    Kind("sirt CT", "ct", {"method": "sirt", "iterations": 1500, "holdout_share": 0}),
    Kind("cg_sense MRI", "mri", {"method": "cg_sense", "iterations": 200}),
    Kind("fbp CT", "ct", {"method": "fbp"}, ("npy", "h5")),
)


def phantom(slices: int, size: int) -> NDArray[np.float32]:
    """(slices, size, size): an ellipse with a hole that wanders."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = ((x / 0.7) ** 2 + (y / 0.8) ** 2 < 1).astype(np.float32)
    holes = [0.6 * (np.hypot(x - 0.2, y - 0.3 * index) < 0.2) for index in range(slices)]
    return np.stack([body - hole for hole in holes]).astype(np.float32)


def mri_scan(slices: int, size: int = 48) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image, shape = phantom(slices, size).astype(np.complex64), (size, size)
    scan = simulate_mri(
        image, birdcage_maps(4, shape), cartesian_lines(shape, 2, 0.3, rng), rng, noise_level=0.005, with_maps=True
    )
    return {"kspace": scan.kspace, "mask": scan.mask, "sensitivity_maps": scan.sensitivity_maps}


def ct_scan(slices: int, size: int = 48) -> dict[str, Any]:
    scan = simulate_ct(ATTENUATION_1_PER_MM * phantom(slices, size), 24, 1e6, np.random.default_rng(0))
    return {
        "sinogram": scan.sinogram,
        "angles": scan.angles,
        "reference": scan.reference,
        "geometry": "parallel",
        "image_size": scan.image_size,
        "pixel_size_mm": scan.pixel_size_mm,
        "detector_spacing_mm": scan.detector_spacing_mm,
    }


def scans() -> dict[str, dict[str, Any]]:
    """The scans by name."""
    return {"mri": mri_scan(1), "mri-2": mri_scan(2), "ct": ct_scan(1), "ct-3": ct_scan(3)}


def file_of(scan: dict[str, Any], number: int | None = None) -> bytes:
    """The scan as an HDF5 file; with a number it is a file of its own, though the same scan."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=False) as file:
        for name, part in scan.items():
            if isinstance(part, np.ndarray):
                file[name] = part
            else:
                file.attrs[name] = part
        if number is not None:
            file.attrs["copy"] = number
    return buffer.getvalue()


def calm_orders(stormy: Sequence[Order], seed: int) -> list[Order]:
    """Every kind among these orders once, plainly."""
    kinds = dict.fromkeys(order.kind.name for order in stormy)
    plain = [(kind, file_of(scans()[kind.scan])) for kind in KINDS if kind.name in kinds]
    return [
        Order(-1 - index, f"calm-{seed}-{index}", kind, file, as_form=False, resets=False)
        for index, (kind, file) in enumerate(plain)
    ]


def orders(count: int, seed: int) -> list[Order]:
    """So many jobs that are to be kept, and a few more that are to be deleted or that their client abandons."""
    rng, made = random.Random(seed), scans()
    shared = {name: file_of(scan) for name, scan in made.items()}
    deleted, abandoned = (max(1, round(count * share)) for share in (DELETED_SHARE, ABANDONED_SHARE))
    found = []
    for number in range(count + deleted + abandoned):
        kind, given_up = rng.choice(KINDS), number >= count + deleted
        own = rng.random() < OWN_SCAN_SHARE or given_up
        order = Order(
            number,
            f"{seed}-{number}",
            kind,
            file_of(made[kind.scan], number) if own else shared[kind.scan],
            as_form=rng.random() < 0.5 or given_up,
            resets=rng.random() < RESET_SHARE,
            deleted=count <= number < count + deleted,
            abandoned=given_up,
        )
        found.append(order)
    rng.shuffle(found)
    return found


def spares(ordered: Sequence[Order]) -> Iterator[Order]:
    """Further jobs of the same kinds, without end."""
    kept = [order for order in ordered if not order.deleted and not order.abandoned]
    for number, order in enumerate(cycle(kept)):
        yield replace(order, key=f"{order.key}-again-{number}", resets=False)

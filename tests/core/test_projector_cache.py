"""Projectors that share views by symmetry are the same projectors, and so are those that a folder keeps."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from udig_recon.core.operators import pair_cache, radon
from udig_recon.core.operators.pair_cache import use_projector_cache
from udig_recon.core.operators.radon import StripProjector
from udig_recon.core.operators.symmetry import share_views
from udig_recon.core.scan_geometry import Geometry

CPU = torch.device("cpu")
TURN = 2 * np.pi
FAN: dict[str, Any] = {"beam": "fan_flat", "source_origin_mm": 60.0, "source_detector_mm": 100.0}
CURVED = {**FAN, "beam": "fan_curved"}


def geometry(angles: Any, **more: Any) -> Geometry:
    return Geometry(tuple(map(float, angles)), 33, 60, 0.8, 1.1)._replace(**more)


SCANS: dict[str, tuple[Geometry, int]] = {
    "parallel, half turn": (geometry(np.arange(24) * np.pi / 24), 7),
    "parallel, half turn, both ends": (geometry(np.linspace(0, np.pi, 25)), 7),
    "parallel, half turn from elsewhere": (geometry(0.1 + np.arange(24) * np.pi / 24), 12),
    "parallel, full turn, axis off the middle": (geometry(np.arange(24) * TURN / 24, rotation_center=20.3), 4),
    "flat fan, full turn": (geometry(np.arange(24) * TURN / 24, **FAN), 4),
    "flat fan, full turn backwards from elsewhere": (geometry(5 - np.arange(24) * TURN / 24, **FAN), 6),
    "curved fan, quarter offset": (geometry(np.arange(24) * TURN / 24, **CURVED, rotation_center=29.25), 6),
    "curved fan, views not divisible by four": (geometry(np.arange(30) * TURN / 30, **CURVED), 8),
    "flat fan, short scan": (geometry(np.arange(26) * TURN / 40, **FAN), 6),
    "flat fan, float32 angles": (geometry((np.arange(24) * TURN / 24).astype(np.float32), **FAN), 4),
}


@pytest.mark.parametrize(("scan", "shared"), SCANS.values(), ids=SCANS)
def test_views_that_symmetry_maps_on_each_other_share_one_matrix(
    scan: Geometry, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = StripProjector(scan, CPU)
    monkeypatch.setattr(radon, "LEAST_SHARED_BYTES", 0)
    found = share_views(scan)
    assert found is not None
    assert len(found.geometry.angles) == shared
    together = StripProjector(scan, CPU)
    assert together._matrix.shape[0] == shared * scan.detectors
    x, y = torch.rand(2, 33 * 33), torch.rand(2, len(scan.angles) * 60)
    assert torch.allclose(together.forward(x), own.forward(x), atol=2e-5 * float(own.forward(x).max()))
    assert torch.allclose(together.adjoint(y), own.adjoint(y), atol=2e-5 * float(own.adjoint(y).max()))
    assert float((together.forward(x) * y).sum()) == pytest.approx(float((x * together.adjoint(y)).sum()), rel=1e-5)


@pytest.mark.parametrize(
    "angles", [np.arange(30) * 2.39996, [0.0], np.arange(20) * 0.05, np.random.default_rng(0).uniform(0, 6, 40)]
)
def test_views_without_symmetry_share_nothing(angles: Any) -> None:
    assert share_views(geometry(angles, **FAN)) is None


def test_symmetry_decides_what_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, uneven = geometry(np.arange(24) * np.pi / 24), geometry(np.arange(24) * 0.1)
    monkeypatch.setattr(radon, "LEAST_SHARED_BYTES", 0)
    monkeypatch.setattr(radon, "LARGEST_PAIR_BYTES", radon.pair_bytes(scan) / 2)
    assert not radon.is_too_large(scan)
    assert radon.is_too_large(uneven)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    use_projector_cache(tmp_path / "projectors", 1 << 30)
    yield tmp_path / "projectors"
    use_projector_cache(None, 0)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Geometry]:
    made: list[Geometry] = []
    build = radon._build_pair
    monkeypatch.setattr(radon, "_build_pair", lambda own: made.append(own) or build(own))
    return made


def project(scan: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    pair = StripProjector(scan, CPU)
    x = torch.rand(1, 33 * 33, generator=torch.Generator().manual_seed(0))
    forward = pair.forward(x)
    return forward, pair.adjoint(forward)


ANY = geometry(np.arange(5) * 0.4, **FAN)


def test_a_stored_projector_has_the_bits_of_the_built_one(folder: Path, builds: list[Geometry]) -> None:
    use_projector_cache(None, 0)
    built = project(ANY)
    use_projector_cache(folder, 1 << 30)
    first, second = project(ANY), project(ANY)
    assert len(builds) == 2
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(built, first, second, strict=True))
    assert (folder.stat().st_mode & 0o777, len(list(folder.iterdir()))) == (0o700, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"angles": ANY.angles[:4]},
        {"rotation_center": 29.0},
        {"beam": "fan_curved"},
        {"source_origin_mm": 61.0},
        {"source_detector_mm": 101.0},
        {"pixel_size_mm": 0.81},
    ],
)
def test_another_geometry_has_another_projector(other: dict[str, Any], folder: Path, builds: list[Geometry]) -> None:
    project(ANY)
    project(ANY._replace(**other))
    assert len(builds) == len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: bytes(len(content)),
        lambda content: content[:-7] + b"spoiled",
        lambda content: content.replace(b'"<i4", ', b'"<f8", ', 1),
        lambda content: content.replace(b"4096", b"9999", 1),
        lambda content: content[:16] + b"\xff" * 8 + content[24:],
    ],
    ids=["half", "start", "empty", "zeros", "bytes", "types", "places", "length"],
)
def test_a_damaged_projector_is_built_anew(spoil: Any, folder: Path, builds: list[Geometry]) -> None:
    right = project(ANY)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    again = project(ANY)
    assert len(builds) == 2
    assert all(torch.equal(a, b) for a, b in zip(right, again, strict=True))
    assert path.read_bytes() == whole


def test_those_used_longest_ago_are_removed_for_the_next(folder: Path, builds: list[Geometry]) -> None:
    scans = [ANY._replace(rotation_center=float(k)) for k in (20, 25, 30)]
    for scan in scans[:2]:
        project(scan)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for age, path in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (0, time.time() - 1000 + age))
    project(scans[0])  # the other one is now the oldest
    use_projector_cache(folder, size + 100)
    project(scans[2])
    assert len(list(folder.iterdir())) == 2
    project(scans[0])
    assert len(builds) == 3


def test_one_larger_than_the_folder_may_be_is_not_kept(folder: Path) -> None:
    use_projector_cache(folder, 1000)
    project(ANY)
    assert not folder.exists()


def test_what_a_dead_writer_left_is_removed(folder: Path) -> None:
    folder.mkdir(parents=True)
    old, new = folder / ".a.1.part", folder / ".b.2.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * pair_cache.STALE_SECONDS))
    project(ANY)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_done_without(folder: Path, builds: list[Geometry]) -> None:
    folder.parent.joinpath("file").write_bytes(b"")
    use_projector_cache(folder.parent / "file" / "within", 1 << 30)
    project(ANY)
    assert len(builds) == 1

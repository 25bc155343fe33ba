import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import scans
from tests.support.reader_processes import end, fork_servers, started_since
from udig_recon.core import errors
from udig_recon.core.acquisition import MRIAcquisition
from udig_recon.core.formats import Prober, probe, read
from udig_recon.core.formats.containers.hdf5_chunks import lzf_length

pytestmark = pytest.mark.long


@pytest.fixture
def prober() -> Iterator[Prober]:
    """Child processes that look at files."""
    made = Prober()
    yield made
    made.close()


@pytest.mark.parametrize("name", scans.HOSTILE)
def test_wrong_file_is_refused_with_what_was_found_and_expected(name: str, tmp_path: Path) -> None:
    hostile = scans.HOSTILE[name]
    path = tmp_path / "scan.h5"
    hostile.write(path)
    with pytest.raises(getattr(errors, hostile.error), match=hostile.word) as caught:
        probe(path)
    error = caught.value
    assert error.field
    assert error.found
    assert error.expected
    assert error.found in str(error)
    assert len(str(error)) < 1000
    assert "canary" not in str(error)
    assert not scans.unpickled(path).exists()


@pytest.mark.parametrize("name", ["external_link", "external_storage", "external_mask", "virtual", "soft_link"])
def test_other_files_are_not_read_even_without_a_probe(name: str, tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    scans.HOSTILE[name].write(path)
    with pytest.raises(errors.UnreadableScan):
        read(path)


@pytest.mark.parametrize("name", ["empty", "virtual", "hdf5_bomb", "million_wide", "degrees"])
def test_child_tells_what_the_probe_tells(name: str, tmp_path: Path, prober: Prober) -> None:
    path = tmp_path / "scan.h5"
    scans.HOSTILE[name].write(path)
    with pytest.raises(errors.ReconstructionError) as here:
        probe(path)
    with pytest.raises(type(here.value)) as there:
        prober.probe(path)
    assert vars(there.value) == vars(here.value)
    assert str(there.value) == str(here.value)


def test_child_accepts_what_the_probe_accepts(tmp_path: Path, prober: Prober) -> None:
    for name in ("fastmri", "npz_sinogram"):
        path = scans.GOOD[name](tmp_path / name)
        assert prober.probe(path) == probe(path)


def test_child_that_hangs_is_ended_and_the_file_refused(tmp_path: Path, prober: Prober) -> None:
    path = scans.GOOD["fastmri"](tmp_path / "scan.h5")
    with pytest.raises(errors.UnreadableScan, match="took longer"):
        prober.probe(path, seconds=-1)
    assert prober.probe(path).slices == 2


@pytest.mark.parametrize("packed", [False, True])
def test_memory_stays_small_whatever_the_size_of_the_file(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "scan"
    block = np.random.default_rng(3).integers(0, 16, (1, 8, 512, 512), np.uint8).astype(np.complex64)
    head = io.BytesIO()
    shape = {"descr": "<c8", "fortran_order": False, "shape": (4, 8, 512, 512)}
    np.lib.format.write_array_header_1_0(head, shape)
    if packed:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("kspace.npy", "w") as member,
        ):
            member.writelines([head.getvalue(), *[block.data.cast("B")] * 4])
    else:
        with path.open("wb") as file:
            file.writelines([head.getvalue(), *[block.data.cast("B")] * 4])
    tracemalloc.start()
    try:
        assert probe(path).slices == 4
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
        tracemalloc.reset_peak()
        assert read(path, [3]).slices == 1
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packing", [{}, {"compression": "gzip"}, {"compression": "lzf"}])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("fletcher32", [False, True])
def test_whole_chunks_are_read_however_they_are_packed(
    packing: dict[str, str], shuffle: bool, fletcher32: bool, tmp_path: Path
) -> None:
    path, kspace = tmp_path / "scan.h5", scans.mri(slices=3)["kspace"]
    kspace[1] = np.random.default_rng(0).integers(0, 3, kspace.shape[1:])
    with h5py.File(path, "w") as file:
        how = {**packing, "shuffle": shuffle, "fletcher32": fletcher32}
        file.create_dataset("kspace", data=kspace, chunks=(2, 3, 20, 20), **how)
    assert probe(path).slices == 3
    assert np.array_equal(read(path).kspace, kspace)


def test_a_chunk_that_gzip_would_not_make_smaller_is_read(tmp_path: Path) -> None:
    path, kspace = tmp_path / "scan.h5", scans.mri()["kspace"]
    with h5py.File(path, "w") as file:
        data = file.create_dataset("kspace", data=kspace, chunks=(1, 4, 32, 32), compression="gzip")
        data.id.write_direct_chunk((1, 0, 0, 0), kspace[1].tobytes(), filter_mask=1)
    assert probe(path).slices == 2
    assert np.array_equal(read(path).kspace, kspace)


def test_the_length_of_packed_bytes_is_what_they_unpack_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        for index in range(40):
            values = rng.choice([rng.integers(0, 1 + index, 4096), np.repeat(rng.integers(0, 9, 16), 256)]).astype("u1")
            data = file.create_dataset(str(index), data=values, chunks=(4096,), compression="lzf")
            skipped, packed = data.id.read_direct_chunk((0,))
            assert skipped or lzf_length(memoryview(packed)) == 4096


def _mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """A few bytes changed, mostly where formats keep what they say of themselves, or the end lost."""
    content = bytearray(good)
    for _ in range(rng.choice([1, 1, 2, 8])):
        reach = rng.choice([len(content), min(4096, len(content))])
        place = int(rng.integers(reach))
        content[place if rng.random() < 0.7 else -1 - place] ^= 1 << int(rng.integers(8))
    return bytes(content[: int(rng.integers(len(content)))] if rng.random() < 0.15 else content)


@pytest.mark.parametrize("name", ["fastmri", "fastmri_with_maps", "sinogram", "npz_kspace", "npy_one_slice"])
def test_damaged_file_is_refused_or_read_as_probed(name: str, tmp_path: Path) -> None:
    path = tmp_path / "scan"
    good = scans.GOOD[name](path).read_bytes()

    @given(seed=st.integers(0, 2**32 - 1))
    @settings(max_examples=100, derandomize=True, deadline=None, database=None)
    def try_one(seed: int) -> None:
        path.write_bytes(_mutated(good, np.random.default_rng(seed)))
        try:
            header = probe(path)
        except errors.ReconstructionError:
            return
        scan = read(path)
        values = scan.kspace if isinstance(scan, MRIAcquisition) else scan.sinogram
        assert scan.slices == header.slices
        assert np.isfinite(values).all()
        assert values.any()

    try_one()


@pytest.mark.parametrize(("name", "seed"), [("virtual", 55), ("virtual", 549), ("external_storage", 1)])
def test_damage_that_crashes_the_library_is_one_more_refusal(
    name: str, seed: int, tmp_path: Path, prober: Prober
) -> None:
    """HDF5 2.0.0 ends with a segmentation fault when it opens the two damaged virtual datasets."""
    path = tmp_path / "scan"
    scans.HOSTILE[name].write(path)
    path.write_bytes(_mutated(path.read_bytes(), np.random.default_rng(seed)))
    with pytest.raises(errors.UnreadableScan):
        prober.probe(path)
    assert prober.probe(scans.GOOD["fastmri"](tmp_path / "good")).slices == 2


def test_fork_servers_that_are_prepared_are_those_that_look(tmp_path: Path, prober: Prober) -> None:
    others = fork_servers()
    prober.prepare(2)
    prepared = started_since(others, 2)
    assert prober.probe(scans.GOOD["fastmri"](tmp_path / "scan")).slices == 2
    assert started_since(others, 2) == prepared


def test_a_fork_server_that_is_killed_is_replaced(tmp_path: Path, prober: Prober) -> None:
    path = scans.GOOD["fastmri"](tmp_path / "scan.h5")
    others = fork_servers()
    first = prober.probe(path)
    killed = started_since(others, 1)
    end(killed)
    assert prober.probe(path) == first
    started_since(others | killed, 1)

"""Checkpoints: what was kept comes back bit by bit; what is broken, foreign or late does not."""

import errno
import hashlib
import io
from pathlib import Path

import pytest
import torch

from tests.support.checkpoint_folder import checkpoint_files, checkpoints_in
from udig_recon.worker.runtime.checkpoints import Checkpoints
from udig_recon.worker.storage.local import LocalStorage

CPU = torch.device("cpu")


def checkpoints(folder: Path, slice_: int = 0, made_by: str = "a", may_write: bool = True) -> Checkpoints:
    return checkpoints_in(folder, slice_, made_by, lambda: may_write)


def keep(kept: Checkpoints, *steps: int) -> None:
    for step in steps:
        kept.save(step, {"state": {"x": torch.full((2, 3), float(step))}, "step": step})
    kept.wait()


def test_the_latest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path), 9, 10, 100)
    found = checkpoints(tmp_path).load(CPU)
    assert found is not None
    assert found["step"] == 100
    assert torch.equal(found["state"]["x"], torch.full((2, 3), 100.0))
    assert len(checkpoint_files(tmp_path)) == 2


def test_what_is_saved_is_the_state_at_that_moment(tmp_path: Path) -> None:
    kept, x = checkpoints(tmp_path), torch.zeros(3)
    kept.save(1, {"x": x, "step": 1})
    x += 1
    kept.wait()
    assert torch.equal((kept.load(CPU) or {})["x"], torch.zeros(3))


@pytest.mark.parametrize("keep_bytes", [0, 40, -1])
def test_a_broken_one_gives_way_to_the_one_before(tmp_path: Path, keep_bytes: int) -> None:
    keep(checkpoints(tmp_path), 1, 2)
    latest = max(checkpoint_files(tmp_path))
    latest.write_bytes(latest.read_bytes()[:keep_bytes])
    assert (checkpoints(tmp_path).load(CPU) or {})["step"] == 1


def test_one_that_cannot_be_read_gives_way_to_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(checkpoints(tmp_path), 1, 2)
    first, latest = checkpoint_files(tmp_path)
    read = LocalStorage.read

    def broken_disk(storage: LocalStorage, key: str) -> bytes:
        if storage.path(key) == latest:
            raise OSError(errno.EIO, "Input/output error")
        return read(storage, key)

    monkeypatch.setattr(LocalStorage, "read", broken_disk)
    assert (checkpoints(tmp_path).load(CPU) or {})["step"] == 1
    # Where none can be read they stay, for the next try.
    first.unlink()
    with pytest.raises(OSError, match="Input/output"):
        checkpoints(tmp_path).load(CPU)
    assert checkpoint_files(tmp_path) == [latest]


def test_those_refused_go_and_push_no_checkpoint_of_the_fresh_start_out(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path, made_by="the version before"), 90, 95)
    fresh = checkpoints(tmp_path)
    assert fresh.load(CPU) is None
    keep(fresh, 10)
    assert (checkpoints(tmp_path).load(CPU) or {})["step"] == 10


def test_a_full_disk_leaves_the_two_before_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = checkpoints(tmp_path)
    keep(kept, 1, 2)
    before = checkpoint_files(tmp_path)

    def half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", half)
        keep(kept, 3)
    assert checkpoint_files(tmp_path) == before


def test_what_a_killed_writer_left_is_no_checkpoint(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path), 1)
    (whole,) = checkpoint_files(tmp_path)
    (part := whole.with_name(f".{whole.name}.0123.part")).write_bytes(b"half")
    kept = checkpoints(tmp_path)
    assert (kept.load(CPU) or {})["step"] == 1
    kept.clear()
    assert not whole.exists()
    storage = LocalStorage(tmp_path)
    assert storage.remove_leftovers(before=storage.now() + 10) == 1
    assert not part.exists()


def test_slices_keep_theirs_apart(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path, 1), 5)
    keep(checkpoints(tmp_path, 11), 7)
    assert (checkpoints(tmp_path, 1).load(CPU) or {})["step"] == 5
    checkpoints(tmp_path, 1).clear()
    assert checkpoints(tmp_path, 1).load(CPU) is None
    assert (checkpoints(tmp_path, 11).load(CPU) or {})["step"] == 7


def test_one_that_bears_another_slices_name_is_not_gone_on_with(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path, 1), 5)
    (written,) = checkpoint_files(tmp_path)
    written.rename(written.parent / f"0.{written.name.partition('.')[2]}")
    assert checkpoints(tmp_path, 0).load(CPU) is None


def test_one_of_an_older_version_which_names_no_slice_is_gone_on_with(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"made_by": "a", "step": 5}, buffer)
    name = f"0.{5:09d}.{hashlib.sha256(buffer.getvalue()).hexdigest()}.pt"
    keep(checkpoints(tmp_path, 1), 1)
    (checkpoint_files(tmp_path)[0].parent / name).write_bytes(buffer.getvalue())
    assert (checkpoints(tmp_path).load(CPU) or {})["step"] == 5


def test_whoever_lost_the_lease_keeps_nothing(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path, may_write=False), 1)
    assert checkpoint_files(tmp_path) == []

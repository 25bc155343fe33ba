"""Checkpoints: what was kept comes back bit by bit; what is broken, foreign or late does not."""

from pathlib import Path

import pytest
import torch

from worker.checkpoints import Checkpoints, fingerprint

CPU = torch.device("cpu")


def checkpoints(folder: Path, slice_: int = 0, made_by: str = "a", may_write: bool = True) -> Checkpoints:
    return Checkpoints(folder, slice_, made_by, lambda: may_write)


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
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_saved_is_the_state_at_that_moment(tmp_path: Path) -> None:
    kept, x = checkpoints(tmp_path), torch.zeros(3)
    kept.save(1, {"x": x, "step": 1})
    x += 1
    kept.wait()
    assert torch.equal((kept.load(CPU) or {})["x"], torch.zeros(3))


@pytest.mark.parametrize("keep_bytes", [0, 40, -1])
def test_a_broken_one_gives_way_to_the_one_before(tmp_path: Path, keep_bytes: int) -> None:
    keep(checkpoints(tmp_path), 1, 2)
    latest = max(tmp_path.iterdir())
    latest.write_bytes(latest.read_bytes()[:keep_bytes])
    assert (checkpoints(tmp_path).load(CPU) or {})["step"] == 1


def test_other_parameters_seed_prior_or_software_begin_anew(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path, made_by=fingerprint(seed=0, parameters={"a": 1})), 1)
    assert checkpoints(tmp_path, made_by=fingerprint(seed=1, parameters={"a": 1})).load(CPU) is None
    assert checkpoints(tmp_path, made_by=fingerprint(parameters={"a": 1}, seed=0)).load(CPU) is not None


def test_slices_keep_theirs_apart(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path, 1), 5)
    keep(checkpoints(tmp_path, 11), 7)
    assert (checkpoints(tmp_path, 1).load(CPU) or {})["step"] == 5
    checkpoints(tmp_path, 1).clear()
    assert checkpoints(tmp_path, 1).load(CPU) is None
    assert (checkpoints(tmp_path, 11).load(CPU) or {})["step"] == 7


def test_whoever_lost_the_lease_keeps_nothing(tmp_path: Path) -> None:
    keep(checkpoints(tmp_path, may_write=False), 1)
    assert list(tmp_path.iterdir()) == []

"""The bar that `progress=True` shows, with rich and without."""

import io
import sys

import pytest

from udig_client.progress import Progress, bar, listener


@pytest.fixture(params=["rich", "plain"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "rich", None)
    return io.StringIO()


def test_each_stage_is_told_to_its_end(stream: io.StringIO) -> None:
    with bar(stream) as tell:
        for stage, total in (("upload", 100), ("reconstruct", 2)):
            for done in (0, total / 2, total, total):
                tell(Progress(stage, done, total, "scan.h5"))
    lines = stream.getvalue().splitlines()
    for stage in ("upload", "reconstruct"):
        assert len([line for line in lines if line.startswith(stage) and "100" in line]) == 1
    assert len(lines) <= 4


def test_nothing_is_written_where_nothing_is_told(stream: io.StringIO) -> None:
    with bar(stream):
        pass
    assert stream.getvalue() == ""


def test_a_function_is_told_and_nobody_is_by_default() -> None:
    told: list[Progress] = []
    with listener(told.append) as tell:
        tell(Progress("upload", 1, 4))
    assert [each.fraction for each in told] == [0.25]
    for nobody in (None, False):
        with listener(nobody) as tell:
            tell(Progress("upload", 1))

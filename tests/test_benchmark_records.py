"""Records of benchmarks: the generated pages are up to date, and a run is recorded as it was printed."""

from pathlib import Path

import pytest

from benchmarks import record, report
from benchmarks.record import Record, Table, tables_in

PRINTED = """before

| method | dB | s | gain |
|---|---|---|---|
| `tv` | 37.10 | 3 | +1.5 |
| a\\|b | | 12 | -0.2 |

| only | one |
|---|---|
| 1 | 2 |
"""


def test_the_generated_pages_are_up_to_date() -> None:
    assert report.main(["--check"]) == 0


def test_every_headline_names_a_cell_that_exists() -> None:
    for found in report.records().values():
        for headline in found.headlines:
            assert "{" not in found.resolve(headline.value)


def test_printed_tables_are_rendered_again_with_the_same_cells() -> None:
    first, second = tables_in(PRINTED)
    assert list(first.shown()) == [["`tv`", "37.10", "3", "+1.5"], ["a|b", "", "12", "-0.2"]]
    assert first.rows[0] == ["`tv`", 37.1, 3, "+1.5"]
    assert tables_in(report.markdown(first)) == [first]
    assert second.rows == [[1, 2]]


def test_a_cell_is_found_by_its_row_and_column() -> None:
    table = Table(columns=["scan", "preset", "s"], digits=[None, None, 1], rows=[["MRI", "a", 1.0], ["MRI", "b", 2.0]])
    assert table.cell("MRI / b", "s") == "2.0"
    with pytest.raises(KeyError, match="no row 'CT'"):
        table.cell("CT", "s")


def test_a_run_is_recorded_with_its_command_and_keeps_title_and_headlines(tmp_path: Path) -> None:
    printed = tmp_path / "printed.md"
    printed.write_text(PRINTED)
    command = ["cat", str(printed)]
    assert record.main(["speed-toy", *command], tmp_path) == 0
    path = tmp_path / "speed-toy.json"
    first = record.read(path)
    assert (first.kind, first.title, first.tables) == ("speed", "speed-toy", tables_in(PRINTED))
    assert first.command == " ".join(command)
    assert first.commit
    assert first.date
    assert first.machine
    titled = Record(**{**vars(first), "title": "Toy", "headlines": [record.Headline("gain", "{0|`tv`|gain} dB")]})
    record.write(path, titled)
    assert record.read(path) == titled
    assert record.main(["speed-toy", *command], tmp_path) == 0
    again = record.read(path)
    assert (again.title, again.resolve(again.headlines[0].value)) == ("Toy", "+1.5 dB")


def test_a_failed_run_and_a_name_without_a_kind_are_not_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record.main(["speed-toy", "false"], tmp_path) == 1
    with pytest.raises(SystemExit):
        record.main(["toy", "true"], tmp_path)
    assert "expected a name that begins with one of accuracy, speed, load, reliability" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Record of a benchmark run: its tables as JSON, with command, machine, commit and date.

`python -m benchmarks.record NAME COMMAND...` runs a benchmark and writes the Markdown tables that it prints into
`benchmarks/results/NAME.json`, for example `python -m benchmarks.record speed-presets python -m
benchmarks.speed.presets`. Title, notes and headlines of an earlier record stay. `python -m benchmarks.report` renders
all records.
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"

Kind = Literal["accuracy", "speed", "load", "reliability"]
KINDS: tuple[Kind, ...] = ("accuracy", "speed", "load", "reliability")
Cell = float | int | str | None
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Table:
    """A table of a record. The numbers of a column are shown with its number of decimal digits; None: as they are."""

    columns: Sequence[str]
    digits: Sequence[int | None]
    rows: Sequence[Sequence[Cell]]
    title: str = ""

    def shown(self) -> Iterator[list[str]]:
        """The rows as text."""
        for row in self.rows:
            yield [_text(cell, digits) for cell, digits in zip(row, self.digits, strict=True)]

    def selected(self, columns: Sequence[str]) -> "Table":
        """The table with these columns only. Raises ValueError for one that there is not."""
        positions = [list(self.columns).index(name) for name in columns]
        rows = [[row[position] for position in positions] for row in self.rows]
        return Table(columns=columns, digits=[self.digits[position] for position in positions], rows=rows)

    def cell(self, row: str, column: str) -> str:
        """The text of a cell. A row is named by its first cells, joined by " / ". Raises KeyError."""
        position = list(self.columns).index(column)
        for cells in self.shown():
            if any(" / ".join(cells[:count]) == row for count in range(1, len(cells))):
                return cells[position]
        raise KeyError(f"no row {row!r} in a table with the columns {', '.join(self.columns)}")


@dataclass(frozen=True)
class Headline:
    """A line of the one-page summary; `{TABLE|ROW|COLUMN}` in `value` stands for the text of a cell."""

    label: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What `NAME.json` holds. Unknown facts of old records are None."""

    title: str
    kind: Kind
    measures: str  # what is measured, against what
    command: str | None
    commit: str | None
    machine: str
    date: str | None
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    headlines: Sequence[Headline] = ()
    headline_table: int | None = None  # number of a table that the summary shows
    headline_columns: Sequence[str] = ()  # its columns that the summary shows; none: all

    def resolve(self, value: str) -> str:
        """A headline's value with its cells filled in. Raises KeyError or ValueError for a cell that there is not."""

        def cell(match: re.Match[str]) -> str:
            table, row, column = match[1].split("|")
            return self.tables[int(table)].cell(row, column)

        return re.sub(r"\{([^{}]+)\}", cell, value)


def read(path: Path) -> Record:
    """The record in a file."""
    content = json.loads(path.read_text())
    content["tables"] = [Table(**each) for each in content["tables"]]
    content["headlines"] = [Headline(**each) for each in content.get("headlines", [])]
    return Record(**content)


def write(path: Path, record: Record) -> None:
    """Write a record: one row of a table a line."""
    content = asdict(record)
    tables = content.pop("tables")
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in content.items()]
    rendered = []
    for table in tables:
        rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in table["rows"])
        head = ", ".join(f'"{name}": {json.dumps(table[name], ensure_ascii=False)}' for name in ("title", "columns"))
        rendered.append(f'  {{{head}, "digits": {json.dumps(table["digits"])}, "rows": [\n{rows}\n  ]}}')
    lines.append(' "tables": [\n' + ",\n".join(rendered) + "\n ]")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def tables_in(markdown: str) -> list[Table]:
    """The tables of a Markdown text, in order."""
    blocks: list[list[list[str]]] = []
    previous = ""
    for line in markdown.splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                blocks.append([])
            blocks[-1].append([cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        previous = line
    return [_table(head, rows) for head, _, *rows in blocks]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Columns whose numbers all have the same number of digits become numbers; the others stay text."""
    digits: list[int | None] = []
    columns: list[list[Cell]] = []
    for texts in zip(*rows, strict=True):
        numbers = [text for text in texts if text]
        lengths = {len(text.partition(".")[2]) for text in numbers if _NUMBER.fullmatch(text)}
        numeric = bool(numbers) and all(_NUMBER.fullmatch(text) and text[0] != "+" for text in numbers)
        if numeric and len(lengths) == 1:
            digits.append(lengths.pop())
            columns.append([None if not text else float(text) if digits[-1] else int(text) for text in texts])
        else:
            digits.append(None)
            columns.append([text or None for text in texts])
    return Table(columns=list(head), digits=digits, rows=[list(row) for row in zip(*columns, strict=True)])


def _text(cell: Cell, digits: int | None) -> str:
    if cell is None:
        return ""
    if digits is None or isinstance(cell, str):
        return str(cell)
    return f"{cell:.{digits}f}"


def machine() -> str:
    """Processor, cores, memory and system of this machine, the GPU where torch finds one, and the versions."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.M) if info.exists() else []
    facts = [f"{os.cpu_count()} cores of {names[0] if names else platform.processor() or platform.machine()}"]
    if hasattr(os, "sysconf"):
        facts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB")
    import torch

    if torch.cuda.is_available():
        facts.append(torch.cuda.get_device_name())
    return ", ".join([*facts, platform.system(), f"Python {platform.python_version()}", f"torch {torch.__version__}"])


def main(arguments: Sequence[str] | None = None, results: Path = RESULTS) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the file in benchmarks/results, as speed-presets: it begins with its kind")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    kind = options.name.partition("-")[0]
    if kind not in KINDS:
        parser.error(f"{options.name}: expected a name that begins with one of {', '.join(KINDS)}")
    ended = subprocess.run(options.command, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(ended.stdout)
    if ended.returncode:
        return ended.returncode
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    path = results / f"{options.name}.json"
    kept: dict[str, Any] = {"title": options.name, "measures": "", "kind": kind}
    measured = tables_in(ended.stdout)
    if path.exists():
        old = read(path)
        kept = {each.name: getattr(old, each.name) for each in fields(old)}
        for number, table in enumerate(old.tables[: len(measured)]):
            measured[number] = Table(**{**vars(measured[number]), "title": table.title})
    facts = {"command": shlex.join(options.command), "commit": commit.strip(), "date": date.today().isoformat()}
    write(path, Record(**{**kept, **facts, "machine": machine(), "tables": measured}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
